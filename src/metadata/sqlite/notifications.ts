import type { Log } from '../../lib/log.ts';
import type { Topic } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import type { Writer } from './writer.ts';

/**
 * Tells processes about each other's changes: each topic has a version, which every change increments and all processes
 * poll.
 */
export class Notifications {
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #log: Log;
  readonly #select: Statement<[], { topic: Topic; version: number }>;
  readonly #raise: Statement<[Topic], { version: number }>;
  readonly #seen = new Map<Topic, number>();
  readonly #listeners = new Set<{ readonly topic: Topic; readonly listener: () => void }>();

  constructor(connection: Connection, writer: Writer, log: Log) {
    this.#connection = connection;
    this.#writer = writer;
    this.#log = log;
    this.#select = connection.prepare('SELECT topic, version FROM announcements');
    this.#raise = connection.prepare(`
      INSERT INTO announcements (topic, version) VALUES (?, 1)
      ON CONFLICT DO UPDATE SET version = version + 1 RETURNING version`);
  }

  /** Ignores everything that was announced until now. */
  async begin(): Promise<void> {
    const rows = await this.#connection.read(() => this.#select.all());
    rows.forEach(({ topic, version }) => this.#seen.set(topic, version));
  }

  async notify(topic: Topic): Promise<void> {
    const version = await this.#writer.write(() => this.#raise.get(topic)?.version ?? 0);
    // Unless another process has announced something in between, our own change is not news.
    if (version === (this.#seen.get(topic) ?? 0) + 1) {
      this.#seen.set(topic, version);
    }
  }

  on(topic: Topic, listener: () => void): () => void {
    const entry = { topic, listener };
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  /** Calls the listeners for what others have announced since the last call. */
  async look(): Promise<void> {
    for (const { topic, version } of await this.#connection.read(() => this.#select.all())) {
      if (version !== (this.#seen.get(topic) ?? 0)) {
        this.#seen.set(topic, version);
        this.#tell(topic);
      }
    }
  }

  #tell(topic: Topic): void {
    for (const entry of this.#listeners) {
      if (entry.topic === topic) {
        try {
          entry.listener();
        } catch (error) {
          this.#log.error({ err: error, topic }, 'a listener for notifications failed');
        }
      }
    }
  }
}
