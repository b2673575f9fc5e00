/**
 * The right to work on something alone among all processes on a store: to write an ingest, to run a collection. It is
 * its holder's until he lets go, or until his process counts as dead, which a paused one cannot know of: it wakes in
 * the middle of whatever it was doing. So nothing that a Lease covers may rest on having had it; `confirm` says that it
 * is held still, and what others rely on is written in transactions that check the epoch.
 */
export interface Lease {
  readonly key: string;
  /** Grows with each taking of any Lease of the store. Names what belongs to this one alone. */
  readonly epoch: number;
  /** The holder before, if he left work behind. */
  readonly left: LeftLease | undefined;
  /**
   * Must be called before and after each step that may not be anybody else's too, and awaited if it gives a promise: it
   * gives none, at no cost, while this process has shown so lately that it lives that nobody can take it for dead.
   * Throws or rejects with LeaseLost when another has it by now, and with what stops the index from saying.
   */
  confirm(): Promise<void> | undefined;
}

export interface LeftLease {
  readonly epoch: number;
  /** It was taken from a process that may only have been paused, and may go on writing at any time. */
  readonly mayWrite: boolean;
}

/** Another process has the Lease now, and goes on with a copy of what was there. */
export class LeaseLost extends Error {
  constructor(key: string) {
    super(`this process was suspended for so long that another one took over ${key}: try again`);
    this.name = 'LeaseLost';
  }
}

/** For a store that has no index yet, on which nobody else can work. */
export function soleLease(key: string): Lease {
  return { key, epoch: 0, left: undefined, confirm: () => undefined };
}
