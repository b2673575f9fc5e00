import { type Client, statement } from './driver.ts';

/** The server ends no transaction that was idle for so short a time. */
const SURE_MS = 1_000;

/** Questions, on one connection or any of a pool. Writing takes a session, that of a `Writer`. */
export interface Rows {
  /** The rows of a statement. `@name` in it stands for a table or function of the index, `$1` for the first parameter. */
  rows<Row>(sql: string, parameters?: readonly unknown[]): Promise<readonly Row[]>;
  /** The first row. */
  row<Row>(sql: string, parameters?: readonly unknown[]): Promise<Row | undefined>;
}

/**
 * Replaces `@` by the schema. A connection has no search path of its own: behind a pooler, each statement outside a
 * transaction may get another connection.
 */
export class Schema {
  readonly name: string;
  readonly #prefix: string;
  /** The texts are constants of the program. */
  readonly #texts = new Map<string, string>();

  constructor(name: string) {
    this.name = name;
    this.#prefix = `"${name.replaceAll('"', '""')}".`;
  }

  text(sql: string): string {
    const known = this.#texts.get(sql);
    if (known !== undefined) return known;
    const text = sql.replaceAll('@', this.#prefix);
    this.#texts.set(sql, text);
    return text;
  }
}

/**
 * Statements on one connection. They are not given names: a pooler in transaction mode may send the next one to another
 * server process, which would not know the name.
 */
export class PostgresSession implements Rows {
  readonly #client: Client;
  readonly #schema: Schema;
  readonly #answerWithinMs: number;
  /** When the last statement was sent, by `performance.now`. */
  #sentAtMs = Number.NEGATIVE_INFINITY;

  /** `answerWithinMs`: when a connection without an answer is considered dead. */
  constructor(client: Client, schema: Schema, answerWithinMs: number) {
    this.#client = client;
    this.#schema = schema;
    this.#answerWithinMs = answerWithinMs;
  }

  async rows<Row>(sql: string, parameters: readonly unknown[] = []): Promise<readonly Row[]> {
    const { rows } = await this.#client.query<Row & object>(this.#statement(sql, parameters));
    return rows;
  }

  async row<Row>(sql: string, parameters: readonly unknown[] = []): Promise<Row | undefined> {
    return (await this.rows<Row>(sql, parameters))[0];
  }

  /** How many rows a statement has changed. */
  async changes(sql: string, parameters: readonly unknown[] = []): Promise<number> {
    const { rowCount } = await this.#client.query(this.#statement(sql, parameters));
    return rowCount ?? 0;
  }

  /**
   * Call within a transaction, right before anything that cannot be undone: its locks are held then. A process that was
   * suspended reads answers of a transaction that the server has ended meanwhile; here it finds out, and this rejects.
   */
  async confirmLocks(): Promise<void> {
    while (performance.now() - this.#sentAtMs > SURE_MS) await this.rows('SELECT 1');
  }

  #statement(sql: string, parameters: readonly unknown[]) {
    this.#sentAtMs = performance.now();
    return statement(this.#schema.text(sql), parameters, this.#answerWithinMs);
  }
}
