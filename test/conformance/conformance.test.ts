// The OCI distribution-spec as a table of requirements, read from its text, held against the running product.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Entrepot } from '../support/entrepot.ts';
import { DISCOVERY } from './discovery.ts';
import { expectNothingDeletable, MANAGEMENT } from './management.ts';
import { PULL } from './pull.ts';
import { PUSH_BLOBS } from './push-blobs.ts';
import { PUSH_MANIFESTS } from './push-manifests.ts';
import { Registry } from './registry.ts';
import type { Requirement } from './requirement.ts';

const PREFIX = 'conformance';

const WORKFLOWS: Readonly<Record<string, readonly Requirement[]>> = {
  Pull: PULL,
  'Push: blobs': PUSH_BLOBS,
  'Push: manifests': PUSH_MANIFESTS,
  'Content discovery': DISCOVERY,
  'Content management': MANAGEMENT,
};

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

  for (const [workflow, requirements] of Object.entries(WORKFLOWS)) {
    describe(`workflow: ${workflow}`, () => {
      for (const { id, level, section, text, check } of requirements) {
        it(`${id} (${level}, "${section}"): ${text}`, async () => {
          await expect(check(registry).then(() => 'kept')).resolves.toBe('kept');
        });
      }
    });
  }

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
