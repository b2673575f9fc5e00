import { setTimeout as sleep } from 'node:timers/promises';
import { CLOCK_SLACK_MS } from '../lib/clock.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { everything } from '../metadata/survey.ts';
import { inSteps } from './steps.ts';
import type { Stores } from './stores.ts';

/** Just after a boot the clock may be wrong in the other direction; a right clock is still right after this time. */
const SETTLED_AFTER_MS = 600_000;
/** The setting that records since when uses in the future have been seen, by the clock that sees them. */
const USES_SINCE = 'future-uses-since';
/** The same for Links. */
const LINKS_SINCE = 'future-links-since';
/** As between other steps of upkeep. */
const PAUSE_MS = 20;

/**
 * A clock that was ahead and was corrected leaves content with uses in the future, which could not be evicted or
 * collected until then. If such uses have been seen for ten minutes, they are set to now: the content is protected like
 * any other from then on.
 */
export async function settleUses(
  metadata: MetadataStore,
  signal: AbortSignal | undefined,
  nowMs: number = Date.now(),
): Promise<void> {
  const laterThanMs = nowMs + CLOCK_SLACK_MS;
  const areSeen = await metadata.hasLaterUses(laterThanMs);
  if (!(await haveLasted(metadata, USES_SINCE, { areSeen, nowMs }))) return;
  while ((await metadata.lowerUses(laterThanMs, nowMs)) > 0) {
    signal?.throwIfAborted();
    await sleep(PAUSE_MS);
  }
}

/**
 * The same for Links, which eviction does not consider. No index finds them by time, so the survey's thread reads all.
 */
export async function settleLinks(
  { metadata, survey, rows }: Stores,
  signal: AbortSignal | undefined,
  nowMs: number = Date.now(),
): Promise<void> {
  const later = () => everything(after => survey.laterLinks(nowMs + CLOCK_SLACK_MS, after));
  const areSeen = await isAnyIn(later());
  if (!(await haveLasted(metadata, LINKS_SINCE, { areSeen, nowMs }))) return;
  for await (const links of later()) {
    await inSteps(links, signal, step => rows.lowerLinks(step, nowMs));
  }
}

async function isAnyIn(pages: AsyncIterable<readonly unknown[]>): Promise<boolean> {
  for await (const page of pages) if (page.length > 0) return true;
  return false;
}

/** Whether they are seen, and have been for long enough. Since when is recorded in `setting`. */
async function haveLasted(
  metadata: MetadataStore,
  setting: string,
  { areSeen, nowMs }: { readonly areSeen: boolean; readonly nowMs: number },
): Promise<boolean> {
  const since = Number((await metadata.readSetting(setting)) ?? 0);
  if (!areSeen) {
    if (since > 0) await metadata.putSetting(setting, '0');
    return false;
  }
  if (since === 0 || since > nowMs + CLOCK_SLACK_MS) {
    await metadata.putSetting(setting, String(nowMs));
    return false;
  }
  return nowMs - since >= SETTLED_AFTER_MS;
}
