/**
 * A buffer between a reader and one or more sockets: bodies that send the same bytes at about the same time share a
 * page. Whoever took it first fills it once; after that nobody changes it while somebody holds it.
 */
export class SharedBuffer {
  readonly buffer: Buffer;
  /** How many bodies fill or send it. */
  holders = 0;
  /** Whose share of the memory it counts against: that of the holder that took it. */
  owner = '';
  /** Beyond the budget, and not kept. */
  isExtra = false;
  /** Identifies its content, if others may share it. */
  source: object | undefined;
  /** The position of its first byte in `source`. */
  position = 0;
  /** Set if the kernel may still read from it although nobody holds it: never to be filled again. */
  isTainted = false;
  #length: number | undefined;
  #isWithdrawn = false;
  readonly #watchers = new Set<() => void>();

  constructor(buffer: Buffer) {
    this.buffer = buffer;
  }

  /** The length of its content; `undefined` while it is being filled, and for ever if that failed. */
  get length(): number | undefined {
    return this.#length;
  }

  /** Whether filling it failed, or its bytes are for one reader only: others have to read for themselves. */
  get isWithdrawn(): boolean {
    return this.#isWithdrawn;
  }

  /** Prepares it to be filled again. */
  reset(): void {
    this.#length = undefined;
    this.#isWithdrawn = false;
  }

  fill(length: number): void {
    this.#length = length;
    this.#settle();
  }

  withdraw(): void {
    this.#isWithdrawn = true;
    this.#settle();
  }

  /** Calls `settled` once, when the page is filled or withdrawn. */
  watch(settled: () => void): void {
    this.#watchers.add(settled);
  }

  #settle(): void {
    for (const settled of this.#watchers) settled();
    this.#watchers.clear();
  }
}
