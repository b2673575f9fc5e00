// The outbox in memory.
import type { Lease } from '../../lib/lease.ts';
import {
  DROPPED_AT_ONCE,
  MAX_WAITING,
  MAX_WAITING_MINOR,
  type Outbox,
  type OutboxMessage,
} from '../outbox.ts';
import type { OutboxRow, Tables } from './tables.fixture.ts';

interface Store {
  readonly write: <T>(work: () => T) => Promise<Awaited<T>>;
  /** Throws LeaseLost, within a write, unless the Lease is held. */
  readonly require: (lease: Lease) => void;
}

export class MemoryOutbox implements Outbox {
  readonly #tables: Tables;
  readonly #store: Store;

  constructor(tables: Tables, store: Store) {
    this.#tables = tables;
    this.#store = store;
  }

  put(messages: readonly OutboxMessage[]) {
    return this.#store.write(() => this.putWithin(messages));
  }

  putWithin(messages: readonly OutboxMessage[]): void {
    const { outbox } = this.#tables;
    const waiting = new Map<string, number>();
    for (const { endpoint } of outbox.values()) waiting.set(endpoint, (waiting.get(endpoint) ?? 0) + 1);
    let last = this.#tables.lastPosition;
    for (const message of messages) {
      const { endpoint, isMinor } = message;
      const before = waiting.get(endpoint) ?? 0;
      if (before >= (isMinor === true ? MAX_WAITING_MINOR : MAX_WAITING)) {
        this.#drop(endpoint);
        continue;
      }
      last += 1;
      outbox.set(String(last), { ...message, position: last });
      waiting.set(endpoint, before + 1);
    }
    this.#tables.lastPosition = last;
  }

  async listNext(endpoint: string, limit: number) {
    return this.#of(endpoint)
      .slice(0, limit)
      .map(({ position, body }) => ({ position, body }));
  }

  remove(endpoint: string, position: number, lease: Lease) {
    return this.#store.write(() => {
      this.#store.require(lease);
      for (const row of this.#of(endpoint))
        if (row.position <= position) this.#tables.outbox.delete(String(row.position));
    });
  }

  skip(endpoint: string, { from, to }: { readonly from: number; readonly to: number }) {
    return this.#store.write(() => {
      const skipped = this.#of(endpoint)
        .filter(({ position }) => position >= from && position <= to)
        .slice(0, DROPPED_AT_ONCE);
      for (const { position } of skipped) this.#tables.outbox.delete(String(position));
      return skipped.length;
    });
  }

  async readState(endpoint: string) {
    const waiting = this.#of(endpoint);
    return {
      waiting: waiting.length,
      oldestAtMs: waiting[0]?.atMs,
      dropped: this.#tables.dropped.get(endpoint) ?? 0,
    };
  }

  dropBefore(beforeMs: number) {
    return this.#store.write(() => {
      const old = this.#tables.outbox
        .values()
        .slice(0, DROPPED_AT_ONCE)
        .filter(({ atMs }) => atMs < beforeMs);
      for (const { position, endpoint } of old) {
        this.#tables.outbox.delete(String(position));
        this.#drop(endpoint);
      }
      return old.length;
    });
  }

  #drop(endpoint: string): void {
    this.#tables.dropped.set(endpoint, (this.#tables.dropped.get(endpoint) ?? 0) + 1);
  }

  #of(endpoint: string): readonly OutboxRow[] {
    return this.#tables.outbox.values().filter(row => row.endpoint === endpoint);
  }
}
