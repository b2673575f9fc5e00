import type { PullPlace, PullTicket, PullTurns, Waiter } from './pull-queue.ts';

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

  get waiting(): number {
    return this.#queue.waiting;
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
    const { turn } = shared.place;
    return { queued: shared.isQueued, turn, join: waiter => shared.place.join(waiter), leave };
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

/** The places of one other process, which are left when it ends. */
export class PlacesOfProcess implements QueueCalls {
  readonly #queue: PullTurns;
  readonly #begin: (place: number) => void;
  readonly #places = new Map<number, PullPlace>();

  /** `begin` is called when the turn of a place has come. */
  constructor(queue: PullTurns, begin: (place: number) => void) {
    this.#queue = queue;
    this.#begin = begin;
  }

  enter({ place, ticket }: Parameters<QueueCalls['enter']>[0]): void {
    const entered = this.#queue.enter(ticket);
    this.#places.set(place, entered);
    void this.#beginInTurn(place, entered);
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

  async #beginInTurn(place: number, { turn }: PullPlace): Promise<void> {
    await turn;
    if (this.#places.has(place)) this.#begin(place);
  }
}

/** The queue as a process sees it that asks another. */
export class RemoteQueue implements PullTurns {
  /** The process that has the queue reports how many wait. */
  readonly waiting = 0;
  readonly #calls: QueueCalls;
  readonly #begin = new Map<number, () => void>();
  #last = 0;

  constructor(calls: QueueCalls) {
    this.#calls = calls;
  }

  enter(ticket: PullTicket): PullPlace {
    this.#last += 1;
    const place = this.#last;
    const turn = new Promise<void>(resolve => this.#begin.set(place, resolve));
    this.#calls.enter({ place, ticket });
    return {
      queued: true,
      turn,
      join: waiter => this.#calls.join({ place, waiter }),
      leave: () => {
        if (!this.#begin.delete(place)) return;
        this.#calls.leave(place);
      },
    };
  }

  /** The turn of `place` has come. */
  begin(place: number): void {
    this.#begin.get(place)?.();
  }

  /** The process that has the queue knows its limits. */
  limitsChanged(): void {}
}
