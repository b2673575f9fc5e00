import type { Log } from '../../lib/log.ts';
import type { Topic } from '../metadata-store.ts';
import { OthersWatch, type TopicVersion } from '../others-watch.ts';
import type { Connection, Statement } from './connection.ts';
import type { EndedRightRows } from './ended-rights.ts';
import type { Writer } from './writer.ts';

/**
 * Tells processes about each other's changes: each topic has a version, which every change increments and all processes
 * poll.
 */
export class Notifications {
  readonly watch: OthersWatch;
  readonly #writer: Writer;
  readonly #raise: Statement<[Topic], { version: number }>;

  constructor({ connection, writer, endedRights }: NotificationParts, log: Log) {
    const select: Statement<[], TopicVersion> = connection.prepare(
      'SELECT topic, version FROM announcements',
    );
    const told = () => ({ versions: select.all(), ends: endedRights.count() });
    this.watch = new OthersWatch(() => connection.read(told), log);
    this.#writer = writer;
    this.#raise = connection.prepare(`
      INSERT INTO announcements (topic, version) VALUES (?, 1)
      ON CONFLICT DO UPDATE SET version = version + 1 RETURNING version`);
  }

  async notify(topic: Topic): Promise<void> {
    const raise = () => this.#raise.get(topic)?.version ?? 0;
    this.watch.sent(topic, await this.#writer.write(raise, { bearsOnPulls: false }));
  }
}

export interface NotificationParts {
  readonly connection: Connection;
  readonly writer: Writer;
  readonly endedRights: EndedRightRows;
}
