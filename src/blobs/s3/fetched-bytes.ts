import type { LentBytes } from '../../lib/blob-reader.ts';
import { hasBytes } from '../../lib/bytes-reader.ts';
import { lendPiece } from '../../lib/paged-body.ts';

/** Where bytes of an object are read. */
export interface Source {
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** As of a `BlobReader`. */
  readonly origin?: string | undefined;
  close(): Promise<void>;
}

/** Bytes that were received lately. */
interface Piece {
  readonly start: number;
  readonly bytes: Uint8Array;
}

interface Shown {
  readonly source: Source;
  /** How much of it could be read. */
  length: number;
}

/** So many pieces of up to 1 MiB stay in memory, for readers who are as fast as S3. */
const RECENT_PIECES = 4;
/** How much is compared at a time. */
const COMPARED_BYTES = 256 * 1024;

/**
 * What was fetched of an object so far: in a file, the latest of it also in memory. There are several files if a process that
 * fetched has died, and another one started again; readers may have had bytes of each.
 */
export class FetchedBytes {
  /** The newest first. */
  readonly #sources: Shown[] = [];
  /** In order, without gaps, up to the end. */
  readonly #recent: Piece[] = [];

  /** How much can be read. */
  get length(): number {
    return Math.max(0, ...this.#sources.map(({ length }) => length));
  }

  /** From now on bytes are read from `source`, which has so many. It is closed by `close`. */
  readFrom(source: Source, length: number): void {
    this.#recent.length = 0;
    this.#sources.unshift({ source, length });
  }

  /** The newest source has so many bytes. What it had once may have been read. */
  grow(length: number): void {
    const [newest] = this.#sources;
    if (newest !== undefined) newest.length = Math.max(newest.length, length);
  }

  /** The newest source is about to get this piece, which can be read at once. */
  add(bytes: Uint8Array): void {
    const start = this.#sources[0]?.length ?? 0;
    this.#recent.push({ start, bytes });
    this.grow(start + bytes.byteLength);
  }

  /** Returns the pieces that are not needed in memory any more: the newest source has all `writtenTo`. */
  forget(writtenTo: number, { kept = RECENT_PIECES } = {}): readonly Uint8Array[] {
    const written = this.#recent.filter(({ start, bytes }) => start + bytes.byteLength <= writtenTo);
    const count = Math.min(written.length, Math.max(0, this.#recent.length - kept));
    return this.#recent.splice(0, count).map(({ bytes }) => bytes);
  }

  /** Fills `buffer` from `position` with at least one byte, of those that are there; 0 if they are no longer there. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    const bytes = this.#inMemory(position)?.subarray(0, buffer.byteLength);
    if (bytes === undefined) return this.#readFile(buffer, position);
    buffer.set(bytes);
    return bytes.byteLength;
  }

  /** Bytes from `position` on, up to `end` at most; `undefined` if they are not in memory. */
  lend(position: number, end: number): LentBytes | undefined {
    const bytes = this.#inMemory(position)?.subarray(0, end - position);
    return bytes && lendPiece(bytes);
  }

  /** Whether readers have had the same bytes from all sources. */
  async isConsistent(): Promise<boolean> {
    const [newest, ...former] = this.#sources;
    for (const shown of former) {
      const isSameFile = shown.source.origin !== undefined && shown.source.origin === newest?.source.origin;
      if (!(isSameFile && shown.length <= newest.length) && !(await this.#agreesWith(shown))) return false;
    }
    return true;
  }

  /** An error on closing a file that was only read does no harm. */
  close(): void {
    this.#recent.length = 0;
    for (const { source } of this.#sources.splice(0)) source.close().catch(() => {});
  }

  /** The rest of the piece that has the byte at `position`, if it is in memory. */
  #inMemory(position: number): Uint8Array | undefined {
    const piece = this.#recent.find(
      ({ start, bytes }) => start <= position && position < start + bytes.byteLength,
    );
    return piece?.bytes.subarray(position - piece.start);
  }

  async #readFile(buffer: Uint8Array, position: number): Promise<number> {
    const shown = this.#sources.find(({ length }) => length > position);
    if (shown === undefined) return 0;
    return shown.source.read(buffer.subarray(0, shown.length - position), position);
  }

  async #agreesWith({ source, length }: Shown): Promise<boolean> {
    const bytes = new Uint8Array(Math.min(COMPARED_BYTES, length));
    for (let position = 0; position < length; ) {
      const count = await source.read(bytes.subarray(0, length - position), position);
      if (count === 0 || !(await hasBytes(this, bytes.subarray(0, count), position))) return false;
      position += count;
    }
    return true;
  }
}
