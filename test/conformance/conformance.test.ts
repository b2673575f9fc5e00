// The OCI distribution-spec as a table of requirements, read from its text, held against the running product.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Entrepot } from '../support/entrepot.ts';
import { expectNothingDeletable } from './management.ts';
import { Registry } from './registry.ts';
import { requirementsOf, WORKFLOWS } from './workflows.ts';

const PREFIX = 'conformance';

async function startHosting(options: object = {}): Promise<{ entrepot: Entrepot; registry: Registry }> {
  const entrepot = await Entrepot.start({ hosted: { prefixes: [PREFIX], anonymous: 'push', ...options } });
  return { entrepot, registry: new Registry(entrepot.url, PREFIX) };
}

describe('OCI distribution-spec 1.1', () => {
  let entrepot: Entrepot;
  let registry: Registry;
  beforeAll(async () => {
    ({ entrepot, registry } = await startHosting());
  });
  afterAll(() => entrepot.remove());

  requirementsOf(() => registry);

  it('names each requirement once', () => {
    const ids = Object.values(WORKFLOWS).flatMap(requirements => requirements.map(({ id }) => id));
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.length).toBeGreaterThan(60);
  });
});

describe('a registry with deleting disabled', () => {
  it('refuses it everywhere (MUST, "Content Management")', async () => {
    const { entrepot, registry } = await startHosting({ delete: false });
    try {
      await expect(expectNothingDeletable(registry).then(() => 'kept')).resolves.toBe('kept');
    } finally {
      await entrepot.remove();
    }
  });
});
