/** There is no memory for bytes now; try again after `retryAfterS`. */
export class MemoryBusy extends Error {
  /** `share`: the holder has used up its own share. `all`: the whole budget is used up. */
  readonly limit: 'share' | 'all';
  readonly retryAfterS: number;

  constructor(limit: 'share' | 'all', retryAfterS: number) {
    super(
      limit === 'share'
        ? 'you already have too many bodies being read or sent'
        : 'too many bodies are already being read or sent',
    );
    this.name = 'MemoryBusy';
    this.limit = limit;
    this.retryAfterS = retryAfterS;
  }
}

/** Whose share is used. */
export interface MemoryHolder {
  readonly name: string;
  /** All holders of a group together are limited, too, so that being many gives them nothing. */
  readonly group?: string | undefined;
}

/** Bytes that somebody may hold in memory. */
export interface MemoryLease {
  /** The current number of bytes. */
  readonly bytes: number;
  /** Waits until the lease has `bytes`, if it had fewer. Rejects with MemoryBusy and stays as it was. */
  grow(bytes: number): Promise<void>;
  /** May be called twice. */
  release(): void;
}

export interface MemoryBudgetOptions {
  /** For all leases together. */
  readonly totalBytes: number;
  /** For one holder, and for one lease. */
  readonly shareBytes: number;
  /** For all holders of one group. */
  readonly groupBytes: number;
  /** How long to wait. */
  readonly waitMs: number;
  /** How many may wait for one holder; further ones are refused at once. */
  readonly maxWaiting: number;
}

/**
 * The largest body that is read as a whole has 4 MiB: each of eight holders may have two, or hundreds of the usual 10
 * KiB. A group can use half of the total. Clients wait 30 s for an answer, part of which the work itself takes.
 */
const DEFAULTS: MemoryBudgetOptions = {
  totalBytes: 64 * 1024 * 1024,
  shareBytes: 8 * 1024 * 1024,
  groupBytes: 32 * 1024 * 1024,
  waitMs: 10_000,
  maxWaiting: 64,
};

/** One of several processes has room for two of the largest bodies, even if all have more than one would have. */
const MIN_TOTAL_BYTES = 2 * DEFAULTS.shareBytes;

interface Waiter {
  readonly holder: MemoryHolder;
  readonly bytes: number;
  readonly admit: () => void;
}

/** Which limit is reached. */
type Lack = 'share' | 'group' | 'total';

/** Bytes by name; names without bytes are removed. */
class Tally {
  readonly #bytes = new Map<string, number>();

  of(name: string): number {
    return this.#bytes.get(name) ?? 0;
  }

  add(name: string, bytes: number): void {
    const sum = this.of(name) + bytes;
    if (sum > 0) this.#bytes.set(name, sum);
    else this.#bytes.delete(name);
  }
}

/** What somebody waits for, so that nobody else may have it before. A share is nobody else's. */
class WaitedFor {
  readonly #groups = new Set<string>();
  #isTotal = false;

  add({ group }: MemoryHolder, lack: Lack | undefined): void {
    if (lack === 'total') this.#isTotal = true;
    if (lack === 'group' && group !== undefined) this.#groups.add(group);
  }

  /** Whether it is what this holder would take. */
  has({ group }: MemoryHolder): boolean {
    return this.#isTotal || (group !== undefined && this.#groups.has(group));
  }
}

/**
 * The memory for bodies that are held as a whole while somebody else decides how long that takes: manifests that are
 * pushed or fetched, lists, and responses that wait for a slow reader. There is one for the process; logins have their
 * own. A holder that has used up its share waits without delaying others, and one of a group that has, without delaying
 * other groups; those that wait for the rest take turns by holder, and nobody overtakes them. (Bodies of blobs use pages of
 * `BodyMemory`, which are used for a moment each and may shrink.)
 */
export class MemoryBudget {
  readonly #options: MemoryBudgetOptions;
  #bytes = 0;
  readonly #held = new Tally();
  readonly #heldByGroup = new Tally();
  /** By holder, in the order of turns. */
  readonly #waiting = new Map<string, Waiter[]>();

  constructor(options: Partial<MemoryBudgetOptions> = {}) {
    this.#options = { ...DEFAULTS, ...options };
  }

  /** The budget of one of several processes, which together have that of one: as long as they are at most four. */
  static ofOne(processes: number): MemoryBudget {
    const totalBytes = Math.max(MIN_TOTAL_BYTES, DEFAULTS.totalBytes / processes);
    return new MemoryBudget({ totalBytes, groupBytes: totalBytes / 2 });
  }

