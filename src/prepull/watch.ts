import { isDeepStrictEqual } from 'node:util';
import type { Clock } from '../lib/clock.ts';
import type { CronSchedule } from '../lib/cron.ts';
import { KeyedBackoff } from '../lib/keyed-backoff.ts';
import { IMAGE_PULL_BACKOFF } from '../oci/pull-policy.ts';

/** Timers last at most 24.8 days; an hour also bounds the effect of a changed clock. */
const MAX_SLEEP_MS = 3_600_000;

/** The key of the back-off for reading image names, which no image can have. */
const READING = '';

/** The images to pull, as far as they could be read. */
export interface Named<Image> {
  readonly images: readonly Image[];
  /** How many files with image names could not be read or parsed. */
  readonly unread: number;
}

export interface WatchOptions<Image extends { readonly name: string }> {
  /** When a round begins. */
  readonly schedule: CronSchedule;
  readonly clock: Clock;
  /**
   * Called for each round, since files change, and again while some of them cannot be read. A rejection is reported to
   * `failed`.
   */
  readonly named: () => Promise<Named<Image>>;
  /** Pulls the images and returns those that failed. */
  readonly pull: (images: readonly Image[]) => Promise<readonly Image[]>;
  /** Called with an error that ended an attempt; the next one is made nevertheless. */
  readonly failed: (error: unknown) => void;
  /** Called after each attempt with the number of images and files that will be retried. */
  readonly failing?: (count: number) => void;
  /**
   * Called after each attempt with the times of what comes next: a round at `roundMs`, and failures before that at
   * `retryMs`.
   */
  readonly waits: (next: { readonly roundMs: number; readonly retryMs: number | undefined }) => void;
  readonly signal: AbortSignal;
}

/**
 * Pulls all images at once, and then at each time of the schedule. Images that fail, and files that cannot be read, are
 * retried in between, with the delays of ImagePullBackOff. Rejects only when its signal aborts.
 */
export async function watch<Image extends { readonly name: string }>(
  options: WatchOptions<Image>,
): Promise<never> {
  const { schedule, clock, signal } = options;
  const { nowMs } = clock;
  const backoff = new KeyedBackoff(IMAGE_PULL_BACKOFF);
  for (;;) {
    const nextRoundMs = schedule.nextMs(nowMs());
    const round = new Round(options, backoff, nowMs);
    await round.begin();
    let isTold = false;
    while (nowMs() < nextRoundMs) {
      const retryMs = nowMs() + round.remainingMs;
      const isBefore = retryMs < nextRoundMs;
      if (!isTold) options.waits({ roundMs: nextRoundMs, retryMs: isBefore ? retryMs : undefined });
      isTold = true;
      const sleepMs = Math.min(nextRoundMs - nowMs(), MAX_SLEEP_MS, Math.max(1, retryMs - nowMs()));
      await clock.sleep(sleepMs, { signal });
      if (round.remainingMs === 0 && nowMs() < nextRoundMs) {
        await round.retry();
        isTold = false;
      }
    }
  }
}

/** The images of one time of the schedule. */
class Round<Image extends { readonly name: string }> {
  readonly #options: WatchOptions<Image>;
  readonly #backoff: KeyedBackoff;
  readonly #nowMs: () => number;
  /** By name. */
  readonly #named = new Map<string, Image>();
  readonly #failed = new Map<string, Image>();
  #unread = 0;

  constructor(options: WatchOptions<Image>, backoff: KeyedBackoff, nowMs: () => number) {
    this.#options = options;
    this.#backoff = backoff;
    this.#nowMs = nowMs;
  }

  /** The time until something may be retried; Infinity if nothing failed. */
  get remainingMs(): number {
    const keys = [...this.#failed.keys(), ...(this.#unread > 0 ? [READING] : [])];
    return Math.min(...keys.map(key => this.#backoff.remainingMs(key, this.#nowMs())));
  }

  async begin(): Promise<void> {
    await this.#pull(await this.#read());
  }

  /** Retries what is due. */
  async retry(): Promise<void> {
    const mayTry = (key: string) => this.#backoff.remainingMs(key, this.#nowMs()) === 0;
    const isReadAgain = this.#unread > 0 && mayTry(READING);
    const news = isReadAgain ? await this.#read() : [];
    const again = [...this.#failed.values()].filter(({ name }) => mayTry(name));
    await this.#pull([...new Map([...again, ...news].map(image => [image.name, image])).values()]);
  }

  /** The images that are new, or were named differently before. */
  async #read(): Promise<readonly Image[]> {
    const { images, unread } = await this.#readNamed();
    this.#unread = unread;
    this.#note(READING, unread > 0);
    const news = images.filter(image => !isDeepStrictEqual(image, this.#named.get(image.name)));
    for (const image of news) this.#named.set(image.name, image);
    return news;
  }

  async #readNamed(): Promise<Named<Image>> {
    const { named, failed, signal } = this.#options;
    try {
      return await named();
    } catch (error) {
      signal.throwIfAborted();
      failed(error);
      return { images: [], unread: 1 };
    }
  }

  async #pull(images: readonly Image[]): Promise<void> {
    const { pull, failing, signal } = this.#options;
    const failed = images.length === 0 ? [] : await pull(images);
    signal.throwIfAborted();
    for (const image of images) {
      const { name } = image;
      const hasFailed = failed.includes(image);
      this.#note(name, hasFailed);
      if (hasFailed) this.#failed.set(name, image);
      else this.#failed.delete(name);
    }
    failing?.(this.#failed.size + this.#unread);
  }

  #note(key: string, hasFailed: boolean): void {
    if (hasFailed) this.#backoff.failed(key, this.#nowMs());
    else this.#backoff.forget(key);
  }
}
