import type { Log } from '../../lib/log.ts';
import type { Topic } from '../metadata-store.ts';
import { NotificationListeners, type TopicVersion } from '../notification-listeners.ts';
import type { Connection, Statement } from './connection.ts';
import type { Writer } from './writer.ts';

/**
 * Tells processes about each other's changes: each topic has a version, which every change increments and all processes
 * poll.
 */
export class Notifications {
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #listeners: NotificationListeners;
  readonly #select: Statement<[], TopicVersion>;
  readonly #raise: Statement<[Topic], { version: number }>;

  constructor(connection: Connection, writer: Writer, log: Log) {
    this.#connection = connection;
    this.#writer = writer;
    this.#listeners = new NotificationListeners(log);
    this.#select = connection.prepare('SELECT topic, version FROM announcements');
    this.#raise = connection.prepare(`
      INSERT INTO announcements (topic, version) VALUES (?, 1)
      ON CONFLICT DO UPDATE SET version = version + 1 RETURNING version`);
  }

  /** Ignores everything that was announced until now. */
  async begin(): Promise<void> {
    this.#listeners.begin(await this.#versions());
  }

  async notify(topic: Topic): Promise<void> {
    const raise = () => this.#raise.get(topic)?.version ?? 0;
    this.#listeners.sent(topic, await this.#writer.write(raise, { bearsOnPulls: false }));
  }

  on(topic: Topic, listener: () => void): () => void {
    return this.#listeners.on(topic, listener);
  }

  /** Calls the listeners for what others have announced since the last call. */
  async look(): Promise<void> {
    this.#listeners.look(await this.#versions());
  }

  #versions(): Promise<readonly TopicVersion[]> {
    return this.#connection.read(() => this.#select.all());
  }
}
