import { networkOf, type Requester } from '../../oci/requester.ts';

/**
 * Limits with the kubelet's names and meaning, read each time. An image pull is here: all Fills for one repository of
 * an upstream.
 */
export interface QueueLimits {
  /** Simultaneous downloads. */
  readonly maxConnections: number;
  readonly serializeImagePulls: boolean;
  /** Simultaneous image pulls; `undefined` for no limit. */
  readonly maxParallelImagePulls?: number | undefined;
}

/** Who waits for a download. */
export interface Waiter {
  /** `Requester.id`, or `unknown`: requesters take turns. */
  readonly requester: string;
  /** `networkOf` it: those of a requester take its turns in turn. */
  readonly network?: string | undefined;
  /** The requester's own limit of simultaneous downloads. */
  readonly maxTransfers?: number | undefined;
}

/**
 * What the queue knows of a requester. All with unknown credentials are one, since anybody can have any number of accounts
 * upstream.
 */
export function waiterOf({ id, isUnknown, remote, maxTransfers }: Requester): Waiter {
  const requester = isUnknown === true ? UNKNOWN : id;
  return { requester, network: remote && networkOf(remote), maxTransfers };
}

const UNKNOWN = 'unknown';

/** A request for a place in the queue. */
export interface PullTicket extends Waiter {
  /** `repositoryText` of the repository. */
  readonly repository: string;
  /** What is downloaded. Processes that wait for the same share one place. */
  readonly key?: string | undefined;
  /** Set for a prefetch: it comes after everything that clients wait for. */
  readonly isAhead?: boolean | undefined;
  /**
   * Set for a further connection of a download that is running: only for as long as nobody else waits for one. See
   * `PullPlace.recalled`.
   */
  readonly isSpare?: boolean | undefined;
}

class Waiting {
  readonly repository: string;
  readonly turn: Promise<void>;
  /** Requesters that wait for it, with the limit of each. */
  readonly waiters = new Map<string, number>();
  readonly isSpare: boolean;
  readonly recalled: Promise<void>;
  isAhead: boolean;
  isRecalled = false;
  state: 'waiting' | 'running' | 'left' = 'waiting';
  /** The requester whose turn was used. */
  requester: string;
  #begin: (() => void) | undefined;
  #giveBack: (() => void) | undefined;

  constructor({ requester, repository, maxTransfers, isAhead = false, isSpare = false }: PullTicket) {
    this.requester = requester;
    this.repository = repository;
    this.isAhead = isAhead;
    this.isSpare = isSpare;
    this.add({ requester, maxTransfers });
    this.turn = new Promise(resolve => {
      this.#begin = resolve;
    });
    this.recalled = new Promise(resolve => {
      this.#giveBack = resolve;
    });
  }

  add({ requester, maxTransfers = Number.POSITIVE_INFINITY }: Waiter): void {
    if (!this.waiters.has(requester)) this.waiters.set(requester, maxTransfers);
  }

  start(requester: string): void {
    this.requester = requester;
    this.state = 'running';
    this.#begin?.();
  }

  recall(): void {
    this.isRecalled = true;
    this.#giveBack?.();
  }
}

/**
 * What one requester waits for. Its networks take turns: many clients are the same requester if they have no credentials, or
 * those of one tenant, and none of them is to wait for all that another wants.
 */
class Line {
  /** By network, in the order of turns: a network goes to the end after its turn. */
  readonly #queues = new Map<string, Waiting[]>();

