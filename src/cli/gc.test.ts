import { expect, it } from 'vitest';
import { reportText } from './gc.ts';

const nothing = { items: 0, bytes: 0 };
const collected = {
  uploads: nothing,
  unfinished: nothing,
  links: 0,
  manifests: nothing,
  blobs: nothing,
  strays: nothing,
};
const stuck = { ...nothing, heldBytes: 9, stuckAt: 'maxBytes' } as const;

it('says how much is kept only for the grace period, and how to free it', () => {
  const text = reportText({ collected, evicted: stuck }, { dryRun: false, gracedBytes: 24_000_000 });
  expect(text).toContain(
    'the store exceeds storage.maxBytes; 22.9 MiB is kept only for upkeep.gcGracePeriod: ' +
      '`entrepot gc --grace-period 0s` frees it (not during a push)',
  );
  expect(text).not.toContain('and the rest is');
});

it('says that the rest is needed if nothing is kept for the grace period', () => {
  expect(reportText({ collected, evicted: stuck }, { dryRun: false, gracedBytes: 0 })).toContain(
    'the store exceeds storage.maxBytes, and the rest is pinned, hosted, or in use',
  );
});
