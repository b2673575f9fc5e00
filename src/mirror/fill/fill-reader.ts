import { isStorageClosed } from '../../blobs/storage-full.ts';
import type { BlobReader, LentBytes } from '../../lib/blob-reader.ts';
import { unlessAborted } from '../../lib/single-flight.ts';
import type { Digest } from '../../oci/digest.ts';
import { OciError } from '../../oci/errors.ts';

/** What a reader needs of its Fill; see there. */
export interface ReadableFill {
  readonly digest: Digest;
  readonly size: number | undefined;
  readonly readable: number;
  readonly lendable: number;
  beginWait(): () => void;
  until<T>(look: () => T | undefined, signal?: AbortSignal): Promise<T>;
  read(buffer: Uint8Array, position: number): Promise<number>;
  lend(position: number): LentBytes | undefined;
}

export interface FillReaderOptions {
  /** No byte is returned before this resolves. */
  readonly admission: Promise<void>;
  /** Called when the reader is closed. */
  readonly leave: () => void;
  /** Makes the reader for the rest if the disk is full. */
  readonly direct: () => BlobReader;
}

/**
 * Reads a Fill while it is downloaded. There can be any number of them, each at its own pace; none slows the Fill down.
 */
export class FillReader implements BlobReader {
  readonly size: number;
  readonly #fill: ReadableFill;
  readonly #options: FillReaderOptions;
  readonly #closing = new AbortController();
  #direct: BlobReader | undefined;
  #isAdmitted = false;

  /** Use `Fill.open`. */
  constructor(fill: ReadableFill, size: number, options: FillReaderOptions) {
    this.#fill = fill;
    this.size = size;
    this.#options = options;
  }

  /** Readers with the same admission and the same end share their bytes. */
  get shares(): object | undefined {
    const isShared = this.#isAdmitted && this.#direct === undefined && this.#fill.size === this.size;
    return isShared ? this.#fill : undefined;
  }

  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (position >= this.size) return 0;
    const readable = await this.#waitBehind(position, fill => fill.readable);
    if (this.#direct !== undefined) return this.#direct.read(buffer, position);
    return this.#fill.read(buffer.subarray(0, readable - position), position);
  }

  async lend(position: number): Promise<LentBytes | undefined> {
    if (position >= this.size) return undefined;
    await this.#waitBehind(position, fill => fill.lendable);
    return this.#direct === undefined ? this.#fill.lend(position) : undefined;
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new Error('the reader was closed'));
    await this.#direct?.close();
    this.#options.leave();
  }

  /** Resolves with the end that `endOf` tells, when that is beyond `position` or the rest is read directly. */
  async #waitBehind(position: number, endOf: (fill: ReadableFill) => number): Promise<number> {
    if (!this.#isAdmitted) {
      await unlessAborted(this.#options.admission, this.#closing.signal);
      this.#isAdmitted = true;
    }
    if (this.#direct !== undefined) return this.size;
    const fill = this.#fill;
    let endWait: (() => void) | undefined;
    try {
      if (this.#endBehind(position, endOf) === undefined) endWait = fill.beginWait();
      return await fill.until(() => this.#endBehind(position, endOf), this.#closing.signal);
    } catch (error) {
      if (!isStorageClosed(error)) throw error;
      // Nobody would close it.
      this.#closing.signal.throwIfAborted();
      this.#direct = this.#options.direct();
      return this.size;
    } finally {
      endWait?.();
    }
  }

  /** The end; `undefined` while that is not beyond `position`. */
  #endBehind(position: number, endOf: (fill: ReadableFill) => number): number | undefined {
    const { digest, size } = this.#fill;
    if (size !== undefined && size !== this.size) {
      throw new OciError('UPSTREAM_INVALID', {
        message: 'upstream reports a blob size that differs from the manifest',
        detail: { digest, named: this.size, given: size },
      });
    }
    const end = endOf(this.#fill);
    return end > position ? end : undefined;
  }
}
