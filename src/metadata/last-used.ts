import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../lib/log.ts';
import type { Digest } from '../oci/digest.ts';
import { IndexAway } from './index-away.ts';

/** Chosen at random within these bounds each time, so that processes do not write in step. */
const MIN_FLUSH_MS = 5_000;
const MAX_FLUSH_MS = 10_000;

/** Between two transactions, for requests that want to write. */
const PAUSE_MS = 20;

/** Eviction compares hours: content used within the last minute is not written again. */
const RESOLUTION_MS = 60_000;
/** Callers of `put` rely on the grace period of garbage collection, which may be shorter than that. */
const RELIED_RESOLUTION_MS = 1_000;

/** About a megabyte. Further uses are not recorded, which makes content look older by one interval. */
const MAX_NOTED = 10_000;

/** That content with this digest was used. */
export type Use = readonly [digest: Digest, atMs: number];

export interface LastUsedOptions {
  /** Writes uses in one transaction, but none of content of which one was recorded less than `resolutionMs` before. */
  readonly write: (uses: readonly Use[], resolutionMs: number) => Promise<void>;
  /** How many at a time. */
  readonly maxUsesPerWrite: number;
  readonly log: Log;
}

/** Collects in memory when content was used, and writes it now and then. */
export class LastUsed {
  readonly #write: LastUsedOptions['write'];
  readonly #maxUsesPerWrite: number;
  readonly #log: Log;
  readonly #noted = new Map<Digest, number>();
  #timer: NodeJS.Timeout | undefined;
  /** Resolves when every flush that was asked for has ended. */
  #flushing = Promise.resolve();
  #isClosing = false;

  constructor({ write, maxUsesPerWrite, log }: LastUsedOptions) {
    this.#write = write;
    this.#maxUsesPerWrite = maxUsesPerWrite;
    this.#log = log;
  }

  note(digest: Digest, atMs: number = Date.now()): void {
    if (this.#noted.size < MAX_NOTED || this.#noted.has(digest)) {
      this.#noted.set(digest, atMs);
    }
    this.#schedule();
  }

  /** Writes a use at once, unless one was written a moment ago. If it cannot be written, it is noted. */
  async put(digest: Digest): Promise<void> {
    const atMs = Date.now();
    this.note(digest, atMs);
    try {
      await this.#write([[digest, atMs]], RELIED_RESOLUTION_MS);
      this.#forget(digest, atMs);
    } catch {
      // It is noted.
    }
  }

  /** Writes all uses that were noted until now, also those that another call is writing. */
  async flush(): Promise<void> {
    this.#flushing = this.#flushing.then(() => this.#flush());
    await this.#flushing;
  }

  /** Whether a use of this content is not written yet. */
  isNoted(digest: Digest): boolean {
    return this.#noted.has(digest);
  }

  /** Writes what is left. */
  async close(): Promise<void> {
    clearTimeout(this.#timer);
    this.#isClosing = true;
    await this.flush();
  }

  #schedule(): void {
    this.#timer ??= setTimeout(
      () => void this.#flushBehind(),
      MIN_FLUSH_MS + Math.random() * (MAX_FLUSH_MS - MIN_FLUSH_MS),
    ).unref();
  }

  async #flushBehind(): Promise<void> {
    await this.flush();
    this.#timer = undefined;
    // Uses that came meanwhile.
    if (this.#noted.size > 0 && !this.#isClosing) this.#schedule();
  }

  /**
   * A failure only loses precision, so it is logged and not thrown: what is noted keeps this process from removing content,
   * which is how a full disk gets room. While an index is away, nobody removes anything, and uses are written later.
   */
  async #flush(): Promise<void> {
    const noted = [...this.#noted];
    try {
      for (let at = 0; at < noted.length; at += this.#maxUsesPerWrite) {
        if (at > 0 && !this.#isClosing) await delay(PAUSE_MS);
        const rows = noted.slice(at, at + this.#maxUsesPerWrite);
        await this.#write(rows, RESOLUTION_MS);
        for (const [digest, atMs] of rows) this.#forget(digest, atMs);
      }
    } catch (error) {
      if (error instanceof IndexAway) return;
      this.#log.warn({ err: error }, 'times of last use could not be written');
      for (const [digest, atMs] of noted) this.#forget(digest, atMs);
    }
  }

  /** Call when a use was written, or cannot be: a later one stays. */
  #forget(digest: Digest, atMs: number): void {
    if (this.#noted.get(digest) === atMs) this.#noted.delete(digest);
  }
}
