import type { Database } from './database.ts';

/** As an SQL expression: another number after every write that a pull may depend on, by whichever process. */
export const VERSION = '(SELECT sum(version)::bigint FROM @versions)';

/**
 * Asks for the version of the index, once for all who wait: a question takes a round trip, in which many pulls may come.
 */
export class IndexVersion {
  readonly #database: Database;
  #asking: Promise<number> | undefined;
  #next: Promise<number> | undefined;

  constructor(database: Database) {
    this.#database = database;
  }

  /** The version at some moment after the call. */
  look(): Promise<number> {
    if (this.#asking === undefined) return this.#ask();
    // The one that is under way may have been answered before.
    const previous = this.#asking;
    this.#next ??= previous
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.#ask();
      });
    return this.#next;
  }

  #ask(): Promise<number> {
    const asking = this.#read().finally(() => {
      if (this.#asking === asking) this.#asking = undefined;
    });
    this.#asking = asking;
    return asking;
  }

  async #read(): Promise<number> {
    const row = await this.#database.row<{ version: number }>(`SELECT ${VERSION} AS version`);
    return row?.version ?? 0;
  }
}
