/** Thrown by what cannot be measured here, because a program is missing. The message says what is needed. */
export class NotMeasured extends Error {}

/** The sections of a run: those that were named, or all of them if none was. */
export class Sections {
  readonly #named: readonly string[];
  readonly #known = new Set<string>();

  constructor(named: readonly string[]) {
    this.#named = named;
  }

  /**
   * Measures and prints; a table that fails says so and lets the others be measured, and the whole run fails at its end. So
   * does one that cannot be measured, if its section was named: a run of everything leaves it out.
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

  /** Call at the end: names that are no section's fail the run. */
  close(): void {
    const unknown = this.#named.filter(name => !this.#known.has(name));
    if (unknown.length === 0) return;
    console.error(`no such section: ${unknown.join(', ')} (there are ${[...this.#known].join(', ')})`);
    process.exitCode = 1;
  }
}
