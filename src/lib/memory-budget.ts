/** What is wrong when bytes may not be read into memory now; worth another try after `retryAfterS`. */
export class MemoryBusy extends Error {
  /** `share`: it is the holder's own bytes that leave no room. `all`: everybody's together. */
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

/** Whose bytes they are. */
export interface MemoryHolder {
  readonly name: string;
  /** All holders of a group together have a share too, so that their number gives them nothing. */
  readonly group?: string | undefined;
}

/** Bytes that somebody may hold in memory. */
export interface MemoryLease {
  /** What it is for now. */
  readonly bytes: number;
  /** Waits until it is for `bytes`, where it was for fewer. Rejects with MemoryBusy; the lease stays what it was. */
  grow(bytes: number): Promise<void>;
  /** May be called twice. */
  release(): void;
}

export interface MemoryBudgetOptions {
  readonly totalBytes: number;
  /** Of one holder; one lease may be as large. */
  readonly shareBytes: number;
  /** Of all holders of one group. */
  readonly groupBytes: number;
  /** So long somebody waits. */
  readonly waitMs: number;
  /** So many of one holder wait; more are refused at once. */
  readonly maxWaiting: number;
}

/**
 * 4 MiB is the largest body that is read as a whole: each of eight holders may have two, and hundreds of the usual 10 KiB.
 * Half of the total is out of the reach of a group. Clients wait 30 s for an answer, of which a part is for the work itself.
 */
const DEFAULTS: MemoryBudgetOptions = {
  totalBytes: 64 * 1024 * 1024,
  shareBytes: 8 * 1024 * 1024,
  groupBytes: 32 * 1024 * 1024,
  waitMs: 10_000,
  maxWaiting: 64,
};

interface Waiter {
  readonly holder: MemoryHolder;
  readonly bytes: number;
  readonly admit: () => void;
}

/** Bytes by name, without those that have none. */
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

/**
 * The memory for bodies that are held as a whole while a stranger decides how long that takes: manifests that are pushed
 * or fetched, lists, and answers that wait for a slow reader. One for the process; log-ins have their own. Who has his share waits behind
 * himself; those who wait for the rest of the budget take turns by holder, whatever each has waiting.
 *
 * Blobs' bodies pass through pages of `BodyMemory`, which are lent for a moment each, reused, and may shrink: what is held
 * to the end and cannot be cut has a budget of its own.
 */
export class MemoryBudget {
  readonly #options: MemoryBudgetOptions;
  #bytes = 0;
  readonly #held = new Tally();
  readonly #heldByGroup = new Tally();
  /** By holder, in the order in which they get their turn. */
  readonly #waiting = new Map<string, Waiter[]>();

  constructor(options: Partial<MemoryBudgetOptions> = {}) {
    this.#options = { ...DEFAULTS, ...options };
  }

  /** Of all leases. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Waits for room for `bytes` of `holder`'s. Rejects with MemoryBusy. */
  async lease(holder: MemoryHolder, bytes: number): Promise<MemoryLease> {
    await this.#wait(holder, bytes);
    return this.#leaseOf(holder, bytes);
  }

  /** The same at once, or never: for bytes that are in memory already. Throws MemoryBusy. */
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
    if (queue.length === 0 && this.#lackOf(holder, bytes) === undefined) {
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
        reject(this.#busy(this.#lackOf(holder, bytes) ?? 'all'));
        // It may have been too large for a gap that is large enough for who waits behind it.
        this.#admitWaiting();
      }, this.#options.waitMs);
      queue.push(waiter);
      this.#waiting.set(holder.name, queue);
    });
  }

  #lackOf(holder: MemoryHolder, bytes: number): 'share' | 'all' | undefined {
    const { totalBytes, shareBytes, groupBytes } = this.#options;
    if (this.#held.of(holder.name) + bytes > shareBytes) return 'share';
    const ofGroup = holder.group === undefined ? 0 : this.#heldByGroup.of(holder.group);
    return ofGroup + bytes > groupBytes || this.#bytes + bytes > totalBytes ? 'all' : undefined;
  }

  #add(holder: MemoryHolder, bytes: number): void {
    this.#bytes += bytes;
    this.#held.add(holder.name, bytes);
    if (holder.group !== undefined) this.#heldByGroup.add(holder.group, bytes);
    if (bytes < 0) this.#admitWaiting();
  }

  /** The first of each holder, until nobody's first has room; who was admitted goes to the end of the row. */
  #admitWaiting(): void {
    for (let isAdmitting = true; isAdmitting; ) {
      isAdmitting = false;
      // Who is admitted moves to the end of the map.
      const turns = [...this.#waiting];
      for (const [name, queue] of turns) {
        const [first] = queue;
        if (first === undefined || this.#lackOf(first.holder, first.bytes) !== undefined) continue;
        queue.shift();
        this.#waiting.delete(name);
        if (queue.length > 0) this.#waiting.set(name, queue);
        this.#add(first.holder, first.bytes);
        first.admit();
        isAdmitting = true;
      }
    }
  }

  #busy(limit: 'share' | 'all'): MemoryBusy {
    return new MemoryBusy(limit, Math.max(1, Math.ceil(this.#options.waitMs / 2000)));
  }
}
