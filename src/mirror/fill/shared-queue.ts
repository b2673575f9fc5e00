import {
  NO_TRANSFERS,
  type PullPlace,
  type PullTicket,
  type PullTurns,
  type QueueState,
  type Waiter,
} from './pull-queue.ts';

interface Shared {
  readonly place: PullPlace;
  holders: number;
  isQueued: boolean;
}

/**
 * The queue of several processes, in the one that they ask. Processes that wait for the same download share a place: one
 * of them has the connection, the others follow it.
 */
export class SharedQueue implements PullTurns {
  readonly #queue: PullTurns;
  readonly #shared = new Map<string, Shared>();

  constructor(queue: PullTurns) {
    this.#queue = queue;
  }

  get state(): QueueState {
    return this.#queue.state;
  }

  enter(ticket: PullTicket): PullPlace {
    const { key } = ticket;
    if (key === undefined) return this.#queue.enter(ticket);
    const shared = this.#join(key, ticket) ?? this.#begin(key, ticket);
    let hasLeft = false;
    const leave = (): void => {
      if (hasLeft) return;
      hasLeft = true;
      shared.holders -= 1;
      if (shared.holders > 0) return;
      this.#shared.delete(key);
      shared.place.leave();
    };
    const { turn, recalled } = shared.place;
    return { queued: shared.isQueued, turn, recalled, join: waiter => shared.place.join(waiter), leave };
  }

  limitsChanged(): void {
    this.#queue.limitsChanged();
  }

  #join(key: string, { isAhead = false, ...waiter }: PullTicket): Shared | undefined {
    const shared = this.#shared.get(key);
    if (shared === undefined) return undefined;
    shared.holders += 1;
    // A prefetch does not make anything more urgent.
    if (!isAhead) shared.place.join(waiter);
    return shared;
  }

  #begin(key: string, ticket: PullTicket): Shared {
    const place = this.#queue.enter(ticket);
    const shared: Shared = { place, holders: 1, isQueued: place.queued };
    this.#shared.set(key, shared);
    void place.turn.then(() => (shared.isQueued = false));
    return shared;
  }
}

/** What a process asks of the queue, by the number of its place. */
export interface QueueCalls {
  enter(request: { readonly place: number; readonly ticket: PullTicket }): void;
  join(request: { readonly place: number; readonly waiter: Waiter }): void;
  leave(place: number): void;
}

/** What a process is told of its places, by their numbers. */
export interface PlaceNews {
  /** Its turn has come. */
  begin(place: number): void;
  /** Somebody waits for the connection of a spare place. */
  recall(place: number): void;
}

/** The places of one other process, which are left when it ends. */
export class PlacesOfProcess implements QueueCalls {
  readonly #queue: PullTurns;
  readonly #tell: PlaceNews;
  readonly #places = new Map<number, PullPlace>();

  constructor(queue: PullTurns, tell: PlaceNews) {
    this.#queue = queue;
    this.#tell = tell;
  }

  enter({ place, ticket }: Parameters<QueueCalls['enter']>[0]): void {
    const entered = this.#queue.enter(ticket);
    this.#places.set(place, entered);
    void this.#tellOf(place, entered.turn, 'begin');
    if (ticket.isSpare === true) void this.#tellOf(place, entered.recalled, 'recall');
  }

  join({ place, waiter }: Parameters<QueueCalls['join']>[0]): void {
    this.#places.get(place)?.join(waiter);
  }

  leave(place: number): void {
    this.#places.get(place)?.leave();
    this.#places.delete(place);
  }

  leaveAll(): void {
    for (const place of this.#places.keys()) this.leave(place);
  }

  async #tellOf(place: number, event: Promise<void>, name: keyof PlaceNews): Promise<void> {
    await event;
    if (this.#places.has(place)) this.#tell[name](place);
  }
}

interface RemotePlace {
  readonly begin: () => void;
  readonly recall: () => void;
}

/** The queue as a process sees it that asks another. */
export class RemoteQueue implements PullTurns, PlaceNews {
  /** The process that has the queue reports who waits. */
  readonly state = NO_TRANSFERS;
  readonly #calls: QueueCalls;
  readonly #places = new Map<number, RemotePlace>();
  #last = 0;

  constructor(calls: QueueCalls) {
    this.#calls = calls;
  }

  enter(ticket: PullTicket): PullPlace {
    this.#last += 1;
    const place = this.#last;
    const [turn, begin] = happening();
    const [recalled, recall] = happening();
    this.#places.set(place, { begin, recall });
    this.#calls.enter({ place, ticket });
    return {
      queued: true,
      turn,
      recalled,
      join: waiter => this.#calls.join({ place, waiter }),
      leave: () => {
        if (!this.#places.delete(place)) return;
        this.#calls.leave(place);
      },
    };
  }

  begin(place: number): void {
    this.#places.get(place)?.begin();
  }

  recall(place: number): void {
    this.#places.get(place)?.recall();
  }

  /** The process that has the queue knows its limits. */
  limitsChanged(): void {}
}

/** A promise and the way to resolve it. */
function happening(): [Promise<void>, () => void] {
  let happens: (() => void) | undefined;
  const happened = new Promise<void>(resolve => {
    happens = resolve;
  });
  return [happened, () => happens?.()];
}
