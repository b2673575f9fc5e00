import { setTimeout as delay } from 'node:timers/promises';
import type { CronSchedule } from '../lib/cron.ts';
import { KeyedBackoff } from '../lib/keyed-backoff.ts';
import { IMAGE_PULL_BACKOFF } from '../oci/pull-policy.ts';

/** Timers of Node hold no more than 24.8 days; an hour also bears a clock that is set. */
const MAX_SLEEP_MS = 3_600_000;

export interface WatchOptions<Image extends { readonly name: string }> {
  readonly schedule: CronSchedule;
  /** Read anew for each round, since files change. A rejection is told to `failed`, and the next round tries again. */
  readonly images: () => Promise<readonly Image[]>;
  /** Pulls them and returns those that failed. */
  readonly pull: (images: readonly Image[]) => Promise<readonly Image[]>;
  readonly failed: (error: unknown) => void;
  /** Told after each pull when the next one is: a round at `roundMs`, and before it what failed at `retryMs`. */
  readonly waits: (next: { readonly roundMs: number; readonly retryMs: number | undefined }) => void;
  readonly signal: AbortSignal;
  readonly nowMs?: () => number;
  readonly sleep?: (ms: number, signal: AbortSignal) => Promise<unknown>;
}

/**
 * Pulls all images at once and then at each time of the schedule; one that fails is tried again in between, after waits
 * that grow like those of ImagePullBackOff. Ends by its signal only.
 */
export async function watch<Image extends { readonly name: string }>(
  options: WatchOptions<Image>,
): Promise<never> {
  const { schedule, signal, nowMs = Date.now } = options;
  const sleep = options.sleep ?? ((ms, stop) => delay(ms, undefined, { signal: stop }));
  const backoff = new KeyedBackoff(IMAGE_PULL_BACKOFF);
  for (;;) {
    const nextRoundMs = schedule.nextMs(nowMs());
    let waiting = await round(options, backoff, nowMs);
    let isTold = false;
    while (nowMs() < nextRoundMs) {
      const retryMs = Math.min(...waiting.map(({ name }) => nowMs() + backoff.remainingMs(name, nowMs())));
      const isBefore = retryMs < nextRoundMs;
      if (!isTold) options.waits({ roundMs: nextRoundMs, retryMs: isBefore ? retryMs : undefined });
      isTold = true;
      const sleepMs = Math.min(nextRoundMs - nowMs(), MAX_SLEEP_MS, Math.max(1, retryMs - nowMs()));
      await sleep(sleepMs, signal);
      const due = waiting.filter(({ name }) => backoff.remainingMs(name, nowMs()) === 0);
      if (due.length > 0 && nowMs() < nextRoundMs) {
        const failed = await attempt(options, backoff, nowMs, due);
        waiting = [...waiting.filter(image => !due.includes(image)), ...failed];
        isTold = false;
      }
    }
  }
}

async function round<Image extends { readonly name: string }>(
  options: WatchOptions<Image>,
  backoff: KeyedBackoff,
  nowMs: () => number,
): Promise<readonly Image[]> {
  try {
    return await attempt(options, backoff, nowMs, await options.images());
  } catch (error) {
    options.signal.throwIfAborted();
    options.failed(error);
    return [];
  }
}

async function attempt<Image extends { readonly name: string }>(
  { pull, signal }: WatchOptions<Image>,
  backoff: KeyedBackoff,
  nowMs: () => number,
  images: readonly Image[],
): Promise<readonly Image[]> {
  const failed = await pull(images);
  signal.throwIfAborted();
  for (const image of images) {
    if (failed.includes(image)) backoff.failed(image.name, nowMs());
    else backoff.forget(image.name);
  }
  return failed;
}
