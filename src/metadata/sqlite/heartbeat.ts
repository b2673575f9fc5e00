import { randomUUID } from 'node:crypto';
import { errorCode } from '../../lib/error-code.ts';
import { type Lease, LeaseLost } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import type { Connection } from './connection.ts';
import { type LeaseRow, Leases, type ProcessRow } from './leases.ts';
import { forgetDead, isDead, Life } from './life.ts';
import type { WriteOptions, Writer } from './writer.ts';

/** How often a process shows that it lives, and looks at the others. */
const BEAT_MS = 1000;

/** A process whose heartbeat stood still for so many of our own beats is dead: 5 s, more than any pause of a live one. */
const DEAD_AFTER_BEATS = 5;

/** Within this time of a heartbeat nobody takes a process for dead: a beat less than others wait. */
const SURE_MS = (DEAD_AFTER_BEATS - 1) * BEAT_MS;

/** What a Lease comes to that is given back: nothing, or work that waits for the next holder. */
type GivenBack = 'released' | 'set aside';

export interface HeartbeatParts {
  readonly connection: Connection;
  readonly writer: Writer;
  readonly indexPath: string;
  readonly log: Log;
  /** Before each heartbeat, once a second: whether it is written. */
  readonly mayBeat: () => boolean;
  /** Called once a second, after each heartbeat. */
  readonly onBeat: () => void;
}

/**
 * This process among the others on the store, and the Leases it holds. Who has died is known at once by its lock (see
 * `Life`). Who only stands still is judged by what was seen and counted in our own beats, never by wall clocks: one that was
 * stopped for a minute must not wake up and take everybody else for dead; nor may it go on as if nothing had happened, and
 * by its own clock, which ran on, it knows.
 */
export class Heartbeat {
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #indexPath: string;
  readonly #leases: Leases;
  readonly #log: Log;
  readonly #mayBeat: () => boolean;
  readonly #onBeat: () => void;
  readonly #id = randomUUID();
  readonly #life: Life;
  readonly #held = new Map<number, OwnLease>();
  /** Leases that were given back and still have a row: a full disk took not even that. */
  readonly #unreturned = new Map<number, GivenBack>();
  /** Others, with how many of our beats ago theirs changed. */
  readonly #others = new Map<string, { heartbeat: number; unchangedBeats: number }>();
  /** When the last heartbeat that was written began, by `performance.now()`. */
  #shownAtMs = Number.NEGATIVE_INFINITY;
  #showing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** The last heartbeat was not written, and the log says so. */
  #isFailing = false;
  #isClosed = false;

  private constructor({ connection, writer, indexPath, log, mayBeat, onBeat }: HeartbeatParts) {
    this.#connection = connection;
    this.#writer = writer;
    this.#indexPath = indexPath;
    this.#leases = new Leases(connection);
    this.#log = log;
    this.#mayBeat = mayBeat;
    this.#onBeat = onBeat;
    this.#life = Life.begin(indexPath, this.#id);
  }

  /** Joins the processes on this store. */
  static async join(parts: HeartbeatParts): Promise<Heartbeat> {
    const heartbeat = new Heartbeat(parts);
    try {
      await heartbeat.#join();
    } catch (error) {
      heartbeat.#life.end();
      throw error;
    }
    heartbeat.#schedule();
    return heartbeat;
  }

