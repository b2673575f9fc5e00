/** Something that is open until it is closed, in the time that is left. */
export interface Closable {
  close(deadlineMs: number): unknown;
}

/**
 * What was opened so far, each part on those before it. Whoever opens several keeps them here as he goes, so that a
 * later one that cannot be opened leaves none of the earlier ones open.
 */
export class Opened {
  readonly #parts: Closable[] = [];

  /** Keeps `part` and returns it. */
  add<Part extends Closable>(part: Part): Part {
    this.#parts.push(part);
    return part;
  }

  /**
   * Closes everything, the last one first, all within one deadline; again does nothing. What one of them throws keeps
   * none of the others open, and is thrown when all are closed.
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
