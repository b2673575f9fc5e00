import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../../lib/log.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Blobs } from './blobs.ts';
import type { Manifests } from './manifests.ts';
import type { Writer } from './writer.ts';

/** Chosen at random within these bounds each time, so that processes do not write in step. */
const MIN_FLUSH_MS = 5_000;
const MAX_FLUSH_MS = 10_000;

/** Rows per transaction, and the pause between two: a request that wants to write waits about 3 ms. */
const ROWS_PER_WRITE = 20;
const PAUSE_MS = 20;

/** Eviction compares hours: content used within the last minute is not written again. */
const RESOLUTION_MS = 60_000;
/** Callers of `put` rely on the grace period of garbage collection, which may be shorter than that. */
const RELIED_RESOLUTION_MS = 1_000;

/** About a megabyte. Further uses are not recorded, which makes content look older by one interval. */
const MAX_NOTED = 10_000;

/** Collects in memory when content was used, and writes it now and then. */
export class LastUsed {
  readonly #writer: Writer;
  readonly #manifests: Manifests;
  readonly #blobs: Blobs;
  readonly #log: Log;
  readonly #noted = new Map<Digest, number>();
  #timer: NodeJS.Timeout | undefined;
  /** Resolves when every flush that was asked for has ended. */
  #flushing = Promise.resolve();
  #isClosing = false;

  constructor(writer: Writer, manifests: Manifests, blobs: Blobs, log: Log) {
    this.#writer = writer;
    this.#manifests = manifests;
    this.#blobs = blobs;
    this.#log = log;
  }

  note(digest: Digest, atMs: number = Date.now()): void {
    if (this.#noted.size < MAX_NOTED || this.#noted.has(digest)) {
      this.#noted.set(digest, atMs);
    }
    this.#schedule();
  }

  /** Writes a use at once, unless one was written a moment ago. If the disk is full, it is kept in memory. */
  async put(digest: Digest): Promise<void> {
    const atMs = Date.now();
    this.note(digest, atMs);
    const write = () => this.#write(digest, atMs, RELIED_RESOLUTION_MS);
    try {
      await this.#writer.write(write, { bearsOnPulls: false });
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

  /** A failure only loses precision, so it is logged and not thrown. */
  async #flush(): Promise<void> {
    const noted = [...this.#noted];
    try {
      for (let at = 0; at < noted.length; at += ROWS_PER_WRITE) {
        if (at > 0 && !this.#isClosing) await delay(PAUSE_MS);
        const rows = noted.slice(at, at + ROWS_PER_WRITE);
        const write = () => rows.forEach(([digest, atMs]) => this.#write(digest, atMs));
        await this.#writer.write(write, { bearsOnPulls: false });
        for (const [digest, atMs] of rows) this.#forget(digest, atMs);
      }
    } catch (error) {
      this.#log.warn({ err: error }, 'times of last use could not be written');
      for (const [digest, atMs] of noted) this.#forget(digest, atMs);
    }
  }

  /** Call when a use was written, or cannot be: a later one stays. */
  #forget(digest: Digest, atMs: number): void {
    if (this.#noted.get(digest) === atMs) this.#noted.delete(digest);
  }

  #write(digest: Digest, atMs: number, resolutionMs = RESOLUTION_MS): void {
    this.#manifests.noteUse(digest, atMs, atMs - resolutionMs);
    this.#blobs.noteUse(digest, atMs, atMs - resolutionMs);
  }
}
