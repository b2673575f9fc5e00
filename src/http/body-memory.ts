/** All buffers of all bodies together: the server's memory does not grow with its clients. */
const BUDGET_BYTES = 64 * 1024 * 1024;

/** Free buffers are kept for the next body while lent and free ones together stay within this. */
const KEPT_BYTES = 16 * 1024 * 1024;

/**
 * Buffer by the number of open bodies, two each. Few bodies get what one client needs for the link's full speed; more
 * share, in sizes that still cost little per byte: 64 bodies with 128 KiB each were a fifth slower, and 150 with 32 KiB
 * took twice the processor time a byte. Every row stays within half of the budget, so that the next one fits while the
 * last one still drains.
 */
const BUFFER_BYTES: readonly { readonly upToBodies: number; readonly bytes: number }[] = [
  { upToBodies: 8, bytes: 1024 * 1024 },
  { upToBodies: 64, bytes: 256 * 1024 },
  { upToBodies: 256, bytes: 64 * 1024 },
  { upToBodies: Number.POSITIVE_INFINITY, bytes: 16 * 1024 },
];

/** Below this a body costs more in calls than it moves in bytes. */
const MIN_BUFFER_BYTES = 16 * 1024;

interface Waiter {
  readonly remainingBytes: number;
  readonly resolve: (buffer: Buffer | undefined) => void;
}

/**
 * The memory that bodies are copied through, shared by the whole process. A body says `enter`, waits for its first
 * buffer, may take a second one if there is room, and says `leave`. Buffers are reused, never zeroed.
 */
export class BodyMemory {
  readonly #budgetBytes: number;
  readonly #spare = new Map<number, Buffer[]>();
  #spareBytes = 0;
  #lentBytes = 0;
  #bodies = 0;
  /** In the order of arrival. */
  readonly #waiters: Waiter[] = [];

  constructor(budgetBytes: number = BUDGET_BYTES) {
    this.#budgetBytes = budgetBytes;
  }

  get bodies(): number {
    return this.#bodies;
  }

  get lentBytes(): number {
    return this.#lentBytes;
  }

  enter(): void {
    this.#bodies += 1;
  }

  leave(): void {
    this.#bodies -= 1;
  }

  /** A buffer for a body that still has `remainingBytes` to send, or `undefined` when the budget has no room now. */
  take(remainingBytes: number): Buffer | undefined {
    let bytes = this.#fitting(remainingBytes);
    while (bytes > MIN_BUFFER_BYTES && this.#lentBytes + bytes > this.#budgetBytes) bytes = smaller(bytes);
    return this.#lentBytes + bytes <= this.#budgetBytes ? this.#lend(bytes) : undefined;
  }

  /** The first buffer of a body, waited for in turn. `undefined` once `left` says that nobody wants it any more. */
  async takeFirst(remainingBytes: number, left: (cancel: () => void) => void): Promise<Buffer | undefined> {
    const buffer = this.#waiters.length === 0 ? this.take(remainingBytes) : undefined;
    if (buffer !== undefined) return buffer;
    return new Promise(resolve => {
      const waiter = { remainingBytes, resolve };
      this.#waiters.push(waiter);
      left(() => {
        const index = this.#waiters.indexOf(waiter);
        if (index !== -1) this.#waiters.splice(index, 1);
        resolve(undefined);
      });
    });
  }

  /** `buffer`, or one of the size that now is right in its place. */
  renew(buffer: Buffer, remainingBytes: number): Buffer {
    const bytes = this.#fitting(remainingBytes);
    if (bytes === buffer.byteLength) return buffer;
    const grows = bytes > buffer.byteLength;
    const hasRoom = this.#lentBytes - buffer.byteLength + bytes <= this.#budgetBytes;
    if (grows && (this.#waiters.length > 0 || !hasRoom)) return buffer;
    this.#putBack(buffer);
    const renewed = this.#lend(bytes);
    this.#admitWaiters();
    return renewed;
  }

  give(buffer: Buffer): void {
    this.#putBack(buffer);
    this.#admitWaiters();
  }

  /** For a buffer that the kernel may still read from: its room is free again, itself it is left to the collector. */
  forget(buffer: Buffer): void {
    this.#lentBytes -= buffer.byteLength;
    this.#admitWaiters();
  }

  /** The buffer that suits the number of bodies, or a smaller one that holds all that remains. */
  #fitting(remainingBytes: number): number {
    const row = BUFFER_BYTES.find(({ upToBodies }) => this.#bodies <= upToBodies);
    let bytes = row?.bytes ?? MIN_BUFFER_BYTES;
    while (bytes > MIN_BUFFER_BYTES && smaller(bytes) >= remainingBytes) bytes = smaller(bytes);
    return bytes;
  }

  #lend(bytes: number): Buffer {
    this.#lentBytes += bytes;
    const spare = this.#spare.get(bytes)?.pop();
    if (spare === undefined) return Buffer.allocUnsafeSlow(bytes);
    this.#spareBytes -= bytes;
    return spare;
  }

  #putBack(buffer: Buffer): void {
    this.#lentBytes -= buffer.byteLength;
    if (this.#lentBytes + this.#spareBytes + buffer.byteLength > KEPT_BYTES) return;
    const spares = this.#spare.get(buffer.byteLength);
    if (spares === undefined) this.#spare.set(buffer.byteLength, [buffer]);
    else spares.push(buffer);
    this.#spareBytes += buffer.byteLength;
  }

  #admitWaiters(): void {
    for (let next = this.#waiters[0]; next !== undefined; next = this.#waiters[0]) {
      const buffer = this.take(next.remainingBytes);
      if (buffer === undefined) return;
      this.#waiters.shift();
      next.resolve(buffer);
    }
  }
}

/** The next smaller size of buffer. */
function smaller(bytes: number): number {
  return Math.max(MIN_BUFFER_BYTES, bytes / 4);
}
