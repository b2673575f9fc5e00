import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Clock, Timer } from '../../lib/clock.ts';
import { type Lease, LeaseLost, type LeaseState, type Presence, PresenceEnded } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import { IndexAway } from '../index-away.ts';
import { IndexUnusable } from '../index-unusable.ts';
import { forgetDead, isDead, Life } from '../life.ts';
import { type GivenBack, OwnLease } from '../own-lease.ts';
import { OwnPresence } from '../own-presence.ts';
import type { Database } from './database.ts';
import * as leases from './leases.ts';
import * as replicas from './replicas.ts';
import type { PostgresSession } from './session.ts';
import type { WriteOptions, Writer } from './writer.ts';

/** How often a process shows that it lives, and removes others that do not. */
const BEAT_MS = 1_000;

/** For this long after a heartbeat nobody considers a process dead: one beat less than others wait. */
const SURE_MS = leases.DEAD_AFTER_MS - BEAT_MS;

/** A write that nobody waits for, and that no pull depends on. */
const LIGHT: WriteOptions = { outlivesPower: false, bearsOnPulls: false };
/** A Lease that was acquired is not forgotten when the database crashes: its epoch must not come again. */
const DURABLE: WriteOptions = { bearsOnPulls: false };

/** The local folder of a store whose index is in a database. */
export interface StoreFolder {
  readonly path: string;
  readonly id: string;
  /** The `host:port` at which other replicas, with folders of their own, reach this one. `undefined` if there are none. */
  readonly replica?: string | undefined;
}

export interface HeartbeatParts {
  readonly database: Database;
  readonly writer: Writer;
  /** Where the processes on one folder keep their locks, and who may use the index with it. */
  readonly folder: StoreFolder;
  readonly log: Log;
  readonly clock: Clock;
  /** Whether a thread joins whose process has joined already. */
  readonly isThread: boolean;
  /** Whether it serves as the replica: others are then told if it disappears without shutting down. */
  readonly serves: boolean;
  /** Called after each heartbeat, once a second. */
  readonly onBeat: () => void;
}

/**
 * This process among the others on the index, and the Leases that it holds.
 *
 * Heartbeats are times of the database's clock, the only one that all share. A process that has ended is detected at once
 * by the others on its folder, from its lock (`Life`), and by all others after 5 s. A process that comes back after a pause,
 * of its own or of the database, does not know how long others were silent only because nobody could write: it removes
 * none until its own heartbeats have been written for as long.
 */
export class Heartbeat {
  readonly #database: Database;
  readonly #writer: Writer;
  readonly #folder: HeartbeatParts['folder'];
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #onBeat: () => void;
  readonly #self: leases.ProcessIdentity;
  readonly #serves: boolean;
  readonly #life: Life;
  #presence: OwnPresence;
  readonly #held = new Map<number, OwnLease>();
  /** Leases that were given back but still have a row, because the database could not be reached. */
  readonly #unreturned = new Map<number, GivenBack>();
  /**
   * Leases of which it is not known whether they were taken, with the transaction that released them first, if any: they are
   * certainly released once all transactions before it have ended.
   */
  readonly #uncertain = new Map<number, leases.TransactionId | undefined>();
  /** Those who are acquiring Leases. */
  readonly #acquiring = new Set<Promise<Lease | undefined>>();
  /** The run of the server in which the last heartbeat was written; `undefined` before the first. */
  #run: string | undefined;
  /** When the last heartbeat that was written began, by `Clock.monotonicMs`. */
  #shownAtMs = Number.NEGATIVE_INFINITY;
  /** Since when heartbeats have been written without a gap. */
  #steadySinceMs = Number.POSITIVE_INFINITY;
  /** When the first of these had been written. */
  #seenSinceMs = Number.POSITIVE_INFINITY;
  #showing: Promise<void> | undefined;
  #timer: Timer | undefined;
  /** Set while heartbeats cannot be written and the log says so. */
  #isFailing = false;
  #isClosed = false;

