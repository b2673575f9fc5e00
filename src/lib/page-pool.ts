import type { LentBytes } from './blob-reader.ts';
import { pageAligned } from './page-aligned.ts';

/** Free pages are kept for later use while they do not exceed this. */
const KEPT_BYTES = 16 * 1024 * 1024;

/**
 * Pages that are lent do not exceed this. Clients that stop reading keep theirs for as long as they like; what others read then
 * comes from the disk.
 */
const LENT_BYTES = 16 * 1024 * 1024;

/**
 * Page size by the number of bodies, each of which fills and writes up to three. A few bodies get pages that are written to a
 * file with little more cost than that of their bytes; a hundred together take less than 100 MiB, however slow the disk is.
 */
const PAGE_BYTES: readonly { readonly upToBodies: number; readonly bytes: number }[] = [
  { upToBodies: 10, bytes: 1024 * 1024 },
  { upToBodies: 64, bytes: 256 * 1024 },
  { upToBodies: Number.POSITIVE_INFINITY, bytes: 64 * 1024 },
];

/** A page that somebody beside its owner uses. */
interface LentPage {
  borrowers: number;
  /** Its owner has given it. */
  isGiven: boolean;
}

/**
 * Memory for bodies on their way in. It is reused instead of left to the garbage collector, which would mark the whole
 * heap for every 64 MiB that pass. Pages are reused without being zeroed.
 */
export class PagePool {
  readonly #free = new Map<number, Buffer[]>();
  /** The pages that may be used again, by their memory. */
  readonly #pages = new WeakMap<ArrayBufferLike, Buffer>();
  readonly #lent = new Map<Buffer, LentPage>();
  #freeBytes = 0;
  #lentBytes = 0;
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
    if (free === undefined) return this.#newPage(bytes);
    this.#freeBytes -= bytes;
    return free;
  }

  /**
   * Its owner does not use the page any more; it is used again when nobody does. One that is never given is left to the
   * garbage collector.
   */
  give(page: Buffer): void {
    const lent = this.#lent.get(page);
    if (lent === undefined) this.#keep(page);
    else lent.isGiven = true;
  }

  /**
   * Lends `bytes`, whose owner has not given their page. `undefined` if they are not part of a page, or if as many pages
   * are lent as may be.
   */
  lend(bytes: Uint8Array): LentBytes | undefined {
    const page = this.#pages.get(bytes.buffer);
    if (page === undefined) return undefined;
    const lent = this.#lent.get(page) ?? this.#beginLending(page);
    if (lent === undefined) return undefined;
    lent.borrowers += 1;
    return {
      bytes,
      giveBack: () => this.#takeBack(page, lent),
      abandon: () => {
        this.#pages.delete(page.buffer);
        this.#takeBack(page, lent);
      },
    };
  }

  #newPage(bytes: number): Buffer {
    const page = pageAligned(bytes);
    this.#pages.set(page.buffer, page);
    return page;
  }

  #beginLending(page: Buffer): LentPage | undefined {
    if (this.#lentBytes + page.byteLength > LENT_BYTES) return undefined;
    const lent = { borrowers: 0, isGiven: false };
    this.#lent.set(page, lent);
    this.#lentBytes += page.byteLength;
    return lent;
  }

  #takeBack(page: Buffer, lent: LentPage): void {
    lent.borrowers -= 1;
    if (lent.borrowers > 0) return;
    this.#lent.delete(page);
    this.#lentBytes -= page.byteLength;
    if (lent.isGiven) this.#keep(page);
  }

  #keep(page: Buffer): void {
    if (!this.#pages.has(page.buffer)) return;
    if (this.#freeBytes + page.byteLength > KEPT_BYTES) return;
    const free = this.#free.get(page.byteLength);
    if (free === undefined) this.#free.set(page.byteLength, [page]);
    else free.push(page);
    this.#freeBytes += page.byteLength;
  }
}
