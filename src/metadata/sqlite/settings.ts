import type { Connection, Statement } from './connection.ts';

/** Values that all processes share. */
export class Settings {
  readonly #select: Statement<[string], { value: string }>;
  readonly #insert: Statement<[string, string]>;
  readonly #upsert: Statement<[string, string]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare('SELECT value FROM settings WHERE name = ?');
    this.#insert = connection.prepare(
      'INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING',
    );
    this.#upsert = connection.prepare(
      'INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value',
    );
  }

  read(name: string): string | undefined {
    return this.#select.get(name)?.value;
  }

  put(name: string, value: string): void {
    this.#upsert.run(name, value);
  }

  /** Sets it unless it is set; returns the value that is then set. */
  init(name: string, value: string): string {
    this.#insert.run(name, value);
    return this.read(name) ?? value;
  }
}
