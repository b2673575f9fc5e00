import { type BlobReader, HOLD_BACK_BYTES, type LentBytes } from '../../lib/blob-reader.ts';
import { hasBytes } from '../../lib/bytes-reader.ts';
import { Changes } from '../../lib/changes.ts';
import type { Digest } from '../../oci/digest.ts';
import { lendPiece } from '../../lib/paged-body.ts';
import { OciError } from '../../oci/errors.ts';
import { FillReader } from './fill-reader.ts';

/** Where downloaded bytes are read: an ingest of this process or of another one, or a stored blob. */
export interface FillSource {
  read(buffer: Uint8Array, position: number): Promise<number>;
  close(): Promise<void>;
}

/** How much is compared at a time of two sources of the same blob. */
const COMPARED_BYTES = 64 * 1024;

/**
 * One download in progress, as its readers see it: a growing number of bytes that are finally verified, or fail for all
 * readers alike. It knows nothing of networks and stores; whoever downloads the bytes calls `begin`, `grow`, then
 * `verify` or `fail`, and finally `end`.
 *
 *     queued ──begin──▶ filling ──verify──▶ verified
 *        └──────fail───────┴───▶ failed
 *
 * It continues without readers.
 */
export class Fill {
  readonly digest: Digest;
  /** Told at each change of state, size or length. */
  readonly changes = new Changes();
  #state: 'queued' | 'filling' | 'verified' | 'failed' = 'queued';
  #size: number | undefined;
  #length = 0;
  #begun: { readonly length: number; readonly atMs: number } | undefined;
  #copied = 0;
  #failure: unknown;
  readonly #sources: FillSource[] = [];
  /** The bytes that came last, and where. */
  #latest: { readonly start: number; readonly lent: LentBytes } | undefined;
  /** What readers may have had of the bytes behind `length`, which could not be written. */
  #unwritten: Uint8Array | undefined;
  #readers = 0;
  #keepers = 0;
  #waits = 0;
  #waiting = 0;
  #ended = false;

  constructor(digest: Digest) {
    this.digest = digest;
  }

  get state(): 'queued' | 'filling' | 'verified' | 'failed' {
    return this.#state;
  }

  /** The final size in bytes, once known. */
  get size(): number | undefined {
    return this.#size;
  }

  /** Downloaded bytes, verified or not. */
  get length(): number {
    return this.#length;
  }

  /** How many bytes can be read although it has failed: with those that readers had before they could be written. */
  get kept(): number {
    return this.#length + (this.#unwritten?.byteLength ?? 0);
  }

  /** Bytes that readers may receive. */
  get readable(): number {
    return this.#readableOf(this.#length);
  }

  /** The same with those that are only in memory so far, where `lend` finds them. */
  get lendable(): number {
    const { start, lent } = this.#latest ?? { start: 0, lent: undefined };
    return this.#readableOf(Math.max(this.#length, start + (lent?.bytes.byteLength ?? 0)));
  }

