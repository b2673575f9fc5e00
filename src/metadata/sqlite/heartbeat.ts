import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import type { Clock, Timer } from '../../lib/clock.ts';
import { errorCode } from '../../lib/error-code.ts';
import { type Lease, LeaseLost, type LeaseState, type Presence, PresenceEnded } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import type { Connection } from './connection.ts';
import { type LeaseRow, LeaseRows, type ProcessRow, THREAD } from './leases.ts';
import { forgetDead, isDead, Life } from '../life.ts';
import { type GivenBack, OwnLease } from '../own-lease.ts';
import { OwnPresence } from '../own-presence.ts';
import type { Writer } from './writer.ts';

/** How often a process writes its heartbeat and checks those of the others. */
const BEAT_MS = 1000;

/**
 * A process whose heartbeat has not changed for this many of our own beats is dead: 5 s, more than any pause of a live
 * one.
 */
const DEAD_AFTER_BEATS = 5;

/** For this long after a heartbeat nobody considers a process dead: one beat less than others wait. */
const SURE_MS = (DEAD_AFTER_BEATS - 1) * BEAT_MS;

/** This process, for people who read of it elsewhere. */
const ADDRESS = `process ${process.pid} on ${hostname()}`;

/** Heartbeats, and how many of our beats ago each changed, by the id of the process. */
type OtherProcesses = Map<string, { readonly heartbeat: number; readonly unchangedBeats: number }>;

export interface HeartbeatParts {
  readonly connection: Connection;
  readonly writer: Writer;
  readonly indexPath: string;
  readonly log: Log;
  readonly clock: Clock;
  /** Whether a thread joins whose process has joined already. */
  readonly isThread: boolean;
  /** Called before each heartbeat, once a second: whether it may be written. */
  readonly mayBeat: () => boolean;
  /** Called after each heartbeat, once a second. */
  readonly onBeat: () => void;
}

/**
 * This process among the others on the store, and the Leases that it holds.
 *
 * A process that has ended is detected at once by its lock (see `Life`). A process that is suspended is detected by
 * counting its unchanged heartbeats in our own beats, never by wall clocks. A process that wakes up after a minute must
 * not consider all others dead, nor continue as if nothing had happened; it knows by its own clock, which continued,
 * how long it was suspended.
 */
export class Heartbeat {
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #folder: string;
  readonly #leases: LeaseRows;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #mayBeat: () => boolean;
  readonly #onBeat: () => void;
  readonly #id: string;
  readonly #life: Life;
  readonly #presence: OwnPresence;
  readonly #held = new Map<number, OwnLease>();
  /** Leases that were given back but still have a row, because the disk was full. */
  readonly #unreturned = new Map<number, GivenBack>();
  /** Other processes, with how many of our beats ago their heartbeat changed. */
  #others: OtherProcesses = new Map();
  /** When the last heartbeat that was written began, by `Clock.monotonicMs`. */
  #shownAtMs = Number.NEGATIVE_INFINITY;
  #showing: Promise<void> | undefined;
  #timer: Timer | undefined;
  /** Set while heartbeats cannot be written and the log says so. */
  #isFailing = false;
  #isClosed = false;

