import { randomUUID } from 'node:crypto';
import type { Log } from '../../lib/log.ts';
import { Claims, type ProcessRow } from './claims.ts';
import type { Connection } from './connection.ts';
import type { Writer } from './writer.ts';

/** How often a process shows that it lives, and looks at the others. */
const BEAT_MS = 1000;

/** A process whose heartbeat stood still for so many of our own beats is dead: 5 s, more than any pause of a live one. */
const DEAD_AFTER_BEATS = 5;

/**
 * This process among the others on the store, and the Claims it holds. Death is judged by what was seen and counted in
 * our own beats, never by pids or wall clocks: processes may live in containers and on machines of their own, and one
 * that was stopped for a minute must not wake up and take everybody else for dead.
 */
export class Presence {
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #claims: Claims;
  readonly #log: Log;
  readonly #onBeat: () => void;
  readonly #id = randomUUID();
  readonly #held = new Set<string>();
  /** Claims that were given back and still have a row: a full disk took not even that. */
  readonly #unreleased = new Set<string>();
  /** Others, with how many of our beats ago theirs changed. */
  readonly #others = new Map<string, { heartbeat: number; unchangedBeats: number }>();
  #timer: NodeJS.Timeout | undefined;
  /** The last heartbeat was not written, and the log says so. */
  #isFailing = false;
  #isClosed = false;

  private constructor(connection: Connection, writer: Writer, log: Log, onBeat: () => void) {
    this.#connection = connection;
    this.#writer = writer;
    this.#claims = new Claims(connection);
    this.#log = log;
    this.#onBeat = onBeat;
  }

  /** Joins the processes on this store. `onBeat` is called once a second, after each heartbeat. */
  static async join(connection: Connection, writer: Writer, log: Log, onBeat: () => void): Promise<Presence> {
    const presence = new Presence(connection, writer, log, onBeat);
    await writer.write(() => presence.#claims.join(presence.#id));
    presence.#schedule();
    return presence;
  }

  async claim(key: string): Promise<boolean> {
    const wasUnreleased = this.#unreleased.has(key);
    try {
      const isTaken = await this.#writer.write(() => {
        this.#showLife();
        this.#releaseLeft();
        // From here on the row is a new one's, which no later beat may take for the old one.
        this.#unreleased.delete(key);
        return this.#claims.take(key, this.#id);
      });
      if (isTaken) {
        this.#held.add(key);
      }
      return isTaken;
    } catch (error) {
      if (wasUnreleased) {
        this.#unreleased.add(key);
      }
      throw error;
    }
  }

  /** What cannot be written now is written with a later heartbeat: a Claim must not outlive its work. */
  async release(keys: readonly string[]): Promise<void> {
    if (keys.length === 0) {
      return;
    }
    keys.forEach(key => this.#held.delete(key));
    try {
      await this.#writer.write(() => keys.forEach(key => this.#claims.release(key, this.#id)));
    } catch (error) {
      keys.forEach(key => this.#unreleased.add(key));
      this.#log.warn({ err: error, keys }, 'claims could not be released and will be, later');
    }
  }

  /** Within a write that does more than claiming: false when somebody holds it. Call `hold` once that is durable. */
  takeWithin(key: string): boolean {
    return this.#claims.take(key, this.#id);
  }

  hold(keys: readonly string[]): void {
    keys.forEach(key => this.#held.add(key));
  }

  /** Whether some live process holds it: what `isClaimed` says, within a write. */
  isHeldWithin(key: string): boolean {
    return this.#claims.isHeld(key);
  }

  isClaimed(key: string): Promise<boolean> {
    return this.#connection.read(() => this.#claims.isHeld(key));
  }

  /** Leaves at once what this process holds. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    await this.#writer.write(() => {
      const ours = this.#claims.processes().find(({ id }) => id === this.#id);
      if (ours !== undefined) {
        this.#claims.removeProcess(ours);
      }
    });
  }

  #schedule(): void {
    if (!this.#isClosed) {
      this.#timer = setTimeout(() => void this.#beat(), BEAT_MS);
      this.#timer.unref();
    }
  }

  async #beat(): Promise<void> {
    try {
      const released = await this.#writer.write(() => {
        this.#showLife();
        this.#removeDead();
        return this.#releaseLeft();
      });
      released.forEach(key => this.#unreleased.delete(key));
      this.#isFailing = false;
      this.#onBeat();
    } catch (error) {
      // Once: a full disk lasts, and the log may be on it.
      if (!this.#isClosed && !this.#isFailing) {
        this.#log.warn({ err: error }, 'the heartbeat cannot be written; it is tried each second');
      }
      this.#isFailing = true;
    }
    this.#schedule();
  }

  /** Within a write. */
  #showLife(): void {
    if (this.#claims.beat(this.#id)) {
      return;
    }
    this.#claims.join(this.#id);
    const lost = [...this.#held].filter(key => !this.#claims.take(key, this.#id));
    lost.forEach(key => this.#held.delete(key));
    this.#log.warn(
      { lostClaims: lost.length, keptClaims: this.#held.size },
      'this process stood still so long that others took it for dead',
    );
  }

  /** Within a write. */
  #releaseLeft(): readonly string[] {
    const left = [...this.#unreleased];
    left.forEach(key => this.#claims.release(key, this.#id));
    return left;
  }

  /** Within a write. */
  #removeDead(): void {
    const others = this.#claims.processes().filter(({ id }) => id !== this.#id);
    const ids = new Set(others.map(({ id }) => id));
    for (const id of this.#others.keys()) {
      if (!ids.has(id)) {
        this.#others.delete(id);
      }
    }
    for (const other of others.filter(row => this.#unchangedBeats(row) >= DEAD_AFTER_BEATS)) {
      this.#claims.removeProcess(other);
      this.#log.info(
        { process: other.id },
        'another process on this store is dead: what it was working on is free',
      );
    }
  }

  #unchangedBeats({ id, heartbeat }: ProcessRow): number {
    const seen = this.#others.get(id);
    const unchangedBeats = seen?.heartbeat === heartbeat ? seen.unchangedBeats + 1 : 0;
    this.#others.set(id, { heartbeat, unchangedBeats });
    return unchangedBeats;
  }
}
