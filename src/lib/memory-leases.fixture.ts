// Leases of several simulated processes in this one, for tests.
import { type Lease, LeaseLost, type Leases, type LeaseState, type LeftLease } from './lease.ts';

interface Row {
  readonly epoch: number;
  /** `undefined` if it was set aside, or its process has ended in an orderly way. */
  readonly holder: MemoryLeases | undefined;
  /** Whether its holder is considered dead but may still write. */
  readonly isAbandoned: boolean;
}

/** The state that the processes share. */
export class LeaseTable {
  readonly rows = new Map<string, Row>();
  #epoch = 0;

  heldKeys(): string[] {
    return [...this.rows].flatMap(([key, row]) => (isHeld(row) ? key : []));
  }

  isHeld(epoch: number): boolean {
    return [...this.rows.values()].some(row => row.epoch === epoch && isHeld(row));
  }

  nextEpoch(): number {
    this.#epoch += 1;
    return this.#epoch;
  }
}

export interface MemoryProcess {
  readonly address?: string;
  readonly replica?: string;
}

/** One simulated process. */
export class MemoryLeases implements Leases {
  readonly #table: LeaseTable;
  readonly address: string;
  /** The address of its replica, if there may be several. */
  readonly replica: string | undefined;
  #isSilent = false;

  constructor(table: LeaseTable, { address = 'a process in memory', replica }: MemoryProcess = {}) {
    this.#table = table;
    this.address = address;
    this.replica = replica;
  }

  async acquireLease(key: string, onHeld?: (held: LeaseState) => void): Promise<Lease | undefined> {
    const before = this.#table.rows.get(key);
    if (before !== undefined && isHeld(before)) {
      onHeld?.(this.#stateOf(before));
      return undefined;
    }
    const epoch = this.#table.nextEpoch();
    this.#table.rows.set(key, { epoch, holder: this, isAbandoned: false });
    const left: LeftLease | undefined = before && { epoch: before.epoch, mayWrite: before.isAbandoned };
    const confirm = (): undefined => {
      if (!this.holds({ key, epoch })) throw new LeaseLost(key);
      return undefined;
    };
    return { key, epoch, left, confirm };
  }

  async release(...leases: readonly Lease[]): Promise<void> {
    for (const lease of leases) if (this.holds(lease)) this.#table.rows.delete(lease.key);
  }

  async setAside(lease: Lease): Promise<void> {
    if (this.holds(lease)) this.#leave(lease.key, lease.epoch);
  }

  async readLease(key: string): Promise<LeaseState | undefined> {
    const row = this.#table.rows.get(key);
    return row && this.#stateOf(row);
  }

  /** From now on it sends no heartbeats, but not yet for so long that it is considered dead. */
  fallSilent(): void {
    this.#isSilent = true;
  }

  /** As `MetadataStore.endLeaseOfGone`. */
  endOfSilent({ key, epoch }: Pick<Lease, 'key' | 'epoch'>): boolean {
    const row = this.#table.rows.get(key);
    const { holder } = row ?? {};
    if (row?.epoch !== epoch || holder === undefined || holder.replica === this.replica) return false;
    return holder.#isSilent && this.#table.rows.delete(key);
  }

  /** Makes the others consider this process dead, although it is only suspended and may continue at any time. */
  seemDead(): void {
    for (const [key, row] of this.#table.rows) {
      if (row.holder === this) this.#table.rows.set(key, { ...row, isAbandoned: true });
    }
  }

  async close(): Promise<void> {
    for (const [key, row] of this.#table.rows) if (row.holder === this) this.#leave(key, row.epoch);
  }

  /** Whether this process still has the Lease: nobody else has taken it. */
  holds({ key, epoch }: Pick<Lease, 'key' | 'epoch'>): boolean {
    const row = this.#table.rows.get(key);
    return row?.epoch === epoch && row.holder === this;
  }

  #stateOf(row: Row): LeaseState {
    const holder = isHeld(row) ? row.holder : undefined;
    return {
      epoch: row.epoch,
      isHeld: holder !== undefined,
      holder: holder?.address,
      elsewhere: holder?.replica === this.replica ? undefined : holder?.replica,
    };
  }

  #leave(key: string, epoch: number): void {
    this.#table.rows.set(key, { epoch, holder: undefined, isAbandoned: false });
  }
}

function isHeld({ holder, isAbandoned }: Row): boolean {
  return holder !== undefined && !isAbandoned;
}