  private constructor(parts: HeartbeatParts) {
    const { connection, writer, indexPath, log, clock, isThread, mayBeat, onBeat } = parts;
    this.#connection = connection;
    this.#writer = writer;
    this.#folder = dirname(indexPath);
    this.#leases = new LeaseRows(connection);
    this.#log = log;
    this.#clock = clock;
    this.#presence = new OwnPresence(clock);
    this.#mayBeat = mayBeat;
    this.#onBeat = onBeat;
    this.#id = `${randomUUID()}${isThread ? THREAD : ''}`;
    this.#life = Life.begin(this.#folder, this.#id);
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
    const dead = processes.filter(({ id }) => isDead(this.#folder, id));
    try {
      // Every write also adds the row of this process if it is missing.
      await this.#write(() => dead.forEach(row => this.#leases.removeProcess(row, { isGone: true })));
    } catch (error) {
      // Reading is still possible, and a later heartbeat adds the row.
      if (errorCode(error) !== 'ENOSPC') throw error;
      this.#log.warn({ err: error }, 'the disk has no space for the heartbeat; retrying every second');
      this.#isFailing = true;
      return;
    }
    forgetDead(this.#folder);
  }

  /** As in `Leases`. */
  async acquireLease(key: string, onHeld?: (held: LeaseState) => void): Promise<Lease | undefined> {
    const lease = await this.#take(key);
    if (lease !== undefined) return lease;
    const row = await this.read(key);
    if (await this.#isDead(row?.processId)) return this.#take(key);
    if (row?.isHeld === true) onHeld?.(row);
    return undefined;
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

  /** Removes the holder of a Lease if it is dead; returns whether it was. */
  async #isDead(holder: string | undefined): Promise<boolean> {
    if (holder === undefined || holder === this.#id || !isDead(this.#folder, holder)) return false;
    await this.#write(() => {
      const dead = this.#leases.processes().filter(({ id }) => id === holder);
      dead.forEach(process => this.#remove(process, { isGone: true }));
    });
    return true;
  }

  /**
   * Gives Leases back. If that cannot be written now, it is written with a later heartbeat: a Lease must not outlive
   * its work.
   */
  async giveBack(leases: readonly Lease[], as: GivenBack): Promise<void> {
    if (leases.length === 0) return;
    leases.forEach(({ epoch }) => this.#held.delete(epoch));
    try {
      const giveBack = () => leases.forEach(({ epoch }) => this.#return(epoch, as));
      await this.#writer.write(giveBack, { outlivesPower: false, bearsOnPulls: false });
    } catch (error) {
      leases.forEach(({ epoch }) => this.#unreturned.set(epoch, as));
      const keys = leases.map(({ key }) => key);
      this.#log.warn({ err: error, keys }, 'leases could not be released; retrying later');
    }
  }

  /** Call within a write: throws LeaseLost unless the Lease is held. */
  requireWithin({ key, epoch }: Lease): void {
    if (!this.#leases.isOwn(epoch, this.#id)) throw new LeaseLost(key);
  }

  get processId(): string {
    return this.#id;
  }

  get presence(): Presence {
    return this.#presence.current;
  }

  /** Call within a read or write: whether others consider this process dead. */
  seemsDead(): boolean {
    // Nobody can consider a process dead of which nobody knows yet, since the disk was full.
    return this.#hasJoined && !this.#leases.hasProcess(this.#id);
  }

  /** Call within a read or write: whether there are other processes, which may record rights. */
  hasOthers(): boolean {
    return this.#leases.hasOthers(this.#id);
  }

  /** Call within a write: throws PresenceEnded unless `presence` lasts. */
  requirePresence(presence: Presence): void {
    // Whoever adds the row again ends the Presence in the same write.
    if (this.seemsDead() || presence.isOver) throw new PresenceEnded();
  }

  /** Like `requirePresence`, but outside a write, for this moment. */
  async confirmPresence(presence: Presence): Promise<void> {
    if (this.#clock.monotonicMs() - this.#shownAtMs >= SURE_MS)
      await this.#connection.read(() => this.requirePresence(presence));
    if (presence.isOver) throw new PresenceEnded();
  }

  read(key: string): Promise<LeaseRow | undefined> {
    return this.#connection.read(() => this.#leases.read(key));
  }

  /** The number of live processes, including this one. */
  async count(): Promise<number> {
    const rows = await this.#connection.read(() => this.#leases.processes());
    const processes = rows.filter(({ id }) => !id.endsWith(THREAD));
    return processes.filter(({ id }) => id === this.#id || !isDead(this.#folder, id)).length;
  }

  /** Gives up everything that this process holds. Call when it writes nothing any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#timer?.cancel();
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
    if (this.#clock.monotonicMs() - this.#shownAtMs < SURE_MS) return undefined;
    return this.#confirmInIndex(lease);
  }

  async #confirmInIndex(lease: OwnLease): Promise<void> {
    this.#showing ??= this.#write(() => {}).finally(() => {
      this.#showing = undefined;
    });
    await this.#showing;
    if (lease.isLost) throw new LeaseLost(lease.key);
  }

  /**
   * Every write also counts as a heartbeat. Only the first has to be on disk, because it joins: after a power failure no
   * process is left, and every Lease is free.
   */
  async #write<T>(work: () => T): Promise<T> {
    const beganAtMs = this.#clock.monotonicMs();
    const write = () => {
      this.#showLife();
      return work();
    };
    const result = await this.#writer.write(write, { outlivesPower: !this.#hasJoined, bearsOnPulls: false });
    this.#shownAtMs = beganAtMs;
    return result;
  }

  /** Whether its row was on disk once. */
  get #hasJoined(): boolean {
    return this.#shownAtMs !== Number.NEGATIVE_INFINITY;
  }

  #schedule(): void {
    if (!this.#isClosed) {
      this.#timer = this.#clock.after(BEAT_MS, () => void this.#beat()).unref();
    }
  }

  async #beat(): Promise<void> {
    try {
      if (!this.#mayBeat()) return;
      const beat = () => ({ others: this.#removeDead(), returned: this.#returnLeft() });
      const { others, returned } = await this.#write(beat);
      this.#others = others;
      returned.forEach(epoch => this.#unreturned.delete(epoch));
      this.#isFailing = false;
      this.#presence.beat();
      this.#onBeat();
    } catch (error) {
      // Logged once: a full disk stays full for a while, and the log may be on it.
      if (!this.#isClosed && !this.#isFailing) {
        this.#log.warn({ err: error }, 'the heartbeat cannot be written; retrying every second');
      }
      this.#isFailing = true;
    } finally {
      this.#schedule();
    }
  }

  /**
   * Call within a write. If our row was removed, adds it again; Leases that nobody has taken meanwhile are then held
   * again, since they have our id.
   */
  #showLife(): void {
    if (this.#leases.beat(this.#id)) return;
    this.#leases.join(this.#id, ADDRESS);
    if (!this.#hasJoined) {
      this.#leases.skipEpochs();
      return;
    }
    this.#presence.end();
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

  /** Call within a write. Returns the epochs. */
  #returnLeft(): readonly number[] {
    this.#unreturned.forEach((as, epoch) => this.#return(epoch, as));
    return [...this.#unreturned.keys()];
  }

  /** Call within a write. */
  #return(epoch: number, as: GivenBack): void {
    if (as === 'released') this.#leases.release(epoch, this.#id);
    else this.#leases.setAside(epoch, this.#id);
  }

  /** Call within a write. Returns how often each of the others has now not changed its heartbeat. */
  #removeDead(): OtherProcesses {
    const others: OtherProcesses = new Map();
    for (const other of this.#leases.processes()) {
      const { id, heartbeat } = other;
      if (id === this.#id) continue;
      const unchangedBeats = this.#unchangedBeats(other);
      others.set(id, { heartbeat, unchangedBeats });
      if (unchangedBeats > 0 && isDead(this.#folder, id)) this.#remove(other, { isGone: true });
      else if (unchangedBeats >= DEAD_AFTER_BEATS) this.#remove(other, { isGone: false });
    }
    return others;
  }

  /** Call within a write. */
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
    return seen?.heartbeat === heartbeat ? seen.unchangedBeats + 1 : 0;
  }
}
