/** Thrown if something cannot be measured here because a program is missing. The message says what is needed. */
export class NotMeasured extends Error {}

/** The sections of a run: those that were named, or all of them if none was. */
export class Sections {
  readonly #named: readonly string[];
  readonly #known = new Set<string>();

  constructor(named: readonly string[]) {
    this.#named = named;
  }

  /**
   * Measures and prints. If a table fails, the others are still measured, but the run fails at its end. It also fails if a
   * table of a named section cannot be measured here; a run of all sections skips such tables.
   */
  async measure(section: string, ...tables: readonly (() => Promise<string | void>)[]): Promise<void> {
    this.#known.add(section);
    const isNamed = this.#named.includes(section);
    if (!isNamed && this.#named.length > 0) return;
    for (const make of tables) {
      const startedMs = performance.now();
      try {
        const text = await make();
        if (text !== undefined) console.log(text);
      } catch (error) {
        const isMissing = error instanceof NotMeasured;
        if (isMissing) console.error(`${section} was not measured: ${error.message}`);
        else console.error(`${section} failed:`, error);
        if (!isMissing || isNamed) process.exitCode = 1;
      }
      console.log(`(${section}: ${Math.round((performance.now() - startedMs) / 1000)} s)`);
    }
  }

  /** Call at the end: the run fails if a section was named that does not exist. */
  close(): void {
    const unknown = this.#named.filter(name => !this.#known.has(name));
    if (unknown.length === 0) return;
    console.error(`no such section: ${unknown.join(', ')} (there are ${[...this.#known].join(', ')})`);
    process.exitCode = 1;
  }
}
