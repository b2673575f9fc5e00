import { SharedBuffer } from './shared-buffer.ts';

/** All pages of all bodies together: the server's memory does not grow with its clients. */
const BUDGET_BYTES = 64 * 1024 * 1024;

/** Between bodies, free pages are kept for the next one while lent and free ones together stay within this. */
const KEPT_BYTES = 16 * 1024 * 1024;

/** What the bodies of a row below hold at most: to make a page anew for each that is sent costs more than to read it. */
const KEPT_IN_USE_BYTES = BUDGET_BYTES / 2;

/**
 * Bytes of a page by the number of open bodies, which have two each. Few bodies get what one client needs for the
 * link's full speed; more share, in sizes that still cost little per byte: 64 bodies with 128 KiB each were a fifth
 * slower, and 150 with 32 KiB took twice the processor time a byte. Every row stays within half of the budget, so that
 * the next one fits while the last one still drains; and each size is a multiple of the next, so that bodies that began
 * with another still come to begin their pages at the same places.
 */
const PAGE_BYTES: readonly { readonly upToBodies: number; readonly bytes: number }[] = [
  { upToBodies: 8, bytes: 1024 * 1024 },
  { upToBodies: 64, bytes: 256 * 1024 },
  { upToBodies: 256, bytes: 64 * 1024 },
  { upToBodies: Number.POSITIVE_INFINITY, bytes: 16 * 1024 },
];

/** Below this a body costs more in calls than it moves in bytes. */
const MIN_PAGE_BYTES = 16 * 1024;

interface Waiter {
  readonly remainingBytes: number;
  readonly resolve: (page: SharedBuffer | undefined) => void;
}

/**
 * The memory that bodies are copied through, shared by the whole process. A body says `enter`, holds pages, at least
 * one at a time and a second one if there is room, and says `leave`. What one body has read is found by those that want
 * the same bytes, as long as somebody holds the page and until a free one is needed again: many nodes that pull one
 * layer at once cost one read, not one each. Pages are reused, never zeroed.
 */
export class BodyMemory {
  readonly #budgetBytes: number;
  /** Free pages by size, the longest unused first; they still know what they hold. */
  readonly #spare = new Map<number, Set<SharedBuffer>>();
  /** Pages that others may have, by what they are of and where they begin. */
  readonly #shared = new WeakMap<object, Map<number, SharedBuffer>>();
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
    for (const spares of this.#spare.values()) {
      for (const page of spares) {
        if (this.#lentBytes + this.#spareBytes <= KEPT_BYTES) return;
        this.#unspare(page);
        this.unshare(page);
      }
    }
  }

