import type { Connection, Statement } from './connection.ts';

/** Values that all processes share. */
export class Settings {
  readonly #select: Statement<[string], { value: string }>;
  readonly #insert: Statement<[string, string]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare('SELECT value FROM settings WHERE name = ?');
    this.#insert = connection.prepare(
      'INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING',
    );
  }

  read(name: string): string | undefined {
    return this.#select.get(name)?.value;
  }

  /** Sets it unless it is set; what counts. */
  init(name: string, value: string): string {
    this.#insert.run(name, value);
    return this.read(name) ?? value;
  }
}
