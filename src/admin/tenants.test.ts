import { expect, it } from 'vitest';
import { tenantsQuery } from './documents/tenants.ts';
import { tenantsPage } from './tenants.ts';

const names = [...Array.from({ length: 1_000 }, (_, at) => `a-team-${String(at).padStart(4, '0')}`), 'team'];
const askedFor: (readonly string[])[] = [];
const parts = {
  tenants: {
    list: () => names.map(name => ({ name, secrets: [], options: {} })),
    lastUsedAtMs: () => undefined,
    problems: [],
    passedOver: [],
    node: [],
    refused: [],
  },
  metadata: {
    listIssuedCredentials: async (tenants: readonly string[]) => {
      askedFor.push(tenants);
      return [];
    },
  },
  quota: { usedBytes: async () => new Map() },
};

async function read(query: object) {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- nothing else is asked of them
  return tenantsPage(parts as unknown as Parameters<typeof tenantsPage>[0], tenantsQuery.parse(query));
}

it('a page has the tenants that are found, and asks for the logins of no other', async () => {
  const { entries, next } = await read({ q: 'TEAM', limit: 50 });
  expect(entries.map(({ name }) => name)).toEqual(names.slice(0, 50));
  expect(askedFor.at(-1)).toEqual(names.slice(0, 50));
  const second = await read({ q: 'TEAM', limit: 50, after: next });
  expect(second.entries[0]?.name).toBe(names[50]);
});

it('one tenant is found by its name, however many names contain it', async () => {
  const { entries, next } = await read({ name: 'team' });
  expect([entries.map(({ name }) => name), next]).toEqual([['team'], null]);
  expect((await read({ name: 'tea' })).entries).toEqual([]);
});
