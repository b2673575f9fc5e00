import type { Lease } from '../../lib/lease.ts';
import {
  DROPPED_AT_ONCE,
  MAX_WAITING,
  MAX_WAITING_MINOR,
  type Outbox,
  type OutboxMessage,
  type OutboxState,
  type WaitingMessage,
} from '../outbox.ts';
import type { Connection, Statement } from './connection.ts';
import type { Writer } from './writer.ts';

interface Counts {
  readonly waiting: number;
  readonly dropped: number;
}

/** The rows of the outbox, and its contract over them. */
export class OutboxRows implements Outbox {
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #require: (lease: Lease) => void;
  readonly #insert: Statement<[string, number, string]>;
  readonly #select: Statement<[string, number], WaitingMessage>;
  readonly #selectOldest: Statement<[string], { atMs: number }>;
  readonly #delete: Statement<[string, number]>;
  readonly #skip: Statement<[string, number, number]>;
  readonly #deleteOld: Statement<[number], { endpoint: string }>;
  readonly #selectCounts: Statement<[string], Counts>;
  readonly #count: Statement<[string, number, number]>;

  /** `require` throws LeaseLost, within a write, unless this process holds the Lease. */
  constructor(connection: Connection, writer: Writer, require: (lease: Lease) => void) {
    this.#connection = connection;
    this.#writer = writer;
    this.#require = require;
    this.#insert = connection.prepare('INSERT INTO outbox (endpoint, at_ms, body) VALUES (?, ?, ?)');
    this.#select = connection.prepare(
      'SELECT position, body FROM outbox WHERE endpoint = ? ORDER BY position LIMIT ?',
    );
    this.#selectOldest = connection.prepare(
      'SELECT at_ms AS atMs FROM outbox WHERE endpoint = ? ORDER BY position LIMIT 1',
    );
    this.#delete = connection.prepare('DELETE FROM outbox WHERE endpoint = ? AND position <= ?');
    this.#skip = connection.prepare(`
      DELETE FROM outbox WHERE position IN (
        SELECT position FROM outbox WHERE endpoint = ? AND position BETWEEN ? AND ?
        ORDER BY position LIMIT ${DROPPED_AT_ONCE})`);
    this.#deleteOld = connection.prepare(`
      DELETE FROM outbox
      WHERE position IN (SELECT position FROM outbox ORDER BY position LIMIT ${DROPPED_AT_ONCE}) AND at_ms < ?
      RETURNING endpoint`);
    this.#selectCounts = connection.prepare(
      'SELECT waiting, dropped FROM outbox_endpoints WHERE endpoint = ?',
    );
    this.#count = connection.prepare(`
      INSERT INTO outbox_endpoints (endpoint, waiting, dropped) VALUES (?, ?, ?)
      ON CONFLICT DO UPDATE SET waiting = waiting + excluded.waiting, dropped = dropped + excluded.dropped`);
  }

  put(messages: readonly OutboxMessage[]): Promise<void> {
    return this.#write(() => this.putWithin(messages));
  }

  /** Call within a write: adds messages to what it writes. */
  putWithin(messages: readonly OutboxMessage[]): void {
    const endpoints = new Set(messages.map(({ endpoint }) => endpoint));
    for (const endpoint of endpoints) {
      const before = this.#selectCounts.get(endpoint)?.waiting ?? 0;
      const own = messages.filter(message => message.endpoint === endpoint);
      let added = 0;
      for (const { body, atMs, isMinor } of own) {
        if (before + added >= (isMinor === true ? MAX_WAITING_MINOR : MAX_WAITING)) continue;
        this.#insert.run(endpoint, atMs, body);
        added += 1;
      }
      this.#count.run(endpoint, added, own.length - added);
    }
  }

  listNext(endpoint: string, limit: number): Promise<readonly WaitingMessage[]> {
    return this.#connection.read(() => this.#select.all(endpoint, limit));
  }

  remove(endpoint: string, position: number, lease: Lease): Promise<void> {
    return this.#write(() => {
      this.#require(lease);
      this.#count.run(endpoint, -this.#delete.run(endpoint, position).changes, 0);
    });
  }

  skip(endpoint: string, { from, to }: { readonly from: number; readonly to: number }): Promise<number> {
    return this.#write(() => {
      const { changes } = this.#skip.run(endpoint, from, to);
      if (changes > 0) this.#count.run(endpoint, -changes, 0);
      return changes;
    });
  }

  readState(endpoint: string): Promise<OutboxState> {
    return this.#connection.read(() => {
      const { waiting, dropped } = this.#selectCounts.get(endpoint) ?? { waiting: 0, dropped: 0 };
      return { waiting, oldestAtMs: this.#selectOldest.get(endpoint)?.atMs, dropped };
    });
  }

  dropBefore(beforeMs: number): Promise<number> {
    return this.#write(() => {
      const old = this.#deleteOld.all(beforeMs);
      for (const { endpoint } of old) this.#count.run(endpoint, -1, 1);
      return old.length;
    });
  }

  /** A message says nothing about content. Lost in a power failure, it is sent once more, or never was acknowledged. */
  #write<T>(work: () => T): Promise<T> {
    return this.#writer.write(work, { outlivesPower: false, bearsOnPulls: false });
  }
}
