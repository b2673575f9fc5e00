import { NotificationListeners } from '../notification-listeners.ts';
import type { Topic } from '../metadata-store.ts';
import type { Log } from '../../lib/log.ts';
import type { Database } from './database.ts';
import type { Writer } from './writer.ts';

/**
 * Tells processes about each other's changes: each topic has a version, which every change increments and all processes
 * poll. Not by LISTEN, which would need a connection past any pooler, and polling all the same.
 */
export class Notifications {
  readonly #database: Database;
  readonly #writer: Writer;
  readonly #listeners: NotificationListeners;

  constructor(database: Database, writer: Writer, log: Log) {
    this.#database = database;
    this.#writer = writer;
    this.#listeners = new NotificationListeners(log);
  }

  /** Ignores everything that was announced until now. */
  async begin(): Promise<void> {
    this.#listeners.begin(await this.#versions());
  }

  async notify(topic: Topic): Promise<void> {
    const row = await this.#writer.write(
      session =>
        session.row<{ version: number }>(
          `INSERT INTO @announcements AS a (topic, version) VALUES ($1, 1)
          ON CONFLICT (topic) DO UPDATE SET version = a.version + 1 RETURNING version`,
          [topic],
        ),
      { bearsOnPulls: false },
    );
    this.#listeners.sent(topic, row?.version ?? 0);
  }

  on(topic: Topic, listener: () => void): () => void {
    return this.#listeners.on(topic, listener);
  }

  /** Calls the listeners for what others have announced since the last call. */
  async look(): Promise<void> {
    this.#listeners.look(await this.#versions());
  }

  #versions() {
    return this.#database.rows<{ topic: Topic; version: number }>(
      'SELECT topic, version FROM @announcements',
    );
  }
}
