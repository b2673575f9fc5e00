/** The kubelet's names and meaning; an image pull is here all Fills of one repository of one upstream. */
export interface PullLimits {
  /** Downloads at once. */
  readonly maxConnections: number;
  readonly serializeImagePulls: boolean;
  /** Image pulls at once, `undefined` for no limit. */
  readonly maxParallelImagePulls: number | undefined;
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

class Waiting {
  readonly requester: string;
  readonly repository: string;
  readonly maxTransfers: number;
  readonly turn: Promise<void>;
  isAhead: boolean;
  state: 'waiting' | 'running' | 'left' = 'waiting';
  #begin: (() => void) | undefined;

  constructor(ticket: PullTicket) {
    const { requester, repository, maxTransfers = Number.POSITIVE_INFINITY, isAhead = false } = ticket;
    this.requester = requester;
    this.repository = repository;
    this.maxTransfers = maxTransfers;
    this.isAhead = isAhead;
    this.turn = new Promise(resolve => {
      this.#begin = resolve;
    });
  }

  start(): void {
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
  /** Somebody waits for it now. */
  promote(): void;
  /** Gives the place up, whether its turn came or not. Once more is fine. */
  leave(): void;
}

/** Bounds the downloads at once. Who asks later waits; requesters take turns, each with its own line in order. */
export class PullQueue {
  readonly #maxConnections: number;
  readonly #maxImagePulls: number;
  #running = 0;
  /** Running downloads per repository. */
  readonly #imagePulls = new Map<string, number>();
  /** Running downloads per requester. */
  readonly #transfers = new Map<string, number>();
  /** Lines by requester. The map's order is the order of turns: who was served goes to its end. */
  readonly #lines = new Map<string, Waiting[]>();

  constructor({ maxConnections, serializeImagePulls, maxParallelImagePulls }: PullLimits) {
    this.#maxConnections = maxConnections;
    this.#maxImagePulls = serializeImagePulls ? 1 : (maxParallelImagePulls ?? Number.POSITIVE_INFINITY);
  }

  get running(): number {
    return this.#running;
  }

  get waiting(): number {
    return [...this.#lines.values()].reduce((sum, line) => sum + line.length, 0);
  }

  enter(ticket: PullTicket): PullPlace {
    const waiting = new Waiting(ticket);
    this.#lines.set(ticket.requester, [...(this.#lines.get(ticket.requester) ?? []), waiting]);
    this.#serve();
    const leave = (): void => {
      if (waiting.state === 'left') return;
      if (waiting.state === 'running') this.#finish(waiting);
      else this.#removeFromLine(waiting);
      waiting.state = 'left';
      this.#serve();
    };
    const promote = (): void => {
      if (!waiting.isAhead) return;
      waiting.isAhead = false;
      this.#serve();
    };
    return { queued: waiting.state === 'waiting', turn: waiting.turn, promote, leave };
  }

  #serve(): void {
    while (this.#running < this.#maxConnections) {
      const next = this.#next();
      if (next === undefined) return;
      this.#running++;
      add(this.#imagePulls, next.repository, 1);
      add(this.#transfers, next.requester, 1);
      next.start();
    }
  }

  /** The first that may run, of the requester that has waited longest for a turn. */
  #next(): Waiting | undefined {
    return this.#first(waiting => !waiting.isAhead && this.#mayPull(waiting)) ?? this.#nextAhead();
  }

  /** Half of the connections, and one image pull, stay free for who comes and waits. */
  #nextAhead(): Waiting | undefined {
    if (this.#running >= Math.floor(this.#maxConnections / 2)) return undefined;
    const hasRoom = this.#imagePulls.size < this.#maxImagePulls - 1;
    return this.#first(
      waiting => this.#mayPull(waiting) && (hasRoom || this.#imagePulls.has(waiting.repository)),
    );
  }

  #first(suits: (waiting: Waiting) => boolean): Waiting | undefined {
    for (const line of this.#lines.values()) {
      const next = line.find(suits);
      if (next !== undefined) {
        this.#removeFromLine(next);
        return next;
      }
    }
    return undefined;
  }

  #mayPull({ requester, repository, maxTransfers }: Waiting): boolean {
    if ((this.#transfers.get(requester) ?? 0) >= maxTransfers) return false;
    return this.#imagePulls.has(repository) || this.#imagePulls.size < this.#maxImagePulls;
  }

  #removeFromLine(waiting: Waiting): void {
    const line = (this.#lines.get(waiting.requester) ?? []).filter(other => other !== waiting);
    this.#lines.delete(waiting.requester);
    if (line.length > 0) this.#lines.set(waiting.requester, line);
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