  /** How many bytes a second were downloaded since it began, as the average; 0 before. */
  get bytesPerSecond(): number {
    if (this.#begun === undefined) return 0;
    const bytes = Math.max(0, this.#length - this.#begun.length - this.#copied);
    return (bytes * 1000) / Math.max(1, performance.now() - this.#begun.atMs);
  }

  /** The reason for which it failed, if it did. */
  get failure(): unknown {
    return this.#failure;
  }

  get readers(): number {
    return this.#readers;
  }

  /** How often a reader had to wait for bytes. */
  get waits(): number {
    return this.#waits;
  }

  /** Whether a reader is waiting for bytes. */
  get isAwaited(): boolean {
    return this.#waiting > 0;
  }

  /** A reader has to wait for bytes, until the returned function is called, once. */
  beginWait(): () => void {
    this.#waits += 1;
    this.#waiting += 1;
    return () => {
      this.#waiting -= 1;
    };
  }

  get hasReaders(): boolean {
    return this.#readers > 0;
  }

  /**
   * From now on the bytes are read from `source`, which has `length` of them. The Fill closes it after its last reader.
   */
  begin(source: FillSource, length: number): void {
    this.#dropLatest();
    this.#sources.unshift(source);
    this.#length = length;
    this.#begun = { length, atMs: performance.now() };
    this.#copied = 0;
    if (this.#state === 'queued') this.#state = 'filling';
    this.changes.tell();
  }

  learnSize(size: number): void {
    this.#size = size;
    this.changes.tell();
  }

  grow(length: number): void {
    this.#length = length;
    this.changes.tell();
  }

  /** As `grow`, by `bytes`, which readers that are there get from memory if they are a piece of a body. */
  growBy(bytes: Uint8Array): void {
    this.#keepLatest(bytes);
    this.grow(this.#length + bytes.byteLength);
  }

  /**
   * Lets readers that are there have `bytes` from memory, if they are a piece of a body, while they are being written. Call
   * `grow` when they are. If they cannot be written, the Fill has to fail: its readers may have received them.
   */
  growSoonBy(bytes: Uint8Array): void {
    this.#keepLatest(bytes);
    this.changes.tell();
  }

  /** So many of the bytes by which it grows need no download. */
  noteCopied(bytes: number): void {
    this.#copied += bytes;
  }

  /** Size and digest are right: everything may be read. */
  verify(): void {
    this.#size = this.#length;
    this.#state = 'verified';
    this.changes.tell();
  }

  /** All readers, current and later, get `failure`. No effect if it is verified or has failed before. */
  fail(failure: unknown): void {
    if (this.#state === 'verified' || this.#state === 'failed') return;
    const unwritten = this.lend(this.#length);
    this.#unwritten = unwritten && new Uint8Array(unwritten.bytes);
    unwritten?.giveBack();
    this.#failure = failure;
    this.#state = 'failed';
    this.#dropLatest();
    this.changes.tell();
  }

  /** No more bytes or readers will come: the sources are closed after the last reader. */
  end(): void {
    this.#ended = true;
    this.#dropLatest();
    this.#closeUnread();
  }

  /**
   * Keeps the bytes readable until `open`, or until the returned function is called, which may happen more than once.
   */
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

  /** Keeps the bytes readable for another replica, which is not a reader, until the returned function is called. */
  keepOpen(): () => void {
    this.#keepers++;
    let isKept = true;
    return () => {
      if (!isKept) return;
      isKept = false;
      this.#keepers--;
      this.#closeUnread();
    };
  }

  /**
   * Opens a reader, which takes over `leave` from `hold`. It returns nothing before `admission` resolves. If the blob
   * turns out not to have `size` bytes, this reader fails, not the Fill. If the Fill fails because the disk is full,
   * the reader continues with the result of `direct`.
   */
  open(size: number, admission: Promise<void>, leave: () => void, direct: () => BlobReader): FillReader {
    return new FillReader(this, size, { admission, leave, direct });
  }

  /**
   * Resolves with the first result of `look` other than `undefined`. Rejects if `look` throws, if the Fill fails first,
   * or if `signal` aborts.
   */
  until<T>(look: () => T | undefined, signal?: AbortSignal): Promise<T> {
    return this.changes.until(() => {
      const found = look();
      if (found === undefined && this.#state === 'failed') throw this.#failure;
      return found;
    }, signal);
  }

  /** For readers, which only ask for what is `readable`. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#unwritten !== undefined && position >= this.#length) {
      const rest = this.#unwritten.subarray(position - this.#length).subarray(0, buffer.byteLength);
      buffer.set(rest);
      return rest.byteLength;
    }
    const [source] = this.#sources;
    if (source === undefined) throw new Error('internal error: a fill without content was read');
    const count = await source.read(buffer, position);
    // The writer, in this or another process, truncates bytes that are wrong, and reports it a moment later.
    if (count === 0) throw wrongBytes(this.digest);
    return count;
  }

  /** The `lendable` bytes from `position` on, if they have just come. */
  lend(position: number): LentBytes | undefined {
    if (this.#latest === undefined) return undefined;
    const { start, lent } = this.#latest;
    const bytes = lent.bytes.subarray(Math.max(0, position - start), Math.max(0, this.lendable - start));
    return position >= start && bytes.byteLength > 0 ? lendPiece(bytes) : undefined;
  }

  /** Whether `source` begins with the bytes that readers may have received. */
  async agreesWith(source: Pick<FillSource, 'read'>, signal: AbortSignal): Promise<boolean> {
    const bytes = this.readable;
    const ours = new Uint8Array(COMPARED_BYTES);
    for (let position = 0; position < bytes; ) {
      signal.throwIfAborted();
      const count = await this.read(ours.subarray(0, bytes - position), position);
      if (!(await hasBytes(source, ours.subarray(0, count), position))) return false;
      position += count;
    }
    return true;
  }

  #readableOf(length: number): number {
    if (this.#state === 'verified') return length;
    return this.#size === undefined ? 0 : Math.max(0, Math.min(length, this.#size - HOLD_BACK_BYTES));
  }

  /** The bytes that come next. */
  #keepLatest(bytes: Uint8Array): void {
    this.#dropLatest();
    const lent = lendPiece(bytes);
    this.#latest = lent && { start: this.#length, lent };
  }

  #dropLatest(): void {
    this.#latest?.lent.giveBack();
    this.#latest = undefined;
  }

  #closeUnread(): void {
    if (this.#readers + this.#keepers > 0 || !this.#ended) return;
    for (const source of this.#sources.splice(0)) {
      // An error on closing a file that was only read does no harm.
      source.close().catch(() => {});
    }
  }
}

/** The error for a blob whose bytes do not have the requested digest. */
export function wrongBytes(digest: Digest, cause?: unknown): OciError {
  return new OciError('UPSTREAM_INVALID', {
    message: 'the content from upstream does not match the requested digest',
    detail: { digest },
    cause,
  });
}
