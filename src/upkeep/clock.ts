import { setTimeout as sleep } from 'node:timers/promises';
import type { MetadataStore } from '../metadata/metadata-store.ts';

/** Processes of one machine share a clock, and one that is kept right goes back by less. */
const SLACK_MS = 60_000;
/** Just after a boot the clock may be wrong the other way: a right one is still right after so long. */
const SETTLED_AFTER_MS = 600_000;
/** Since when uses in the future have been seen, by the clock that sees them. */
const SEEN_SINCE = 'future-uses-since';
/** As between other steps of upkeep. */
const PAUSE_MS = 20;

/**
 * A clock that was ahead and has been corrected leaves content that was last used in the future, which nothing could evict
 * or collect until then. Once such uses have been seen for ten minutes they become uses of now: the content is
 * protected from now on like any other, and no longer.
 */
export async function settleUses(
  metadata: MetadataStore,
  signal: AbortSignal | undefined,
  nowMs: number = Date.now(),
): Promise<void> {
  const laterThanMs = nowMs + SLACK_MS;
  const since = Number((await metadata.readSetting(SEEN_SINCE)) ?? 0);
  if (!(await metadata.hasLaterUses(laterThanMs))) {
    if (since > 0) await metadata.putSetting(SEEN_SINCE, '0');
    return;
  }
  if (since === 0 || since > laterThanMs) {
    await metadata.putSetting(SEEN_SINCE, String(nowMs));
    return;
  }
  if (nowMs - since < SETTLED_AFTER_MS) return;
  while ((await metadata.lowerUses(laterThanMs, nowMs)) > 0) {
    signal?.throwIfAborted();
    await sleep(PAUSE_MS);
  }
}
