import { LATE, within } from '../lib/within.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { FailureNews } from './negative-cache.ts';

/** How a question has ended that one process has asked for all; `lost` if another has to ask it. */
export type Landing =
  | { readonly answer: unknown }
  | { readonly failure: NonNullable<FailureNews['failure']> }
  | 'lost';

/** A question that another process has asked, or that this one is to ask: then it calls `land`, once. */
export type SharedFlight = { readonly landing: Landing } | { readonly land: (landing: Landing) => void };

/** How a process agrees with others on who asks. */
export interface FlightCalls {
  /** Resolves at once if nobody asks this now, otherwise when whoever does has landed. */
  fly(key: string): Promise<SharedFlight>;
}

/** The calls of one process on a board, which may be that of another process. */
export interface BoardCalls {
  /** Resolves to `lead` at once if nobody asks this now, otherwise when whoever does has landed. */
  fly(key: string): Promise<Landing | 'lead'>;
  /** Call after `lead`: of a key, a process leads one flight at a time. */
  land(landed: { readonly key: string; readonly landing: Landing }): void;
}

/** The flights that one board decides about. */
export function flightsOn(board: BoardCalls): FlightCalls {
  return {
    fly: async key => {
      const landing = await board.fly(key);
      if (landing !== 'lead') return { landing };
      return { land: own => board.land({ key, landing: own }) };
    },
  };
}

/** How the answers to a kind of question are passed on to other processes. */
export interface Packing<T> {
  /** Of the kind. */
  readonly name: string;
  /** What the others need of the answer, which can be cloned; `undefined` if they have to ask for themselves. */
  pack(answer: T): unknown;
  /** The answer, from what another process has packed; `undefined` if this one has to ask for itself. */
  unpack(packed: unknown): Promise<T | undefined>;
}

/** Asks upstream. Calls `keep` if others must not rely on a failure, and have to ask for themselves. */
export type FlightAsk<T> = (keep: () => void) => Promise<T>;

/** Longer than an upstream may take; clients wait 20 s. A process that is suspended must not delay all others. */
const LAND_WITHIN_MS = 10_000;

/**
 * Shares a question between processes, as SingleFlight does within one: many nodes that pull a new image cost upstream
 * one request, whichever processes they are connected to.
 */
export class SharedFlights {
  readonly #calls: FlightCalls | undefined;

  /** Without `calls`, there are no other processes. */
  constructor(calls?: FlightCalls) {
    this.#calls = calls;
  }

  /**
   * The result of `ask`, or what another process has got from it. `key` names the question, and with which credential
   * it is asked. `accepts` tells, when another process has got an answer, whether that is good enough.
   */
  async run<T>(
    key: string,
    packing: Packing<T> | undefined,
    ask: FlightAsk<T>,
    { accepts = async () => true }: { readonly accepts?: () => Promise<boolean> } = {},
  ): Promise<T> {
    const calls = this.#calls;
    if (calls === undefined || packing === undefined) return ask(() => {});
    const named = `${packing.name} ${key}`;
    const flying = calls.fly(named);
    const flight = await within(flying, LAND_WITHIN_MS);
    if (flight === LATE) {
      passOn(flying);
      return ask(() => {});
    }
    if ('land' in flight) return lead(flight.land, packing, ask);
    const { landing } = flight;
    if (landing === 'lost') return ask(() => {});
    if ('failure' in landing) {
      const { kind, message, ...details } = landing.failure;
      throw new UpstreamFailure(kind, message, details);
    }
    const answer = (await accepts()) ? await packing.unpack(landing.answer) : undefined;
    return answer ?? ask(() => {});
  }
}

async function lead<T>(land: (landing: Landing) => void, packing: Packing<T>, ask: FlightAsk<T>): Promise<T> {
  let landing: Landing = 'lost';
  let isKept = false;
  try {
    const answer = await ask(() => (isKept = true));
    const packed = packing.pack(answer);
    if (packed !== undefined) landing = { answer: packed };
    return answer;
  } catch (error) {
    if (error instanceof UpstreamFailure && !isKept) {
      const { kind, message, status, endpoint, retryAfterMs, obstacle } = error;
      landing = { failure: { kind, message, status, endpoint, retryAfterMs, obstacle } };
    }
    throw error;
  } finally {
    land(landing);
  }
}

/** Gives up the lead if it comes after the process has stopped waiting for it. */
function passOn(flying: Promise<SharedFlight>): void {
  // If the board is gone, there is nothing to give up.
  flying.then(flight => 'land' in flight && flight.land('lost')).catch(() => {});
}

interface Asking {
  leader: object;
  /** Since when it leads, by `performance.now`. */
  sinceMs: number;
  waiting: { readonly process: object; readonly resolve: (landing: Landing | 'lead') => void }[];
}

/** Decides for all processes who asks; each is named by an object. */
export class FlightBoard {
  /** By key, the newest flight last. Nobody joins those before it: their leaders have taken too long. */
  readonly #flights = new Map<string, Asking[]>();

  /** The calls of one process. */
  of(process: object): BoardCalls {
    return {
      fly: key => this.#fly(process, key),
      land: ({ key, landing }) => this.#land(process, key, landing),
    };
  }

  /** The process has ended: others lead what it did. */
  forget(process: object): void {
    for (const [key, flights] of this.#flights) {
      for (const flight of flights) flight.waiting = flight.waiting.filter(each => each.process !== process);
      this.#land(process, key, 'lost');
    }
  }

  async #fly(process: object, key: string): Promise<Landing | 'lead'> {
    const flights = this.#flights.get(key) ?? [];
    const newest = flights.at(-1);
    const sinceMs = performance.now();
    if (newest === undefined || sinceMs - newest.sinceMs > LAND_WITHIN_MS) {
      this.#flights.set(key, [...flights, { leader: process, sinceMs, waiting: [] }]);
      return 'lead';
    }
    return new Promise(resolve => void newest.waiting.push({ process, resolve }));
  }

  #land(process: object, key: string, landing: Landing): void {
    const flights = this.#flights.get(key) ?? [];
    const flight = flights.find(({ leader }) => leader === process);
    if (flight === undefined) return;
    const next = landing === 'lost' ? flight.waiting.shift() : undefined;
    if (next !== undefined) {
      flight.leader = next.process;
      flight.sinceMs = performance.now();
      next.resolve('lead');
      return;
    }
    const others = flights.filter(each => each !== flight);
    if (others.length === 0) this.#flights.delete(key);
    else this.#flights.set(key, others);
    for (const { resolve } of flight.waiting) resolve(landing);
  }
}