  /** Each once, even if it is wanted from several networks. */
  get all(): ReadonlySet<Waiting> {
    return new Set([...this.#queues.values()].flat());
  }

  get isEmpty(): boolean {
    return this.#queues.size === 0;
  }

  /** No effect if it is wanted from there already. */
  add(waiting: Waiting, network: string): void {
    const queue = this.#queues.get(network);
    if (queue === undefined) this.#queues.set(network, [waiting]);
    else if (!queue.includes(waiting)) queue.push(waiting);
  }

  /** The first that `suits`, of the network that has waited longest for a turn, which it then has had. */
  next(suits: (waiting: Waiting) => boolean): Waiting | undefined {
    for (const [network, queue] of this.#queues) {
      const waiting = queue.find(suits);
      if (waiting === undefined) continue;
      moveToEnd(this.#queues, network);
      return waiting;
    }
    return undefined;
  }

  remove(waiting: Waiting): void {
    for (const [network, queue] of this.#queues) {
      const at = queue.indexOf(waiting);
      if (at !== -1) queue.splice(at, 1);
      if (queue.length === 0) this.#queues.delete(network);
    }
  }
}

/** A place among the running downloads, or in the queue. */
export interface PullPlace {
  /** Whether it is waiting. */
  readonly queued: boolean;
  /** Resolves when the download may begin. Never rejects. */
  readonly turn: Promise<void>;
  /** Resolves when somebody waits for the connection of a spare place, which should then be left. Never rejects. */
  readonly recalled: Promise<void>;
  /** Another requester waits for the same download, which begins in whichever turn comes first. */
  join(waiter: Waiter): void;
  /** Gives up the place, running or queued. May be called more than once. */
  leave(): void;
}

/** How many transfers run and wait. */
export interface QueueState {
  /** Connections in use, further ones of a blob included. */
  readonly running: number;
  /** Without further connections, for which nobody waits. */
  readonly waiting: number;
  /**
   * The same by `Waiter.requester`. What several wait for counts for each; what runs, for the one whose turn was used.
   */
  readonly requesters: readonly QueueShare[];
}

/** Of a queue without any. */
export const NO_TRANSFERS: QueueState = { running: 0, waiting: 0, requesters: [] };

export interface QueueShare {
  readonly requester: string;
  readonly running: number;
  readonly waiting: number;
}

/** Where downloads, and ranges, wait for their turn. */
export interface PullTurns {
  readonly state: QueueState;
  enter(ticket: PullTicket): PullPlace;
  /** Starts what raised limits allow. */
  limitsChanged(): void;
}

/** The next download, and the requester whose turn it uses. */
interface Turn {
  readonly waiting: Waiting;
  readonly requester: string;
}

/** Limits simultaneous downloads. Further ones wait; requesters take turns, each with a queue of its own. */
export class PullQueue implements PullTurns {
  readonly #limits: QueueLimits;
  #running = 0;
  /** Running downloads by repository. */
  readonly #imagePulls = new Map<string, number>();
  /** Running downloads by requester. */
  readonly #transfers = new Map<string, number>();
  /** The running ones that are spare, in the order in which they began. */
  readonly #spares = new Set<Waiting>();
  /** By requester, in the order of turns: a requester goes to the end after its turn. */
  readonly #lines = new Map<string, Line>();

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

  get state(): QueueState {
    const lines = [...this.#lines].map(([requester, line]) => {
      return [requester, [...line.all].filter(({ isSpare }) => !isSpare)] as const;
    });
    const waiting = new Map(lines.map(([requester, line]) => [requester, line.length]));
    const requesters = new Set([...this.#transfers.keys(), ...waiting.keys()]);
    return {
      running: this.#running,
      waiting: new Set(lines.flatMap(([, line]) => line)).size,
      requesters: [...requesters].map(requester => ({
        requester,
        running: this.#transfers.get(requester) ?? 0,
        waiting: waiting.get(requester) ?? 0,
      })),
    };
  }

  enter(ticket: PullTicket): PullPlace {
    const waiting = new Waiting(ticket);
    this.#stand(waiting, ticket);
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
      waiting.add(waiter);
      this.#stand(waiting, waiter);
      this.#serve();
    };
    const { turn, recalled } = waiting;
    return { queued: waiting.state === 'waiting', turn, recalled, join, leave };
  }

  limitsChanged(): void {
    this.#serve();
  }

  #stand(waiting: Waiting, { requester, network = '' }: Waiter): void {
    const line = this.#lines.get(requester) ?? new Line();
    line.add(waiting, network);
    this.#lines.set(requester, line);
  }

  #serve(): void {
    while (this.#running < this.#maxConnections) {
      const next = this.#next();
      if (next === undefined) break;
      const { waiting, requester } = next;
      this.#running++;
      if (waiting.isSpare) this.#spares.add(waiting);
      add(this.#imagePulls, waiting.repository, 1);
      add(this.#transfers, requester, 1);
      waiting.start(requester);
    }
    this.#recall();
  }

  /** The first download that may run, of the requester that has waited longest for a turn. */
  #next(): Turn | undefined {
    return (
      this.#first(waiting => !waiting.isAhead && !waiting.isSpare && this.#mayPull(waiting)) ??
      this.#nextAhead() ??
      (this.#waitsForConnection().length === 0 ? this.#first(waiting => waiting.isSpare) : undefined)
    );
  }

  /** Downloads that wait for somebody to leave, and not only for the end of another image pull. */
  #waitsForConnection(): readonly Waiting[] {
    const all = new Set([...this.#lines.values()].flatMap(line => [...line.all]));
    return [...all].filter(waiting => !waiting.isSpare && this.#mayPull(waiting));
  }

  /** Wants a spare connection back for each download that waits for one. */
  #recall(): void {
    if (this.#spares.size === 0) return;
    const spares = [...this.#spares].toReversed();
    let returning = spares.filter(({ isRecalled }) => isRecalled).length;
    for (const waiting of this.#waitsForConnection()) {
      returning -= 1;
      if (returning >= 0) continue;
      const isFull = waiting.isAhead || this.#running >= this.#maxConnections;
      spares
        .find(({ isRecalled, requester }) => !isRecalled && (isFull || waiting.waiters.has(requester)))
        ?.recall();
    }
  }

  /**
   * The next prefetch that may run. Prefetching leaves free half of the connections, half of what one requester may
   * have, and one image pull.
   */
  #nextAhead(): Turn | undefined {
    if (this.#running >= Math.floor(this.#maxConnections / 2)) return undefined;
    const hasRoom = this.#imagePulls.size < this.#maxImagePulls - 1;
    return this.#first(
      (waiting, requester) =>
        waiting.isAhead &&
        this.#mayPull(waiting) &&
        (hasRoom || this.#imagePulls.has(waiting.repository)) &&
        (this.#transfers.get(requester) ?? 0) < Math.floor((waiting.waiters.get(requester) ?? 0) / 2),
    );
  }

  #first(suits: (waiting: Waiting, requester: string) => boolean): Turn | undefined {
    for (const [requester, line] of this.#lines) {
      const waiting = line.next(one => this.#mayTransfer(one, requester) && suits(one, requester));
      if (waiting === undefined) continue;
      // Others that wait for the same download keep their position.
      moveToEnd(this.#lines, requester);
      this.#removeFromLines(waiting);
      return { waiting, requester };
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
      const line = this.#lines.get(requester);
      line?.remove(waiting);
      if (line?.isEmpty === true) this.#lines.delete(requester);
    }
  }

  #finish(waiting: Waiting): void {
    const { requester, repository } = waiting;
    this.#running--;
    this.#spares.delete(waiting);
    add(this.#imagePulls, repository, -1);
    add(this.#transfers, requester, -1);
  }
}

/** Puts a key of the map behind all others. */
function moveToEnd<T>(turns: Map<string, T>, key: string): void {
  const moved = turns.get(key);
  if (moved === undefined) return;
  turns.delete(key);
  turns.set(key, moved);
}

/** Adds to a count; removes it at 0. */
function add(counts: Map<string, number>, key: string, change: 1 | -1): void {
  const count = (counts.get(key) ?? 0) + change;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}
