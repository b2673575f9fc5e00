import type { Log } from '../../lib/log.ts';
import type { Topic } from '../metadata-store.ts';
import { OthersWatch, type Told } from '../others-watch.ts';
import type { Database } from './database.ts';
import type { Writer } from './writer.ts';

/**
 * Tells processes about each other's changes: each topic has a version, which every change increments and all processes
 * poll. Not by LISTEN, which would need a connection that bypasses any pooler, and polling as well.
 */
export class Notifications {
  readonly watch: OthersWatch;
  readonly #writer: Writer;

  constructor(database: Database, writer: Writer, log: Log) {
    this.#writer = writer;
    this.watch = new OthersWatch(() => readTold(database), log);
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
    this.watch.sent(topic, row?.version ?? 0);
  }
}

/** In one statement, since every process asks once a second. */
async function readTold(database: Database): Promise<Told> {
  const rows = await database.rows<{ ends: number; topic: Topic | null; version: number | null }>(
    `SELECT e.ends, a.topic, a.version
    FROM (SELECT coalesce(max(ends), 0) AS ends FROM @ended_rights) e LEFT JOIN @announcements a ON true`,
  );
  const versions = rows.flatMap(({ topic, version }) =>
    topic === null || version === null ? [] : [{ topic, version }],
  );
  return { versions, ends: rows[0]?.ends ?? 0 };
}
