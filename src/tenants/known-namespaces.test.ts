import { expect, it } from 'vitest';
import { KnownNamespaces } from './known-namespaces.ts';
import type { TenantReading } from './secret-source.ts';

it('knows the tenants that were bound to namespaces, without Secrets, and ignores those of the command line', async () => {
  const known = [
    { name: 'bound', uid: 'u-1' },
    { name: 'about-to-be-adopted', uid: '' },
    { name: 'added', uid: undefined },
  ];
  const put = new Map<string, TenantReading>();
  const source = new KnownNamespaces(() => Promise.resolve(known));
  await source.start({ put: (name, reading) => void put.set(name, reading), remove: () => {} });
  expect([...put]).toEqual([
    ['bound', { secrets: [], uid: 'u-1' }],
    ['about-to-be-adopted', { secrets: [] }],
  ]);
});
