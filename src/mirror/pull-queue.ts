/** The kubelet's names and meaning, read each time; an image pull is here all Fills of one repository of one upstream. */
export interface QueueLimits {
  /** Downloads at once. */
  readonly maxConnections: number;
  readonly serializeImagePulls: boolean;
  /** Image pulls at once, `undefined` for no limit. */
  readonly maxParallelImagePulls?: number | undefined;
}

export interface PullTicket {
  /** Who is served in turn with whom: `Requester.id`. */
  readonly requester: string;
  /** `repositoryText`. */
  readonly repository: string;
  /** The requester's own limit of downloads at once. */
  readonly maxTransfers?: number | undefined;
  /** Nobody waits for it yet: it goes behind everything that somebody waits for. */
  readonly isAhead?: boolean | undefined;
}

/** Who waits, and how much he may have at a time. */
type Waiter = Pick<PullTicket, 'requester' | 'maxTransfers'>;

class Waiting {
  readonly repository: string;
  readonly turn: Promise<void>;
  /** With the limit of each. */
  readonly waiters = new Map<string, number>();
  isAhead: boolean;
  state: 'waiting' | 'running' | 'left' = 'waiting';
  /** Whose turn it took. */
  requester: string;
  #begin: (() => void) | undefined;

  constructor({ requester, repository, maxTransfers, isAhead = false }: PullTicket) {
    this.requester = requester;
    this.repository = repository;
    this.isAhead = isAhead;
    this.add({ requester, maxTransfers });
    this.turn = new Promise(resolve => {
      this.#begin = resolve;
    });
  }

  add({ requester, maxTransfers = Number.POSITIVE_INFINITY }: Waiter): void {
    this.waiters.set(requester, maxTransfers);
  }

  start(requester: string): void {
    this.requester = requester;
    this.state = 'running';
    this.#begin?.();
  }
}

/** A place among the running downloads, or in the queue for one. */
export interface PullPlace {
  /** Whether it has to wait now. */
  readonly queued: boolean;
  /** Resolves when the download may begin. Never rejects. */
  readonly turn: Promise<void>;
  /** Somebody waits for it now, perhaps another: it begins at whose turn comes first. */
  join(waiter: Waiter): void;
  /** Gives the place up, whether its turn came or not. Once more is fine. */
  leave(): void;
}

/** One whose turn it is, and by whose. */
interface Turn {
  readonly waiting: Waiting;
  readonly requester: string;
}

/** Bounds the downloads at once. Who asks later waits; requesters take turns, each with its own line in order. */
export class PullQueue {
  readonly #limits: QueueLimits;
  #running = 0;
  /** Running downloads per repository. */
  readonly #imagePulls = new Map<string, number>();
  /** Running downloads per requester. */
  readonly #transfers = new Map<string, number>();
  /** Lines by requester. The map's order is the order of turns: who was served goes to its end. */
  readonly #lines = new Map<string, Waiting[]>();

  constructor(limits: QueueLimits) {
    this.#limits = limits;
  }

  get #maxConnections(): number {
    return this.#limits.maxConnections;
  }

  get #maxImagePulls(): number {
    const { serializeImagePulls, maxParallelImagePulls } = this.#limits;
    return serializeImagePulls ? 1 : (maxParallelImagePulls ?? Number.POSITIVE_INFINITY);
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return new Set([...this.#lines.values()].flat()).size;
  }

  enter(ticket: PullTicket): PullPlace {
    const waiting = new Waiting(ticket);
    this.#stand(waiting, ticket.requester);
    this.#serve();
    const leave = (): void => {
      if (waiting.state === 'left') return;
      if (waiting.state === 'running') this.#finish(waiting);
      else this.#removeFromLines(waiting);
      waiting.state = 'left';
      this.#serve();
    };
    const join = (waiter: Waiter): void => {
      if (waiting.state !== 'waiting') return;
      waiting.isAhead = false;
      if (!waiting.waiters.has(waiter.requester)) {
        waiting.add(waiter);
        this.#stand(waiting, waiter.requester);
      }
      this.#serve();
    };
    return { queued: waiting.state === 'waiting', turn: waiting.turn, join, leave };
  }

  /** Begins what higher limits allow. */
  limitsChanged(): void {
    this.#serve();
  }

  #stand(waiting: Waiting, requester: string): void {
    this.#lines.set(requester, [...(this.#lines.get(requester) ?? []), waiting]);
  }

  #serve(): void {
    while (this.#running < this.#maxConnections) {
      const next = this.#next();
      if (next === undefined) return;
      const { waiting, requester } = next;
      this.#running++;
      add(this.#imagePulls, waiting.repository, 1);
      add(this.#transfers, requester, 1);
      waiting.start(requester);
    }
  }

  /** The first that may run, of the requester that has waited longest for a turn. */
  #next(): Turn | undefined {
    return this.#first(waiting => !waiting.isAhead && this.#mayPull(waiting)) ?? this.#nextAhead();
  }

  /** Half of the connections and of what one requester may have, and one image pull, stay free for who comes and waits. */
  #nextAhead(): Turn | undefined {
    if (this.#running >= Math.floor(this.#maxConnections / 2)) return undefined;
    const hasRoom = this.#imagePulls.size < this.#maxImagePulls - 1;
    return this.#first(
      (waiting, requester) =>
        this.#mayPull(waiting) &&
        (hasRoom || this.#imagePulls.has(waiting.repository)) &&
        (this.#transfers.get(requester) ?? 0) < Math.floor((waiting.waiters.get(requester) ?? 0) / 2),
    );
  }

  #first(suits: (waiting: Waiting, requester: string) => boolean): Turn | undefined {
    for (const [requester, line] of this.#lines) {
      const waiting = line.find(one => this.#mayTransfer(one, requester) && suits(one, requester));
      if (waiting !== undefined) {
        // Who was served goes to the end; others who waited for the same keep their place.
        this.#removeFromLines(waiting);
        const rest = this.#lines.get(requester);
        this.#lines.delete(requester);
        if (rest !== undefined) this.#lines.set(requester, rest);
        return { waiting, requester };
      }
    }
    return undefined;
  }

  #mayTransfer({ waiters }: Waiting, requester: string): boolean {
    return (this.#transfers.get(requester) ?? 0) < (waiters.get(requester) ?? 0);
  }

  #mayPull({ repository }: Waiting): boolean {
    return this.#imagePulls.has(repository) || this.#imagePulls.size < this.#maxImagePulls;
  }

  #removeFromLines(waiting: Waiting): void {
    for (const requester of waiting.waiters.keys()) {
      const line = (this.#lines.get(requester) ?? []).filter(other => other !== waiting);
      if (line.length > 0) this.#lines.set(requester, line);
      else this.#lines.delete(requester);
    }
  }

  #finish({ requester, repository }: Waiting): void {
    this.#running--;
    add(this.#imagePulls, repository, -1);
    add(this.#transfers, requester, -1);
  }
}

/** Counts; what is at nothing is not kept. */
function add(counts: Map<string, number>, key: string, change: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + change;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}
