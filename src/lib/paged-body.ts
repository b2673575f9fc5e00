import { Readable } from 'node:stream';
import type { LentBytes } from './blob-reader.ts';
import { PagePool } from './page-pool.ts';

/** The first bytes are passed on as they come, since somebody waits for them. */
const AT_ONCE_BYTES = 256 * 1024;
/** How long the bytes of a slow server may wait for more, ms. */
const MAX_DELAY_MS = 20;
/** A body of fewer bytes gets memory of its own. */
const SMALL_BYTES = 64 * 1024;

/** For all bodies of the process. */
const pool = new PagePool();

/** Lends bytes of a piece that is not released yet; `undefined` for other bytes, or if too much is lent. */
export function lendPiece(bytes: Uint8Array): LentBytes | undefined {
  return pool.lend(bytes);
}

export interface PagedBodyOptions {
  /** The length, if it is known. */
  readonly length: number | undefined;
  /** Called when there is room again after `add` returned false. */
  readonly wanted: () => void;
  /** Called once, when the body is destroyed or was read to its end. */
  readonly closed: (error: Error | null) => void;
}

/**
 * A body as its reader sees it: in pieces of up to 1 MiB. What arrives is copied into pages, which are passed on when
 * they are full, or when their bytes have waited long enough. A reader that is done with a piece releases it, and its
 * memory is used again when nobody borrows it; what is not released is left to the garbage collector.
 */
export class PagedBody extends Readable {
  readonly #options: PagedBodyOptions;
  readonly #isSmall: boolean;
  /** The page of each piece that was passed on. */
  readonly #pages = new Map<Uint8Array, Buffer>();
  #page: Buffer | undefined;
  #filled = 0;
  #passedBytes = 0;
  #failure: Error | undefined;
  #isWanted = false;
  #isOverdue = false;
  #delay: NodeJS.Timeout | undefined;

  constructor(options: PagedBodyOptions) {
    // Read as bytes, pages that wait would be copied together.
    super({ objectMode: true, highWaterMark: 1 });
    this.#options = options;
    pool.enter();
    this.#isSmall = options.length !== undefined && options.length <= SMALL_BYTES;
  }

  /** Takes a copy of the bytes. False if a whole page already waits for the reader: no more should come for now. */
  add(bytes: Uint8Array): boolean {
    if (this.destroyed) return false;
    let hasRoom = true;
    for (let at = 0; at < bytes.length; ) {
      this.#page ??= this.#isSmall ? Buffer.allocUnsafeSlow(this.#options.length ?? 0) : pool.take();
      const part = bytes.subarray(at, at + this.#page.length - this.#filled);
      this.#page.set(part, this.#filled);
      this.#filled += part.length;
      at += part.length;
      if (this.#filled < this.#page.length) continue;
      hasRoom = this.#isWanted;
      this.#pass();
    }
    if (this.#filled > 0) this.#passSoon();
    return hasRoom;
  }

  /** No more bytes will come. */
  end(): void {
    this.#pass();
    this.push(null);
  }

  /** No more bytes will come: the reader gets those that are there, then `error`. */
  fail(error: Error): void {
    this.#failure = error;
    this.#pass();
    if (this.#isWanted) this.destroy(error);
  }

  /** The reader will not look at the piece again. */
  release(piece: Uint8Array): void {
    const page = this.#pages.get(piece);
    if (page !== undefined && this.#pages.delete(piece)) pool.give(page);
  }

  override _read(): void {
    this.#isWanted = true;
    if (this.#failure !== undefined) {
      this.destroy(this.#failure);
      return;
    }
    if (this.#isOverdue) this.#pass();
    this.#options.wanted();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    clearTimeout(this.#delay);
    if (this.#page !== undefined && !this.#isSmall) pool.give(this.#page);
    this.#page = undefined;
    pool.leave();
    this.#options.closed(error);
    callback(error);
  }

  #passSoon(): void {
    if (this.#passedBytes < AT_ONCE_BYTES) this.#passOverdue();
    else this.#delay ??= setTimeout(() => this.#passOverdue(), MAX_DELAY_MS);
  }

  #passOverdue(): void {
    this.#isOverdue = true;
    if (this.#isWanted) this.#pass();
  }

  #pass(): void {
    clearTimeout(this.#delay);
    this.#delay = undefined;
    this.#isOverdue = false;
    const page = this.#page;
    if (page === undefined) return;
    const piece = page.subarray(0, this.#filled);
    if (!this.#isSmall) this.#pages.set(piece, page);
    this.#passedBytes += this.#filled;
    this.#page = undefined;
    this.#filled = 0;
    this.#isWanted = false;
    this.push(piece);
  }
}
