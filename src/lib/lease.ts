/**
 * The right to work on something alone among all processes on a store: to write an ingest, to run a collection. It ends
 * when its holder gives it up, or when its process is considered dead, which a suspended process cannot know: it wakes
 * up in the middle of whatever it was doing. So work must not rely on having had the Lease: `confirm` tells that it is
 * still held, and everything that others rely on is written in transactions that check the epoch.
 */
export interface Lease {
  readonly key: string;
  /**
   * Increases with each acquisition of any Lease of the store, even after a power failure that made the index forget the
   * last ones. Identifies this acquisition.
   */
  readonly epoch: number;
  /** The previous holder's Lease, if it left work behind. */
  readonly left: LeftLease | undefined;
  /**
   * Must be called before and after each step that nobody else may do at the same time, and awaited if it returns a
   * promise. It returns `undefined`, at no cost, while the last heartbeat of this process is so recent that nobody can
   * consider it dead. Throws or rejects with LeaseLost if another process has the Lease, or with the error that
   * prevents the index from telling.
   */
  confirm(): Promise<void> | undefined;
}

/** A Lease whose work its holder has left behind. */
export interface LeftLease {
  readonly epoch: number;
  /** Whether it was taken from a process that may only be suspended, and may continue writing at any time. */
  readonly mayWrite: boolean;
}

/** A Lease as other processes see it. */
export interface LeaseState {
  readonly epoch: number;
  /** Whether a live process holds it, as far as is known; otherwise it was set aside, or its process died. */
  readonly isHeld: boolean;
  /** The process that holds it, for people: `process 1234 on node-1`. `undefined` if it is not held. */
  readonly holder: string | undefined;
  /**
   * The address of the replica that holds it, if that is another one: what it writes is not in the spool of this one.
   * `undefined` if this replica holds it, or nobody does.
   */
  readonly elsewhere?: string | undefined;
}

/** The Leases of all processes that work on a store. `lease.suite.ts` is what every implementation passes. */
export interface Leases {
  /**
   * Acquires the Lease `key` if it is free or its process is dead: killed, or without a heartbeat for 5 s. `undefined`
   * if a process holds it, including this one, which has to share work by itself; `onHeld` is called first, with the state
   * that the attempt found. Held until `release`, `setAside`, or the end of this process.
   */
  acquireLease(key: string, onHeld?: (held: LeaseState) => void): Promise<Lease | undefined>;
  /** Ends Leases whose work is done. */
  release(...leases: readonly Lease[]): Promise<void>;
  /** Ends a Lease whose work can be continued by the next holder, which finds it in `left`. */
  setAside(lease: Lease): Promise<void>;
  /** The current state of the Lease, held or left; `undefined` if there is none. */
  readLease(key: string): Promise<LeaseState | undefined>;
}

/** Whether a live process holds the Lease `key`, as far as is known. */
export async function isLeased(leases: Pick<Leases, 'readLease'>, key: string): Promise<boolean> {
  return (await leases.readLease(key))?.isHeld === true;
}

/** Another process has acquired the Lease, and continues from a copy of what was there. */
export class LeaseLost extends Error {
  constructor(key: string) {
    super(`this process was suspended for so long that another one took over ${key}: try again`);
    this.name = 'LeaseLost';
  }
}

/**
 * A period in which others consider a process alive without a break. It ends when they consider the process dead, which a
 * suspended process cannot know; another one begins when they have considered it alive again for a moment. What was begun
 * before must then not be done, since others may have done it, or the opposite, meanwhile.
 */
export class Presence {
  /** By which the index tells other processes whether it lasts; `undefined` if it does not. */
  readonly name: string | undefined;
  /** The name of that of another process which has passed this work on, and must last, too. */
  readonly sender?: string | undefined;
  /** Whether it is known to have ended. */
  isOver = false;

  constructor(name?: string) {
    this.name = name;
  }
}

/** `own`, for work that another process has passed on in the Presence with the name `sender`; `undefined` if it has none. */
export function passedOn(own: Presence, sender: string | undefined): Presence {
  return {
    name: own.name,
    sender,
    get isOver() {
      return own.isOver;
    },
  };
}

/** A write was refused, since it belongs to something that began in an earlier Presence. */
export class PresenceEnded extends Error {
  readonly code = 'PRESENCE_ENDED';

  constructor() {
    super('this process was suspended for so long that others considered it dead: try again');
    this.name = 'PresenceEnded';
  }
}

/** A Lease for a store without an index, which nobody else can use yet. */
export function soleLease(key: string): Lease {
  return { key, epoch: 0, left: undefined, confirm: () => undefined };
}
