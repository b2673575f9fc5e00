import { Changes } from '../../lib/changes.ts';

/**
 * Bytes on their way from one writer to one reader, which reads each of them once and in order. The writer waits while too
 * many are unread.
 */
export class ByteWindow {
  /** Told when bytes arrive. */
  readonly changes = new Changes();
  readonly #maxBytes: number;
  readonly #dropped = new Changes();
  readonly #pieces: Uint8Array[] = [];
  #start: number;
  #end: number;

  /** For the bytes from `start` on; at most `maxBytes` and one more piece are kept. */
  constructor(start: number, maxBytes: number) {
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

  /** Adds a copy of the next bytes, and waits until there is room for more. Rejects when `signal` aborts. */
  async push(bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    // A Buffer's own `slice` would not copy it.
    this.#pieces.push(new Uint8Array(bytes));
    this.#end += bytes.byteLength;
    this.changes.tell();
    await this.#dropped.until(() => this.#end - this.#start <= this.#maxBytes || undefined, signal);
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
    const [first] = this.#pieces;
    if (first === undefined || position < this.#start) {
      throw new Error('a blob that is not stored can only be read sequentially');
    }
    const offset = position - this.#start;
    const part = first.subarray(offset, offset + buffer.byteLength);
    buffer.set(part);
    return part.byteLength;
  }
}