  /** The page of `source` that begins at `position`, read already or being read, if there is one and room to hold it. */
  find(source: object, position: number): SharedBuffer | undefined {
    const page = this.#shared.get(source)?.get(position);
    if (page === undefined) return undefined;
    if (page.holders === 0) {
      if (!this.#hasRoom(page.buffer.byteLength)) return undefined;
      this.#unspare(page);
      this.#lentBytes += page.buffer.byteLength;
    }
    page.holders += 1;
    return page;
  }

  /** Lets others find the page, which its holder is about to read from `source` at `position`. */
  share(page: SharedBuffer, source: object, position: number): void {
    page.source = source;
    page.position = position;
    const pages = this.#shared.get(source);
    if (pages === undefined) this.#shared.set(source, new Map([[position, page]]));
    else pages.set(position, page);
  }

  /** From now on nobody finds the page, and who waits for it has to read for itself. */
  unshare(page: SharedBuffer): void {
    page.withdraw();
    const pages = page.source && this.#shared.get(page.source);
    if (pages?.get(page.position) === page) pages.delete(page.position);
    page.source = undefined;
  }

  /** A page for a body that still has `remainingBytes` to send, or `undefined` when the budget has no room now. */
  take(remainingBytes: number): SharedBuffer | undefined {
    let bytes = this.#fitting(remainingBytes);
    while (bytes > MIN_PAGE_BYTES && !this.#hasRoom(bytes)) bytes = smaller(bytes);
    return this.#hasRoom(bytes) ? this.#lend(bytes) : undefined;
  }

  /** A page beyond the first: those that have none go before. */
  takeMore(remainingBytes: number): SharedBuffer | undefined {
    return this.#waiters.length === 0 ? this.take(remainingBytes) : undefined;
  }

  /** The only page of a body, waited for in turn. `undefined` once `left` says that nobody wants it any more. */
  async takeFirst(
    remainingBytes: number,
    left: (cancel: () => void) => void,
  ): Promise<SharedBuffer | undefined> {
    const page = this.takeMore(remainingBytes);
    if (page !== undefined) return page;
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

  /** One holder is done with the page. */
  give(page: SharedBuffer): void {
    page.holders -= 1;
    if (page.holders > 0) return;
    this.#lentBytes -= page.buffer.byteLength;
    this.#keep(page);
    this.#admitWaiters();
  }

  /** As `give`, where the kernel may still read from the page: its room is free again, itself it is left to the collector. */
  forget(page: SharedBuffer): void {
    page.isTainted = true;
    this.give(page);
  }

  /** The size that suits the number of bodies, or a smaller one that holds all that remains. */
  #fitting(remainingBytes: number): number {
    const row = PAGE_BYTES.find(({ upToBodies }) => this.#bodies <= upToBodies);
    let bytes = row?.bytes ?? MIN_PAGE_BYTES;
    while (bytes > MIN_PAGE_BYTES && smaller(bytes) >= remainingBytes) bytes = smaller(bytes);
    return bytes;
  }

  #hasRoom(bytes: number): boolean {
    return this.#lentBytes + bytes <= this.#budgetBytes;
  }

  #lend(bytes: number): SharedBuffer {
    this.#lentBytes += bytes;
    const spare = this.#reusable(bytes);
    const page = spare ?? new SharedBuffer(bytes);
    if (spare !== undefined) {
      this.#unspare(spare);
      this.unshare(spare);
    }
    page.reset();
    page.holders = 1;
    return page;
  }

  /**
   * A free page: for a single body the one used last, which the processor's cache still has. For several the one that
   * was unused longest, and none while there is room to keep what it holds for another body.
   */
  #reusable(bytes: number): SharedBuffer | undefined {
    const spares = [...(this.#spare.get(bytes) ?? [])];
    if (this.#bodies <= 1) return spares.at(-1);
    const [oldest] = spares;
    // The new one is lent already.
    const mayKeepIt = this.#lentBytes + this.#spareBytes <= KEPT_BYTES;
    return oldest?.source !== undefined && mayKeepIt ? undefined : oldest;
  }

  #keep(page: SharedBuffer): void {
    const { byteLength } = page.buffer;
    if (page.isTainted || this.#lentBytes + this.#spareBytes + byteLength > KEPT_IN_USE_BYTES) {
      this.unshare(page);
      return;
    }
    const spares = this.#spare.get(byteLength);
    if (spares === undefined) this.#spare.set(byteLength, new Set([page]));
    else spares.add(page);
    this.#spareBytes += byteLength;
  }

  #unspare(page: SharedBuffer): void {
    if (this.#spare.get(page.buffer.byteLength)?.delete(page)) this.#spareBytes -= page.buffer.byteLength;
  }

  #admitWaiters(): void {
    for (let next = this.#waiters[0]; next !== undefined; next = this.#waiters[0]) {
      const page = this.take(next.remainingBytes);
      if (page === undefined) return;
      this.#waiters.shift();
      next.resolve(page);
    }
  }
}

/** The next smaller size of page. */
function smaller(bytes: number): number {
  return Math.max(MIN_PAGE_BYTES, bytes / 4);
}