  /** The bytes of all leases. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Waits for memory for `bytes` of `holder`. Rejects with MemoryBusy. */
  async lease(holder: MemoryHolder, bytes: number): Promise<MemoryLease> {
    await this.#wait(holder, bytes);
    return this.#leaseOf(holder, bytes);
  }

  /** The same without waiting for a turn, for bytes that are in memory already. Throws MemoryBusy. */
  leaseNow(holder: MemoryHolder, bytes: number): MemoryLease {
    const lack = this.#lackOf(holder, bytes);
    if (lack !== undefined) throw this.#busy(lack);
    this.#add(holder, bytes);
    return this.#leaseOf(holder, bytes);
  }

  #leaseOf(holder: MemoryHolder, initialBytes: number): MemoryLease {
    let leased = initialBytes;
    let isReleased = false;
    return {
      get bytes() {
        return leased;
      },
      grow: async bytes => {
        const more = bytes - leased;
        if (more <= 0) return;
        await this.#wait(holder, more);
        if (isReleased) this.#add(holder, -more);
        else leased += more;
      },
      release: () => {
        if (isReleased) return;
        isReleased = true;
        this.#add(holder, -leased);
      },
    };
  }

  async #wait(holder: MemoryHolder, bytes: number): Promise<void> {
    const queue = this.#waiting.get(holder.name) ?? [];
    if (this.#isNext(holder) && this.#lackOf(holder, bytes) === undefined) {
      this.#add(holder, bytes);
      return;
    }
    if (queue.length >= this.#options.maxWaiting) throw this.#busy('share');
    await new Promise<void>((resolve, reject) => {
      const waiter = {
        holder,
        bytes,
        admit: () => {
          clearTimeout(timer);
          resolve();
        },
      };
      const timer = setTimeout(() => {
        queue.splice(queue.indexOf(waiter), 1);
        if (queue.length === 0) this.#waiting.delete(holder.name);
        reject(this.#busy(this.#lackOf(holder, bytes) ?? 'total'));
        // The one that gave up may have been too large for a gap that is large enough for the next.
        this.#admitWaiting();
      }, this.#options.waitMs);
      queue.push(waiter);
      this.#waiting.set(holder.name, queue);
    });
  }

  #lackOf({ name, group }: MemoryHolder, bytes: number): Lack | undefined {
    const { totalBytes, shareBytes, groupBytes } = this.#options;
    if (this.#held.of(name) + bytes > shareBytes) return 'share';
    if (group !== undefined && this.#heldByGroup.of(group) + bytes > groupBytes) return 'group';
    return this.#bytes + bytes > totalBytes ? 'total' : undefined;
  }

  /** Whether nobody waits for what this holder would take. */
  #isNext(holder: MemoryHolder): boolean {
    if (this.#waiting.size === 0) return true;
    if (this.#waiting.has(holder.name)) return false;
    const waitedFor = new WaitedFor();
    for (const [first] of this.#waiting.values()) {
      if (first !== undefined) waitedFor.add(first.holder, this.#lackOf(first.holder, first.bytes));
    }
    return !waitedFor.has(holder);
  }

  #add(holder: MemoryHolder, bytes: number): void {
    this.#bytes += bytes;
    this.#held.add(holder.name, bytes);
    if (holder.group !== undefined) this.#heldByGroup.add(holder.group, bytes);
    if (bytes < 0 && this.#waiting.size > 0) this.#admitWaiting();
  }

  /** Admits the first of each holder in turn; a holder goes to the end after its turn. */
  #admitWaiting(): void {
    for (let isAdmitting = true; isAdmitting; ) {
      isAdmitting = false;
      // A copy, since admitted holders move to the end of the map.
      const turns = [...this.#waiting];
      const waitedFor = new WaitedFor();
      for (const [name, queue] of turns) {
        const [first] = queue;
        if (first === undefined || waitedFor.has(first.holder)) continue;
        const lack = this.#lackOf(first.holder, first.bytes);
        if (lack !== undefined) {
          waitedFor.add(first.holder, lack);
          continue;
        }
        queue.shift();
        this.#waiting.delete(name);
        if (queue.length > 0) this.#waiting.set(name, queue);
        this.#add(first.holder, first.bytes);
        first.admit();
        isAdmitting = true;
      }
    }
  }

  #busy(lack: Lack): MemoryBusy {
    return new MemoryBusy(
      lack === 'share' ? 'share' : 'all',
      Math.max(1, Math.ceil(this.#options.waitMs / 2000)),
    );
  }
}
