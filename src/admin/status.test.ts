import { expect, it } from 'vitest';
import type { SecretState } from '../tenants/tenant.ts';
import { secretStatus } from './status.ts';

function secret(name: string, more: Partial<SecretState> = {}): SecretState {
  return { name, source: 'file', state: 'loaded', ...more };
}

/** Which of these Secrets are listed. */
function listed(secrets: readonly SecretState[]): readonly string[] {
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- nothing else is asked of them
  const tenants = { node: [], list: () => [{ name: 'team-a', secrets }] } as unknown as Parameters<
    typeof secretStatus
  >[0]['tenants'];
  return secretStatus({ tenants }).map(status => status.secret);
}

it('a Secret is listed while upstream refuses it, not because of a repository that it may not read', () => {
  const secrets = [
    secret('new'),
    secret('used', { lastUsedAtMs: 2 }),
    secret('once refused', { lastRefusedAtMs: 1, lastUsedAtMs: 2 }),
    secret('refused', { lastRefusedAtMs: 2, lastUsedAtMs: 1 }),
    secret('never accepted', { lastRefusedAtMs: 1 }),
    secret('malformed', { state: 'malformed', reason: 'it has no name', lastUsedAtMs: 2 }),
  ];
  expect(listed(secrets)).toEqual(['refused', 'never accepted', 'malformed']);
});
