// The OCI distribution-spec as tests for a running registry.
import { describe, expect, it } from 'vitest';
import { DISCOVERY } from './discovery.ts';
import { MANAGEMENT } from './management.ts';
import { PULL } from './pull.ts';
import { PUSH_BLOBS } from './push-blobs.ts';
import { PUSH_MANIFESTS } from './push-manifests.ts';
import type { Registry } from './registry.ts';
import type { Requirement } from './requirement.ts';

export const WORKFLOWS: Readonly<Record<string, readonly Requirement[]>> = {
  Pull: PULL,
  'Push: blobs': PUSH_BLOBS,
  'Push: manifests': PUSH_MANIFESTS,
  'Content discovery': DISCOVERY,
  'Content management': MANAGEMENT,
};

/** One test for each requirement, of the registry that is there by then. */
export function requirementsOf(registry: () => Registry): void {
  for (const [workflow, requirements] of Object.entries(WORKFLOWS)) {
    describe(`workflow: ${workflow}`, () => {
      for (const { id, level, section, text, check } of requirements) {
        it(`${id} (${level}, "${section}"): ${text}`, async () => {
          await expect(check(registry()).then(() => 'kept')).resolves.toBe('kept');
        });
      }
    });
  }
}
