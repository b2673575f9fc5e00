/**
 * A buffer on its way from a reader to one socket or several: bodies of the same bytes that are near each other send
 * the same page. Read into once, by whoever took it first; from then on nobody changes it while somebody holds it.
 */
export class SharedBuffer {
  readonly buffer: Buffer;
  /** Bodies that read into it or send it. */
  holders = 0;
  /** What its bytes are of, where others may have them too. */
  source: object | undefined;
  /** Of its first byte in `source`. */
  position = 0;
  /** The kernel may still read from it although nobody holds it: never to be read into again. */
  isTainted = false;
  #length: number | undefined;
  #isWithdrawn = false;
  readonly #watchers = new Set<() => void>();

  constructor(bytes: number) {
    this.buffer = Buffer.allocUnsafeSlow(bytes);
  }

  /** Bytes that are there; `undefined` while they are being read, and for ever if that failed. */
  get length(): number | undefined {
    return this.#length;
  }

  /** Who read it failed, or read what is for that one alone: whoever else wants these bytes has to read them. */
  get isWithdrawn(): boolean {
    return this.#isWithdrawn;
  }

  /** To be read into anew. */
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

  /** `settled` is called once, when the page is filled or withdrawn. */
  watch(settled: () => void): void {
    this.#watchers.add(settled);
  }

  #settle(): void {
    for (const settled of this.#watchers) settled();
    this.#watchers.clear();
  }
}
