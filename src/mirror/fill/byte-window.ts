import { Changes } from '../../lib/changes.ts';

/** What is buffered for all slow clients together, apart from the minimum for each. */
const ALL_AHEAD_BYTES = 16 * 1024 * 1024;
const MIN_AHEAD_BYTES = 16 * 1024;
const MAX_AHEAD_BYTES = 256 * 1024;
const PIECE_BYTES = 16 * 1024;

/** How much may be buffered for each of so many readers. */
export function aheadBytes(readers: number): number {
  return Math.min(Math.max(ALL_AHEAD_BYTES / readers, MIN_AHEAD_BYTES), MAX_AHEAD_BYTES);
}

/**
 * Bytes on their way from one writer to one reader, which reads each of them once and in order. The writer waits while too
 * many are unread.
 */
export class ByteWindow {
  /** Told when bytes arrive. */
  readonly changes = new Changes();
  readonly #maxBytes: () => number;
  readonly #dropped = new Changes();
  readonly #pieces: Uint8Array[] = [];
  #start: number;
  #end: number;

  /** For the bytes from `start` on; at most `maxBytes()` and one more piece of 16 KiB are kept. */
  constructor(start: number, maxBytes: () => number) {
    this.#start = start;
    this.#end = start;
    this.#maxBytes = maxBytes;
  }

  /** Position of the first byte that has not been dropped. */
  get start(): number {
    return this.#start;
  }

  /** Position of the next byte to be written. */
  get end(): number {
    return this.#end;
  }

  /** Adds a copy of the next bytes, as there is room, and waits until there is room for more. Rejects when `signal` aborts. */
  async push(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    for (let at = 0; at < bytes.byteLength; at += PIECE_BYTES) {
      // A Buffer's own `slice` would not copy it.
      const piece = new Uint8Array(bytes.subarray(at, at + PIECE_BYTES));
      this.#pieces.push(piece);
      this.#end += piece.byteLength;
      this.changes.tell();
      await this.#dropped.until(() => this.#end - this.#start <= this.#maxBytes() || undefined, signal);
    }
  }

  /** Drops the bytes before `position`, which will not be read again. */
  dropBefore(position: number): void {
    for (let [first] = this.#pieces; first !== undefined; [first] = this.#pieces) {
      const dropped = Math.min(position - this.#start, first.byteLength);
      if (dropped <= 0) break;
      this.#start += dropped;
      if (dropped === first.byteLength) this.#pieces.shift();
      else this.#pieces[0] = first.subarray(dropped);
    }
    this.#dropped.tell();
  }

  /** Fills `buffer` with at least one of the bytes from `position` on, which must be there; returns how many. */
  copy(buffer: Uint8Array, position: number): number {
    if (this.#pieces.length === 0 || position < this.#start) {
      throw new Error('a blob that is not stored can only be read sequentially');
    }
    let offset = position - this.#start;
    let length = 0;
    for (const piece of this.#pieces) {
      const part = piece.subarray(offset, offset + buffer.byteLength - length);
      buffer.set(part, length);
      length += part.byteLength;
      if (length === buffer.byteLength) break;
      offset = Math.max(0, offset - piece.byteLength);
    }
    return length;
  }
}
