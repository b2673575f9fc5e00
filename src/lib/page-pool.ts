import { pageAligned } from './page-aligned.ts';

/** Free pages are kept for later use while they do not exceed this. */
const KEPT_BYTES = 16 * 1024 * 1024;

/**
 * Page size by the number of bodies, each of which uses up to three. A few bodies get pages that are written to a file
 * with little more cost than that of their bytes; a hundred together take less than 100 MiB, however slow the disk is.
 */
const PAGE_BYTES: readonly { readonly upToBodies: number; readonly bytes: number }[] = [
  { upToBodies: 10, bytes: 1024 * 1024 },
  { upToBodies: 64, bytes: 256 * 1024 },
  { upToBodies: Number.POSITIVE_INFINITY, bytes: 64 * 1024 },
];

/**
 * Memory for bodies on their way in. It is reused instead of left to the garbage collector, which would mark the whole
 * heap for every 64 MiB that pass. Pages are reused without being zeroed.
 */
export class PagePool {
  readonly #free = new Map<number, Buffer[]>();
  #freeBytes = 0;
  #bodies = 0;

  /** A body begins, which takes pages from now on, and finally calls `leave`. */
  enter(): void {
    this.#bodies += 1;
  }

  leave(): void {
    this.#bodies -= 1;
  }

  /** A page for its caller alone. */
  take(): Buffer {
    const bytes = PAGE_BYTES.find(({ upToBodies }) => this.#bodies <= upToBodies)?.bytes ?? 0;
    const free = this.#free.get(bytes)?.pop();
    if (free === undefined) return pageAligned(bytes);
    this.#freeBytes -= bytes;
    return free;
  }

  /** Nobody uses the page any more. One that somebody may still use is left to the garbage collector instead. */
  give(page: Buffer): void {
    if (this.#freeBytes + page.byteLength > KEPT_BYTES) return;
    const free = this.#free.get(page.byteLength);
    if (free === undefined) this.#free.set(page.byteLength, [page]);
    else free.push(page);
    this.#freeBytes += page.byteLength;
  }
}
