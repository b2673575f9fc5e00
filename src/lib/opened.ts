/** Something that is open until it is closed, within a time limit. */
export interface Closable {
  close(deadlineMs: number): unknown;
}

/** Collects what was opened, in order. If a later part cannot be opened, the earlier ones can be closed. */
export class Opened {
  readonly #parts: Closable[] = [];

  /** Adds `part` and returns it. */
  add<Part extends Closable>(part: Part): Part {
    this.#parts.push(part);
    return part;
  }

  /**
   * Closes everything, last one first, within one deadline; calling it again has no effect. If one fails to close, the
   * others are still closed, and then its error is thrown.
   */
  async close(deadlineMs: number): Promise<void> {
    const endMs = performance.now() + deadlineMs;
    const failures: unknown[] = [];
    for (let part = this.#parts.pop(); part !== undefined; part = this.#parts.pop()) {
      try {
        await part.close(Math.max(0, endMs - performance.now()));
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 1) throw new AggregateError(failures, 'several parts could not be closed');
    if (failures.length > 0) throw failures[0];
  }
}
