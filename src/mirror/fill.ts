import type { BlobReader } from '../lib/blob-reader.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { FillReader } from './fill-reader.ts';

/** Where the bytes that are here can be read: an ingest, one that another process writes, or a held blob. */
export interface FillSource {
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}

/**
 * Held back from every reader until size and digest are verified (all of a smaller blob): bytes that turn out wrong
 * are then a complete blob nowhere, and the wait for so few is not felt.
 */
export const HOLD_BACK_BYTES = 64 * 1024;

/**
 * One download in progress, as its readers see it: bytes that grow, then are verified, or fail for all alike.
 * It knows nothing of networks and stores; whoever brings the bytes calls `begin`, `grow`, then `verify` or `fail`,
 * and at last `end`.
 *
 *     queued ──begin──▶ filling ──verify──▶ verified
 *        └──────fail───────┴───▶ failed
 *
 * It outlives its readers: that nobody reads is no reason to stop.
 */
export class Fill {
  readonly digest: Digest;
  #state: 'queued' | 'filling' | 'verified' | 'failed' = 'queued';
  #size: number | undefined;
  #length = 0;
  #failure: unknown;
  readonly #sources: FillSource[] = [];
  #readers = 0;
  #ended = false;
  /** Called at each change; whoever waits looks again, and leaves the set when content. */
  readonly #waiting = new Set<() => void>();

  constructor(digest: Digest) {
    this.digest = digest;
  }

  get state(): 'queued' | 'filling' | 'verified' | 'failed' {
    return this.#state;
  }

  /** Final size in bytes, once upstream or the index said it. */
  get size(): number | undefined {
    return this.#size;
  }

  /** Bytes that are here, verified or not. */
  get length(): number {
    return this.#length;
  }

  /** Bytes that may be handed out. */
  get readable(): number {
    if (this.#state === 'verified') return this.#length;
    return this.#size === undefined ? 0 : Math.max(0, Math.min(this.#length, this.#size - HOLD_BACK_BYTES));
  }

  /** Why it failed, if it did. */
  get failure(): unknown {
    return this.#failure;
  }

  get readers(): number {
    return this.#readers;
  }

  get hasReaders(): boolean {
    return this.#readers > 0;
  }

  /** The bytes are from now on read from `source`, which has `length` of them. The Fill closes it after its last reader. */
  begin(source: FillSource, length: number): void {
    this.#sources.unshift(source);
    this.#length = length;
    if (this.#state === 'queued') this.#state = 'filling';
    this.#changed();
  }

  learnSize(size: number): void {
    this.#size = size;
    this.#changed();
  }

  grow(length: number): void {
    this.#length = length;
    this.#changed();
  }

  /** Size and digest are right: everything may be handed out. */
  verify(): void {
    this.#size = this.#length;
    this.#state = 'verified';
    this.#changed();
  }

  /** Every reader, now and later, gets `failure`. Nothing can fail that is verified, and the first failure counts. */
  fail(failure: unknown): void {
    if (this.#state === 'verified' || this.#state === 'failed') return;
    this.#failure = failure;
    this.#state = 'failed';
    this.#changed();
  }

  /** No more will come and nobody new will join; the sources are closed as soon as nobody reads. */
  end(): void {
    this.#ended = true;
    this.#closeUnread();
  }

  /** Keeps the bytes readable until `open`, or until the returned function is called (again is fine). */
  hold(): () => void {
    this.#readers++;
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.#readers--;
      this.#closeUnread();
    };
  }

  /**
   * A reader that takes over `leave` from `hold`. It gives nothing before `admission` is settled, the right of who
   * opens it. A `size` that turns out another breaks this reader, not the Fill. When a full disk ends the Fill, the
   * reader goes on with what `direct` makes.
   */
  open(size: number, admission: Promise<void>, leave: () => void, direct: () => BlobReader): FillReader {
    return new FillReader(this, size, { admission, leave, direct });
  }

  /**
   * What `look` gives as soon as it gives something. Rejects when it throws, when the Fill fails before, or when
   * `signal` aborts.
   */
  until<T>(look: () => T | undefined, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (conclude: () => void): void => {
        this.#waiting.delete(lookAgain);
        signal?.removeEventListener('abort', lookAgain);
        conclude();
      };
      const lookAgain = (): void => {
        try {
          const found = look();
          if (signal?.aborted) settle(() => reject(signal.reason));
          else if (found !== undefined) settle(() => resolve(found));
          else if (this.#state === 'failed') settle(() => reject(this.#failure));
        } catch (error) {
          settle(() => reject(error));
        }
      };
      this.#waiting.add(lookAgain);
      signal?.addEventListener('abort', lookAgain);
      lookAgain();
    });
  }

  /** For its readers, which know what is `readable`. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    const [source] = this.#sources;
    if (source === undefined) throw new Error('internal error: a fill without content was read');
    const count = await source.read(buffer, position);
    // Whoever writes them, here or in another process, empties what he found to be wrong, and says so a moment later.
    if (count === 0) throw wrongBytes(this.digest);
    return count;
  }

  #closeUnread(): void {
    if (this.#readers > 0 || !this.#ended) return;
    for (const source of this.#sources.splice(0)) {
      // To close what was only read can fail without harm to anybody.
      source.close().catch(() => {});
    }
  }

  #changed(): void {
    for (const lookAgain of this.#waiting) lookAgain();
  }
}

/** What everybody hears whose blob turned out not to be what it was asked for as. */
export function wrongBytes(digest: Digest, cause?: unknown): OciError {
  return new OciError('UPSTREAM_INVALID', {
    message: 'the content from upstream does not match the requested digest',
    detail: { digest },
    cause,
  });
}
