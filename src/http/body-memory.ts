import { pageAligned } from '../lib/page-aligned.ts';
import { SharedBuffer } from './shared-buffer.ts';

/** For all pages of all bodies: the server's memory does not grow with the number of clients. */
const BUDGET_BYTES = 64 * 1024 * 1024;

/** The share of one client, so that one that reads many bodies slowly leaves room for others. */
const SHARE = 0.75;

/** Free pages are kept for later bodies while used and free pages together do not exceed this. */
const KEPT_BYTES = 16 * 1024 * 1024;

/** What the bodies of a row below use at most. Allocating a page for each that is sent costs more than reading it. */
const KEPT_IN_USE_BYTES = BUDGET_BYTES / 2;

/** So many bodies may each have what a client at full speed needs. */
const FEW_BODIES = 8;

/**
 * Page size by the number of bodies, each of which has two pages. Few bodies get what one client needs for the full
 * speed of the network; more bodies get smaller pages that are still efficient: with 128 KiB, 64 bodies were a fifth
 * slower, and with 32 KiB, 150 bodies took twice the CPU time per byte. Every row stays within half of the budget, so
 * that the next row fits while bodies of the previous one are still being sent. Each size is a multiple of the next, so
 * that bodies that began with different sizes still have page boundaries in common.
 */
const PAGE_BYTES: readonly { readonly upToBodies: number; readonly bytes: number }[] = [
  { upToBodies: FEW_BODIES, bytes: 1024 * 1024 },
  { upToBodies: 64, bytes: 256 * 1024 },
  { upToBodies: 256, bytes: 64 * 1024 },
  { upToBodies: Number.POSITIVE_INFINITY, bytes: 16 * 1024 },
];

/** Below this size, calls cost more than the bytes. */
const MIN_PAGE_BYTES = 16 * 1024;

/**
 * The page size of a body for which there is no room, beyond the budget. It is slow, but clients that stop reading keep
 * their pages for as long as they like. One for each of 16,384 connections takes 32 MiB.
 */
const EXTRA_PAGE_BYTES = 2 * 1024;

/**
 * The buffers through which bodies are copied, shared by the whole process. A body calls `enter`, holds at least one
 * page at a time and a second one if there is room, and finally calls `leave`. No body waits for its first page. What
 * one body has read can be found by others that send the same bytes, as long as somebody holds the page and until a
 * free one is reused: many nodes that pull one layer at once cost one read each page, not one each node. Pages are
 * reused without being zeroed.
 *
 * `owner` is whom a page counts against: a tenant, or the network of clients without a login.
 */
export class BodyMemory {
  readonly #budgetBytes: number;
  readonly #shareBytes: number;
  readonly #keptBytes: number;
  readonly #keptInUseBytes: number;
  /** Free pages by size, least recently used first; they still have their content. */
  readonly #spare = new Map<number, Set<SharedBuffer>>();
  /** Pages that others may find, by their source and position. */
  readonly #shared = new WeakMap<object, Map<number, SharedBuffer>>();
  #spareBytes = 0;
  #lentBytes = 0;
  #bodies = 0;
  readonly #lentTo = new Map<string, number>();

  /** `processes`: among how many processes what is kept for later is divided. */
  constructor(budgetBytes: number = BUDGET_BYTES, shareBytes = budgetBytes * SHARE, processes = 1) {
    this.#keptBytes = KEPT_BYTES / processes;
    this.#keptInUseBytes = KEPT_IN_USE_BYTES / processes;
    this.#budgetBytes = budgetBytes;
    this.#shareBytes = Math.max(MIN_PAGE_BYTES, shareBytes);
  }

  /** The memory of one of several processes, which together have that of one. */
  static ofOne(processes: number): BodyMemory {
    return new BodyMemory(BUDGET_BYTES / processes, undefined, processes);
  }

  get bodies(): number {
    return this.#bodies;
  }

  get lentBytes(): number {
    return this.#lentBytes;
  }

  /**
   * Whether there are so many bodies that one of them should read for all that send the same: 60 that waited for the bytes
   * of their Fills themselves, and got them without reading, took a tenth more CPU time.
   */
  get isCrowded(): boolean {
    return this.#bodies > FEW_BODIES;
  }

  enter(): void {
    this.#bodies += 1;
  }

