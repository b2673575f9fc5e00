/** Larger batches hardly make a request cheaper, and the garbage collector moves everything that their requests hold. */
const MAX_TOGETHER = 32;

/**
 * Work for requests, done in batches at the end of the turn of the event loop in which it was added: code that runs for
 * several requests in a row costs much less than code that alternates with the rest of each request. What the work of a
 * batch has in common is found out once.
 */
export class TurnBatches<Shared> {
  readonly #share: () => Shared;
  #added: ((shared: Shared) => void)[] = [];

  /** `share` is called for each batch, before its work. Neither that nor the work may throw. */
  constructor(share: () => Shared) {
    this.#share = share;
  }

  /** Runs `work` at the end of this turn, or as soon as its batch is full. */
  add(work: (shared: Shared) => void): void {
    if (this.#added.length === 0) setImmediate(() => this.#run());
    this.#added.push(work);
    if (this.#added.length === MAX_TOGETHER) this.#run();
  }

  #run(): void {
    const added = this.#added;
    if (added.length === 0) return;
    this.#added = [];
    const shared = this.#share();
    for (const work of added) work(shared);
  }
}