  async #join(): Promise<void> {
    const processes = await this.#connection.read(() => this.#leases.processes());
    const dead = processes.filter(({ id }) => isDead(this.#indexPath, id));
    try {
      // Every write joins who is not there.
      await this.#write(() => dead.forEach(row => this.#leases.removeProcess(row, { isGone: true })));
    } catch (error) {
      // Reading goes on all the same, and a later heartbeat joins.
      if (errorCode(error) !== 'ENOSPC') throw error;
      this.#log.warn({ err: error }, 'the disk has no space for the heartbeat; retrying every second');
      this.#isFailing = true;
      return;
    }
    forgetDead(this.#indexPath);
  }

  /** Takes the Lease `key`; `undefined` when a live process has it, this one included. */
  async acquireLease(key: string): Promise<Lease | undefined> {
    const lease = await this.#take(key);
    if (lease !== undefined || !(await this.#holderIsDead(key))) return lease;
    return this.#take(key);
  }

  async #take(key: string): Promise<Lease | undefined> {
    const { taken, returned } = await this.#write(() => {
      const epochs = this.#returnLeft();
      return { taken: this.#leases.take(key, this.#id), returned: epochs };
    });
    returned.forEach(epoch => this.#unreturned.delete(epoch));
    if (taken === undefined) return undefined;
    const lease = new OwnLease(key, taken, () => this.#confirm(lease));
    this.#held.set(lease.epoch, lease);
    return lease;
  }

  /** True when the holder turned out to be dead, and was removed. */
  async #holderIsDead(key: string): Promise<boolean> {
    const row = await this.read(key);
    if (row?.processId === undefined || row.processId === this.#id) return false;
    if (!isDead(this.#indexPath, row.processId)) return false;
    await this.#write(() => {
      const dead = this.#leases.processes().filter(({ id }) => id === row.processId);
      dead.forEach(process => this.#remove(process, { isGone: true }));
    });
    return true;
  }

  /** Gives Leases back. What cannot be written now is written with a later heartbeat: a Lease must not outlive its work. */
  async giveBack(leases: readonly Lease[], as: GivenBack): Promise<void> {
    if (leases.length === 0) return;
    leases.forEach(({ epoch }) => this.#held.delete(epoch));
    try {
      await this.#writer.write(() => leases.forEach(({ epoch }) => this.#return(epoch, as)));
    } catch (error) {
      leases.forEach(({ epoch }) => this.#unreturned.set(epoch, as));
      const keys = leases.map(({ key }) => key);
      this.#log.warn({ err: error, keys }, 'leases could not be released; retrying later');
    }
  }

  /** Within a write: throws LeaseLost unless it is held. */
  requireWithin({ key, epoch }: Lease): void {
    if (!this.#leases.isOwn(epoch, this.#id)) throw new LeaseLost(key);
  }

  read(key: string): Promise<LeaseRow | undefined> {
    return this.#connection.read(() => this.#leases.read(key));
  }

  /** Those that live, this one included. */
  async count(): Promise<number> {
    const rows = await this.#connection.read(() => this.#leases.processes());
    return rows.filter(({ id }) => id === this.#id || !isDead(this.#indexPath, id)).length;
  }

  /** Leaves at once what this process holds: nothing of it is being written any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    try {
      await this.#writer.write(() => {
        const ours = this.#leases.processes().filter(({ id }) => id === this.#id);
        ours.forEach(row => this.#leases.removeProcess(row, { isGone: true }));
      });
    } finally {
      this.#life.end();
    }
  }

  #confirm(lease: OwnLease): Promise<void> | undefined {
    if (lease.isLost) throw new LeaseLost(lease.key);
    if (performance.now() - this.#shownAtMs < SURE_MS) return undefined;
    return this.#confirmInIndex(lease);
  }

  async #confirmInIndex(lease: OwnLease): Promise<void> {
    this.#showing ??= this.#write(() => {}).finally(() => {
      this.#showing = undefined;
    });
    await this.#showing;
    if (lease.isLost) throw new LeaseLost(lease.key);
  }

  /** Every write shows that this process lives. */
  async #write<T>(work: () => T, options?: WriteOptions): Promise<T> {
    const beganAtMs = performance.now();
    const result = await this.#writer.write(() => {
      this.#showLife();
      return work();
    }, options);
    this.#shownAtMs = beganAtMs;
    return result;
  }

  #schedule(): void {
    if (!this.#isClosed) {
      this.#timer = setTimeout(() => void this.#beat(), BEAT_MS);
      this.#timer.unref();
    }
  }

  async #beat(): Promise<void> {
    try {
      if (!this.#mayBeat()) return;
      const beat = () => {
        this.#removeDead();
        return this.#returnLeft();
      };
      const returned = await this.#write(beat, { outlivesPower: false });
      returned.forEach(epoch => this.#unreturned.delete(epoch));
      this.#isFailing = false;
      this.#onBeat();
    } catch (error) {
      // Once: a full disk lasts, and the log may be on it.
      if (!this.#isClosed && !this.#isFailing) {
        this.#log.warn({ err: error }, 'the heartbeat cannot be written; retrying every second');
      }
      this.#isFailing = true;
    } finally {
      this.#schedule();
    }
  }

  /** Within a write. What nobody has taken meanwhile is ours again with our row: it has our id still. */
  #showLife(): void {
    if (this.#leases.beat(this.#id)) return;
    this.#leases.join(this.#id);
    if (this.#shownAtMs === Number.NEGATIVE_INFINITY) return;
    const lost = [...this.#held.values()].filter(({ epoch }) => !this.#leases.isOwn(epoch, this.#id));
    for (const lease of lost) {
      lease.isLost = true;
      this.#held.delete(lease.epoch);
    }
    this.#log.warn(
      { lostLeases: lost.length, keptLeases: this.#held.size },
      'this process was suspended for so long that others considered it dead',
    );
  }

  /** Within a write. Answers their epochs. */
  #returnLeft(): readonly number[] {
    this.#unreturned.forEach((as, epoch) => this.#return(epoch, as));
    return [...this.#unreturned.keys()];
  }

  /** Within a write. */
  #return(epoch: number, as: GivenBack): void {
    if (as === 'released') this.#leases.release(epoch, this.#id);
    else this.#leases.setAside(epoch, this.#id);
  }

  /** Within a write. */
  #removeDead(): void {
    const others = this.#leases.processes().filter(({ id }) => id !== this.#id);
    const ids = new Set(others.map(({ id }) => id));
    for (const id of this.#others.keys()) {
      if (!ids.has(id)) {
        this.#others.delete(id);
      }
    }
    for (const other of others) {
      const unchangedBeats = this.#unchangedBeats(other);
      if (unchangedBeats > 0 && isDead(this.#indexPath, other.id)) this.#remove(other, { isGone: true });
      else if (unchangedBeats >= DEAD_AFTER_BEATS) this.#remove(other, { isGone: false });
    }
  }

  /** Within a write. */
  #remove(other: ProcessRow, { isGone }: { readonly isGone: boolean }): void {
    this.#leases.removeProcess(other, { isGone });
    this.#log.info(
      { process: other.id },
      isGone
        ? 'another process on this store is dead: its leases were released'
        : 'another process on this store is suspended: its leases were released',
    );
  }

  #unchangedBeats({ id, heartbeat }: ProcessRow): number {
    const seen = this.#others.get(id);
    const unchangedBeats = seen?.heartbeat === heartbeat ? seen.unchangedBeats + 1 : 0;
    this.#others.set(id, { heartbeat, unchangedBeats });
    return unchangedBeats;
  }
}

class OwnLease implements Lease {
  readonly key: string;
  readonly epoch: number;
  readonly left: Lease['left'];
  readonly confirm: Lease['confirm'];
  /** As far as was seen. */
  isLost = false;

  constructor(
    key: string,
    { epoch, left }: Pick<Lease, 'epoch' | 'left'>,
    confirm: () => Promise<void> | undefined,
  ) {
    this.key = key;
    this.epoch = epoch;
    this.left = left;
    this.confirm = confirm;
  }
}