  leave(): void {
    this.#bodies -= 1;
    for (const spares of this.#spare.values()) {
      for (const page of spares) {
        if (this.#lentBytes + this.#spareBytes <= this.#keptBytes) return;
        this.#unspare(page);
        this.unshare(page);
      }
    }
  }

  /** The page of `source` that begins at `position`, filled or being filled, if there is one and room to hold it. */
  find(source: object, position: number, owner: string): SharedBuffer | undefined {
    const page = this.#shared.get(source)?.get(position);
    if (page === undefined) return undefined;
    if (page.holders === 0) {
      if (!this.#hasRoom(page.buffer.byteLength, owner)) return undefined;
      this.#unspare(page);
      this.#count(page, owner);
    }
    page.holders += 1;
    return page;
  }

  /** Lets others find the page, which its holder is about to fill from `source` at `position`. */
  share(page: SharedBuffer, source: object, position: number): void {
    page.source = source;
    page.position = position;
    const pages = this.#shared.get(source);
    if (pages === undefined) this.#shared.set(source, new Map([[position, page]]));
    else pages.set(position, page);
  }

  /** From now on nobody finds the page, and those that wait for it have to read for themselves. */
  unshare(page: SharedBuffer): void {
    page.withdraw();
    const pages = page.source && this.#shared.get(page.source);
    if (pages?.get(page.position) === page) pages.delete(page.position);
    page.source = undefined;
  }

  /** A page for a body that still has `remainingBytes` to send; `undefined` if there is no room for it now. */
  take(remainingBytes: number, owner: string): SharedBuffer | undefined {
    let bytes = this.#fitting(remainingBytes);
    while (bytes > MIN_PAGE_BYTES && !this.#hasRoom(bytes, owner)) bytes = smaller(bytes);
    return this.#hasRoom(bytes, owner) ? this.#lend(bytes, owner) : undefined;
  }

  /** A page for a body that has none, however little room there is. */
  takeFirst(remainingBytes: number, owner: string): SharedBuffer {
    return this.take(remainingBytes, owner) ?? extraPage();
  }

  /** Gives back a page of one holder. */
  give(page: SharedBuffer): void {
    page.holders -= 1;
    if (page.holders > 0) return;
    if (page.isExtra) {
      this.unshare(page);
      return;
    }
    this.#discount(page);
    this.#keep(page);
  }

  /**
   * Like `give`, but the kernel may still read from the page: its size is free again, the page itself is left to the
   * garbage collector.
   */
  forget(page: SharedBuffer): void {
    page.isTainted = true;
    this.give(page);
  }

  /** The page size for the current number of bodies, or a smaller one if that holds all that remains. */
  #fitting(remainingBytes: number): number {
    const row = PAGE_BYTES.find(({ upToBodies }) => this.#bodies <= upToBodies);
    let bytes = row?.bytes ?? MIN_PAGE_BYTES;
    while (bytes > MIN_PAGE_BYTES && smaller(bytes) >= remainingBytes) bytes = smaller(bytes);
    return bytes;
  }

  #hasRoom(bytes: number, owner: string): boolean {
    const isWithinShare = (this.#lentTo.get(owner) ?? 0) + bytes <= this.#shareBytes;
    return isWithinShare && this.#lentBytes + bytes <= this.#budgetBytes;
  }

  #count(page: SharedBuffer, owner: string): void {
    const { byteLength } = page.buffer;
    page.owner = owner;
    this.#lentBytes += byteLength;
    this.#lentTo.set(owner, (this.#lentTo.get(owner) ?? 0) + byteLength);
  }

  #discount({ buffer: { byteLength }, owner }: SharedBuffer): void {
    this.#lentBytes -= byteLength;
    const left = (this.#lentTo.get(owner) ?? 0) - byteLength;
    if (left > 0) this.#lentTo.set(owner, left);
    else this.#lentTo.delete(owner);
  }

  #lend(bytes: number, owner: string): SharedBuffer {
    const spare = this.#reusable(bytes);
    const page = spare ?? new SharedBuffer(pageAligned(bytes));
    if (spare !== undefined) {
      this.#unspare(spare);
      this.unshare(spare);
    }
    page.reset();
    page.holders = 1;
    this.#count(page, owner);
    return page;
  }

  /**
   * A free page to reuse. For a single body the one used last, which is still in the CPU's cache. For several the least
   * recently used one, and none while there is room to keep its content for other bodies.
   */
  #reusable(bytes: number): SharedBuffer | undefined {
    const spares = [...(this.#spare.get(bytes) ?? [])];
    if (this.#bodies <= 1) return spares.at(-1);
    const [oldest] = spares;
    const mayKeepIt = this.#lentBytes + this.#spareBytes + bytes <= this.#keptBytes;
    return oldest?.source !== undefined && mayKeepIt ? undefined : oldest;
  }

  #keep(page: SharedBuffer): void {
    const { byteLength } = page.buffer;
    if (page.isTainted || this.#lentBytes + this.#spareBytes + byteLength > this.#keptInUseBytes) {
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
}

function extraPage(): SharedBuffer {
  const page = new SharedBuffer(Buffer.allocUnsafeSlow(EXTRA_PAGE_BYTES));
  page.isExtra = true;
  page.holders = 1;
  return page;
}

/** The next smaller page size. */
function smaller(bytes: number): number {
  return Math.max(MIN_PAGE_BYTES, bytes / 4);
}
