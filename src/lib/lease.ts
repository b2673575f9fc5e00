/**
 * The right to work on something alone among all processes on a store: to write an ingest, to run a collection. It ends
 * when its holder gives it up, or when its process is considered dead, which a suspended process cannot know: it wakes
 * up in the middle of whatever it was doing. So work must not rely on having had the Lease: `confirm` tells that it is
 * still held, and everything that others rely on is written in transactions that check the epoch.
 */
export interface Lease {
  readonly key: string;
  /** Increases with each acquisition of any Lease of the store. Identifies this acquisition. */
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

export interface LeftLease {
  readonly epoch: number;
  /** Whether it was taken from a process that may only be suspended, and may continue writing at any time. */
  readonly mayWrite: boolean;
}

/** Another process has acquired the Lease, and continues from a copy of what was there. */
export class LeaseLost extends Error {
  constructor(key: string) {
    super(`this process was suspended for so long that another one took over ${key}: try again`);
    this.name = 'LeaseLost';
  }
}

/** A Lease for a store without an index, which nobody else can use yet. */
export function soleLease(key: string): Lease {
  return { key, epoch: 0, left: undefined, confirm: () => undefined };
}
