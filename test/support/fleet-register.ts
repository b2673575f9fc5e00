/** What something may be by now, of which some writes were answered, some were not, and some may still happen. */
export class Register<T> {
  #possible: Set<T>;
  /** What requests would make of it that nobody waits for any more, but which a server may still carry out. */
  readonly #late = new Set<{ readonly value: T }>();

  constructor(initial: T) {
    this.#possible = new Set([initial]);
  }

  get possible(): ReadonlySet<T> {
    return this.#possible;
  }

  /** A write was acknowledged. */
  is(value: T): void {
    this.#possible = new Set([value, ...[...this.#late].map(late => late.value)]);
  }

  /** A write may have happened. */
  maybe(value: T): void {
    this.#possible.add(value);
  }

  /** A write may happen until `answered` resolves. */
  async later(value: T, answered: Promise<unknown>): Promise<void> {
    const late = { value };
    this.#possible.add(value);
    this.#late.add(late);
    await answered;
    this.#late.delete(late);
  }
}