  private constructor(parts: HeartbeatParts) {
    const { database, writer, folder, log, clock, isThread, serves, onBeat } = parts;
    this.#database = database;
    this.#writer = writer;
    this.#folder = folder;
    this.#log = log;
    this.#clock = clock;
    this.#presence = new OwnPresence(clock);
    this.#serves = serves;
    this.#onBeat = onBeat;
    const id = randomUUID();
    this.#self = {
      id,
      address: `process ${process.pid} on ${hostname()}`,
      folder: folder.id,
      replica: folder.replica,
      isThread,
    };
    this.#life = Life.begin(folder.path, id);
  }

  /**
   * Joins the processes on this index. Rejects with IndexUnusable if there are some with another folder, and they and this
   * one are not replicas; or with this folder, as another replica.
   */
  static async join(parts: HeartbeatParts): Promise<Heartbeat> {
    const heartbeat = new Heartbeat(parts);
    try {
      await heartbeat.#join();
    } catch (error) {
      await heartbeat.#leave(error);
      throw error;
    }
    heartbeat.#schedule();
    return heartbeat;
  }

  async #join(): Promise<void> {
    const others = await leases.otherProcesses(this.#database, this.#self.id);
    const gone = others.filter(({ id }) => isDead(this.#folder.path, id)).map(({ id }) => id);
    const name = await this.#write(async (session, presence) => {
      await leases.removeGone(session, gone);
      await leases.removeLongLeft(session);
      return presence;
    }, DURABLE);
    this.#presence = new OwnPresence(this.#clock, name);
    forgetDead(this.#folder.path);
    await this.#requireCompany();
    // Only now: another one at this address must not be forgotten because of one that is refused.
    if (this.#serves) await this.#write(session => replicas.beginServing(session, this.#self), DURABLE);
  }

  /** Those who cannot be together with this process may be dead: they are waited for. */
  async #requireCompany(): Promise<void> {
    const objection = async () =>
      (await leases.otherProcesses(this.#database, this.#self.id)).flatMap(
        other => this.#objectionTo(other) ?? [],
      )[0];
    const untilMs = performance.now() + leases.DEAD_AFTER_MS + BEAT_MS;
    for (let found = await objection(); found !== undefined; found = await objection()) {
      if (performance.now() > untilMs) throw new IndexUnusable(found);
      await this.#clock.sleep(BEAT_MS / 2);
      await this.#write(session => leases.removeSuspended(session), DURABLE);
    }
  }

  /**
   * Why this process and that one cannot use the index at once; `undefined` if they can. The bytes of unfinished transfers
   * are in the folder, and so may be those of blobs: processes with another folder would look for them in vain, unless both
   * are replicas, each of which has an address and a folder of its own.
   */
  #objectionTo({ folder, replica, address }: leases.OtherProcess): string | undefined {
    const { folder: ownFolder, replica: own } = this.#self;
    const isReplica = own !== undefined && replica !== null;
    if (folder === ownFolder) {
      if (!isReplica || replica === own) return undefined;
      return (
        `the folder (storage.path) is in use by ${address}, with another cluster.advertise (${replica}): each replica ` +
        'needs a folder of its own'
      );
    }
    if (!isReplica) {
      return (
        `the index is in use by ${address}, with another folder (storage.path): stop that server first, or ` +
        'configure cluster in both'
      );
    }
    if (replica !== own) return undefined;
    return (
      `the index is in use by ${address}, with another folder and the same cluster.advertise (${own}): each replica ` +
      'needs an address of its own'
    );
  }

  /** Call when this process could not join, so that others do not wait for it until they consider it dead. */
  async #leave(error: unknown): Promise<void> {
    // A database that is away would be waited for again.
    if (!(error instanceof IndexUnusable)) return this.#life.end();
    try {
      await this.close();
    } catch {
      // They find out by themselves.
    }
  }

  /** The id by which Leases name this process. */
  get processId(): string {
    return this.#self.id;
  }

  get presence(): Presence {
    return this.#presence.current;
  }

  /** Call within a write: rejects with PresenceEnded unless `presence` lasts until the transaction ends. */
  async requirePresence(session: PostgresSession, presence: Presence): Promise<void> {
    // Whoever adds the row again ends the Presence before that is committed.
    if (!(await leases.hasJoined(session, this.#self.id)) || presence.isOver) throw new PresenceEnded();
    const { sender } = presence;
    if (sender !== undefined && !(await leases.isPresent(session, sender))) throw new PresenceEnded();
  }

  /** Like `requirePresence`, but outside a write, for this moment. */
  async confirmPresence(presence: Presence): Promise<void> {
    const { sender } = presence;
    const isCertain = this.#isSeen && sender === undefined;
    const isPresent = isCertain || (await leases.arePresent(this.#database, this.#self.id, sender));
    if (!isPresent || presence.isOver) throw new PresenceEnded();
  }

  /** Whether nobody can have taken this process for dead by now. */
  get #isSeen(): boolean {
    return this.#clock.monotonicMs() - this.#shownAtMs < SURE_MS;
  }

  /** Since when all others know of this process, by `performance.now`; later than any time if that is not certain. */
  get seenSinceMs(): number {
    return this.#isSeen ? this.#seenSinceMs : Number.POSITIVE_INFINITY;
  }

  /** As in `Leases`. */
  async acquireLease(key: string, onHeld?: (held: LeaseState) => void): Promise<Lease | undefined> {
    const acquiring = this.#acquire(key, onHeld);
    this.#acquiring.add(acquiring);
    try {
      return await acquiring;
    } finally {
      this.#acquiring.delete(acquiring);
    }
  }

  async #acquire(key: string, onHeld?: (held: LeaseState) => void): Promise<Lease | undefined> {
    let taking = await this.#take(key);
    if (isHeld(taking) && (await this.#isGone(taking.held.processId))) taking = await this.#take(key);
    if (isHeld(taking)) onHeld?.(taking.held);
    if (taking === 'left' || isHeld(taking)) return undefined;
    const lease = new OwnLease(key, taking.taken, () => this.#confirm(lease));
    this.#held.set(lease.epoch, lease);
    return lease;
  }

  /** `left` if the Lease had been left behind and another process has just taken it over. */
  async #take(key: string): Promise<leases.Taking> {
    let last: leases.Taking | undefined;
    try {
      return await this.#writer.write(
        async session => (last = await this.#takeWithin(session, key)),
        DURABLE,
      );
    } catch (error) {
      // It may be committed nevertheless, even later. Then the index would have this process hold it as long as it runs.
      if (isTaken(last)) this.#uncertain.set(last.taken.epoch, undefined);
      throw error;
    }
  }

  /** Call within a write. It has no heartbeat, for which those who acquire Leases at once would wait in line. */
  async #takeWithin(session: PostgresSession, key: string): Promise<leases.Taking> {
    const taking = await leases.takeNewLease(session, key, this.#self);
    if (taking !== 'left') return taking;
    if (!(await leases.hasJoined(session, this.#self.id))) await this.#rejoin(session);
    const taken = await leases.takeLease(session, key, this.#self.id);
    return taken === undefined ? 'left' : { taken };
  }

  /** Removes the holder of a Lease if it is dead; returns whether it was. */
  async #isGone(holder: string | undefined): Promise<boolean> {
    if (holder === undefined || holder === this.#self.id || !isDead(this.#folder.path, holder)) return false;
    await this.#write(session => leases.removeGone(session, [holder]), DURABLE);
    return true;
  }

  /**
   * Gives Leases back. If that cannot be written now, it is written with a later heartbeat: a Lease must not outlive
   * its work.
   */
  async giveBack(given: readonly Lease[], as: GivenBack): Promise<void> {
    if (given.length === 0) return;
    given.forEach(({ epoch }) => this.#held.delete(epoch));
    try {
      const epochs = given.map(({ epoch }) => epoch);
      await this.#writer.write(session => this.#return(session, epochs, as), LIGHT);
    } catch (error) {
      given.forEach(({ epoch }) => this.#unreturned.set(epoch, as));
      const keys = given.map(({ key }) => key);
      const level = error instanceof IndexAway ? 'debug' : 'warn';
      this.#log[level]({ err: error, keys }, 'leases could not be released; retrying later');
    }
  }

  /** As in `MetadataStore`. */
  endLeaseOfGone(lease: leases.LeaseName): Promise<boolean> {
    return this.#writer.write(session => leases.endLeaseOfGone(session, lease, this.#self.folder), LIGHT);
  }

  read(key: string) {
    return leases.readLease(this.#database, key, this.#self.folder);
  }

  /** Gives up everything that this process holds. Call when it writes nothing any more. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#timer?.cancel();
    try {
      await this.#writer.write(async session => {
        await leases.removeGone(session, [this.#self.id]);
        if (this.#serves) await replicas.endServing(session, this.#self.id);
      }, DURABLE);
    } finally {
      this.#life.end();
    }
  }

  #confirm(lease: OwnLease): Promise<void> | undefined {
    if (lease.isLost) throw new LeaseLost(lease.key);
    if (this.#isSeen) return undefined;
    return this.#confirmInIndex(lease);
  }

  async #confirmInIndex(lease: OwnLease): Promise<void> {
    this.#showing ??= this.#write(async () => {}, LIGHT).finally(() => {
      this.#showing = undefined;
    });
    await this.#showing;
    if (lease.isLost) throw new LeaseLost(lease.key);
  }

  /** A write that is a heartbeat, too. */
  async #write<T>(
    work: (session: PostgresSession, presence: string) => Promise<T>,
    options: WriteOptions,
  ): Promise<T> {
    const write = (session: PostgresSession) =>
      this.#showLife(session).then(presence => work(session, presence));
    return this.#shown(() => this.#writer.write(write, options));
  }

  async #shown<T>(write: () => Promise<T>): Promise<T> {
    const beganAtMs = this.#clock.monotonicMs();
    const result = await write();
    if (beganAtMs - this.#shownAtMs > SURE_MS) {
      this.#steadySinceMs = beganAtMs;
      this.#seenSinceMs = performance.now();
    }
    this.#shownAtMs = beganAtMs;
    return result;
  }

  #schedule(): void {
    if (!this.#isClosed) {
      this.#timer = this.#clock.after(BEAT_MS, () => void this.#beat()).unref();
    }
  }

  async #beat(): Promise<void> {
    try {
      const { suspended, returned, settled, presence, run, own } = await this.#shown(() =>
        this.#writer.writeFirst((...within) => this.#beatWithin(...within), LIGHT),
      );
      this.#run = run;
      if (own !== undefined) void this.#giveUpUnknown(own);
      returned.forEach(epoch => this.#unreturned.delete(epoch));
      settled.forEach(epoch => this.#uncertain.delete(epoch));
      for (const address of suspended) {
        this.#log.info(
          { process: address },
          'another process on this index seems to be dead: its leases end',
        );
      }
      if (this.#isFailing) this.#log.info({}, 'the database of the index can be reached again');
      this.#isFailing = false;
      this.#presence.beat(presence);
      this.#onBeat();
    } catch (error) {
      // Logged once: it may be away for a while.
      if (!this.#isClosed && !this.#isFailing) this.#tellFailure(error);
      this.#isFailing = true;
    } finally {
      this.#schedule();
    }
  }

  #tellFailure(error: unknown): void {
    const { away } = this.#database;
    if (away === undefined) {
      this.#log.warn({ err: error }, 'the heartbeat cannot be written; retrying every second');
      return;
    }
    const message = 'the database of the index cannot be reached; retrying every second';
    this.#log.warn({ reason: away.operatorText }, message);
  }

  /** Whether this process may tell who is dead: it has written its heartbeats for as long, until just now. */
  get #isSteady(): boolean {
    return this.#isSeen && this.#clock.monotonicMs() - this.#steadySinceMs > leases.DEAD_AFTER_MS;
  }

  async #beatWithin(session: PostgresSession, run: string) {
    const presence = await this.#showLife(session);
    const returned = await this.#returnLeft(session);
    const settled = await this.#releaseUncertain(session);
    // Only now: this one may have waited long for the database.
    const suspended = this.#isSteady ? await leases.removeSuspended(session) : [];
    const own = run === this.#run ? undefined : await leases.ownEpochs(session, this.#self.id);
    return { suspended, returned, settled, presence, run, own };
  }

  /**
   * Gives up those of `own`, the Leases that this process has in the index, that it does not know. The server does not wait for
   * the disk when a Lease is given back, so that a crash, or a standby that takes over, may undo it.
   */
  async #giveUpUnknown(own: ReadonlySet<number>): Promise<void> {
    // Some may just have been taken.
    await Promise.allSettled(this.#acquiring);
    for (const epoch of own)
      if (![this.#held, this.#uncertain, this.#unreturned].some(known => known.has(epoch)))
        this.#unreturned.set(epoch, 'set aside');
  }

  /** Call within a write. Returns the name of the Presence that lasts, or of the next one. */
  async #showLife(session: PostgresSession): Promise<string> {
    return (await leases.beat(session, this.#self.id)) ?? (await this.#rejoin(session));
  }

  /**
   * Call within a write if our row was removed: adds it again. Leases that nobody has taken meanwhile are then held again,
   * since they have our id.
   */
  async #rejoin(session: PostgresSession): Promise<string> {
    // What was begun before may come behind the end.
    if (this.#isClosed) throw new Error('the metadata store is closed');
    const name = await leases.join(session, this.#self);
    if (this.#shownAtMs === Number.NEGATIVE_INFINITY) return name;
    this.#presence.end();
    if (this.#serves) await replicas.beginServing(session, this.#self);
    const own = await leases.ownEpochs(session, this.#self.id);
    const lost = [...this.#held.values()].filter(({ epoch }) => !own.has(epoch));
    for (const lease of lost) {
      lease.isLost = true;
      this.#held.delete(lease.epoch);
    }
    this.#log.warn(
      { lostLeases: lost.length, keptLeases: this.#held.size },
      'this process had no heartbeat for so long that others considered it dead',
    );
    return name;
  }

  /** Call within a write. Returns the epochs. */
  async #returnLeft(session: PostgresSession): Promise<readonly number[]> {
    const left = [...this.#unreturned];
    for (const as of ['released', 'set aside'] as const) {
      const epochs = left.filter(([, how]) => how === as).map(([epoch]) => epoch);
      if (epochs.length > 0) await this.#return(session, epochs, as);
    }
    return left.map(([epoch]) => epoch);
  }

  /**
   * Call within a write. A Lease whose commit is still under way is not visible yet, so it is released with each heartbeat
   * until all transactions before the first of these have ended. Returns the epochs that are settled once this write is
   * committed.
   */
  async #releaseUncertain(session: PostgresSession): Promise<readonly number[]> {
    if (this.#uncertain.size === 0) return [];
    // First, since what had ended by then is seen by the next statement.
    const { oldest, own } = await leases.transactionsUnderWay(session);
    await leases.releaseLeases(session, [...this.#uncertain.keys()], this.#self.id);
    const settled: number[] = [];
    for (const [epoch, certainFrom] of this.#uncertain) {
      if (certainFrom === undefined) this.#uncertain.set(epoch, own);
      else if (oldest >= certainFrom) settled.push(epoch);
    }
    return settled;
  }

  /** Call within a write. */
  #return(session: PostgresSession, epochs: readonly number[], as: GivenBack): Promise<void> {
    return as === 'released'
      ? leases.releaseLeases(session, epochs, this.#self.id)
      : leases.setLeasesAside(session, epochs, this.#self.id);
  }
}

function isTaken(taking: leases.Taking | undefined): taking is Extract<leases.Taking, { taken: unknown }> {
  return typeof taking === 'object' && 'taken' in taking;
}

function isHeld(taking: leases.Taking): taking is Extract<leases.Taking, { held: unknown }> {
  return typeof taking === 'object' && 'held' in taking;
}
