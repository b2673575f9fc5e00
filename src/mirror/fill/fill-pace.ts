import type { Fill } from './fill.ts';

/** The disk, not upstream, is the bottleneck if writing takes this share of the time. */
const BUSY_SHARE = 0.5;
/** A connection is too slow if it brings so little, compared to the others, for a second and a half. */
const SLOW_SHARE = 0.25;
const SLOW_WINDOWS = 5;

/** How fast a Fill receives bytes, and whether it is held up by something else than upstream; by windows. */
export class FillPace {
  readonly #fill: Fill;
  #bytes = 0;
  #writingMs = 0;
  #waits = 0;
  #bytesPerSecond = 0;
  #isHeldUp = false;

  constructor(fill: Fill) {
    this.#fill = fill;
  }

  /** In the last window. */
  get bytesPerSecond(): number {
    return this.#bytesPerSecond;
  }

  /** Whether the disk or the readers were slower than upstream in the last window. */
  get isHeldUp(): boolean {
    return this.#isHeldUp;
  }

  /** Bytes were received in order, and writing them took so long. */
  received(bytes: number, writingMs: number): void {
    this.#bytes += bytes;
    this.#writingMs += writingMs;
  }

  /** Ends a window, in which so many bytes came ahead. Returns how many came in order. */
  measured(windowMs: number, aheadBytes: number): number {
    const { hasReaders, waits, isAwaited } = this.#fill;
    const bytes = this.#bytes;
    this.#bytesPerSecond = ((bytes + aheadBytes) * 1000) / Math.max(1, windowMs);
    // Readers that never wait would not become faster.
    const areReadersSlow = hasReaders && !isAwaited && waits === this.#waits;
    this.#isHeldUp = areReadersSlow || this.#writingMs > windowMs * BUSY_SHARE;
    this.#bytes = 0;
    this.#writingMs = 0;
    this.#waits = waits;
    return bytes;
  }
}

/** Watches whether something keeps bringing much less than its share. */
export class SlowWatch {
  #watched: object | undefined;
  #windows = 0;

  /** Whether it has been so for some time. */
  get isSlow(): boolean {
    return this.#windows >= SLOW_WINDOWS;
  }

  /**
   * In the last window, `watched` has brought so many bytes, and others as many on average. If nothing comes at all, it is
   * slow, too: a new request will not be worse.
   */
  measured(watched: object | undefined, bytes: number, averageBytes: number): void {
    const isSame = watched !== undefined && watched === this.#watched;
    this.#watched = watched;
    this.#windows = isSame && (bytes === 0 || bytes < averageBytes * SLOW_SHARE) ? this.#windows + 1 : 0;
  }
}
