import { LATE, within } from '../lib/within.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { FailureNews } from './negative-cache.ts';

/** How a question has ended that one process has asked for all; `lost` if another has to ask it. */
export type Landing =
  | (Remembered & { readonly answer: unknown })
  | (Remembered & { readonly failure: NonNullable<FailureNews['failure']> })
  | 'lost';

interface Remembered {
  /** How long ago it had ended when it was asked for, ms; absent if it was waited for. */
  readonly landedAgoMs?: number;
  /** For how long whoever asked had led when it ended, ms: the board may hear of it much later. */
  readonly ledForMs?: number;
}

/** A question that another process has asked, or that this one is to ask: then it calls `land`, once. */
export type SharedFlight = { readonly landing: Landing } | { readonly land: (landing: Landing) => void };

/**
 * How long ago the caller began to find out that it has to ask, ms. Called just before the question is on its way to the board,
 * since what passes after that does not count.
 */
export type AgoMs = () => number;

/** How a process agrees with others on who asks. */
export interface FlightCalls {
  /**
   * Resolves at once if nobody asks this now, or if whoever did has landed in the last `agoMs`; otherwise when whoever does has
   * landed. Default: only what lands from now on counts.
   */
  fly(key: string, agoMs?: AgoMs): Promise<SharedFlight>;
}

/** A question that a board decides about. */
export interface AskedFlight {
  readonly key: string;
  /** As `AgoMs`; 0 if only what lands from now on counts. */
  readonly agoMs: number;
}

/** The calls of one process on a board, which may be that of another process. */
export interface BoardCalls {
  /** As `FlightCalls.fly`; resolves to `lead` if the process is to ask. */
  fly(asked: AskedFlight): Promise<Landing | 'lead'>;
  /** Call after `lead`: of a key, a process leads one flight at a time. */
  land(landed: { readonly key: string; readonly landing: Landing }): void;
}

/** The flights that one board decides about. */
export function flightsOn(board: BoardCalls): FlightCalls {
  return {
    fly: async (key, agoMs = () => 0) => {
      const landing = await board.fly({ key, agoMs: agoMs() });
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

export interface FlightOptions {
  /** Tells, when another process has got an answer, whether that is good enough. Default: it is. */
  readonly accepts?: () => Promise<boolean>;
  /**
   * When the caller began to find out that it has to ask, by the clock of the SharedFlights: what another process has got since
   * then counts, too. Default: only what it gets from now on.
   */
  readonly sinceMs?: number | undefined;
  /** Called with when the result had landed at the earliest, by that clock, if that was before it was asked for. */
  readonly onRemembered?: (landedAtMs: number) => void;
}

/** Longer than an upstream may take; clients wait 20 s. A process that is suspended must not delay all others. */
const LAND_WITHIN_MS = 10_000;
/**
 * For how long a board remembers how flights have landed. From the beginning of a read of the index until the question that
 * follows from it, even a busy process takes a fraction of a second; whoever takes longer than this asks upstream again.
 */
const LANDED_FOR_MS = 5_000;
/** Of the last flights, which may be 200 a second. With the next limit, they take at most 5 MB. */
const MAX_LANDED = 1_000;
/** Of a landing as JSON; longer ones are not remembered. Answers have less than 200, failures what an upstream says. */
const MAX_LANDED_CHARS = 4_096;

/**
 * Shares a question between processes, as SingleFlight does within one: many nodes that pull a new image cost upstream
 * one request, whichever processes they are connected to.
 */
export class SharedFlights {
  readonly #calls: FlightCalls | undefined;
  readonly #nowMs: () => number;

  /** Without `calls`, there are no other processes. `nowMs`: a clock that nobody sets. */
  constructor(calls?: FlightCalls, nowMs = () => performance.now()) {
    this.#calls = calls;
    this.#nowMs = nowMs;
  }

  /**
   * The result of `ask`, or what another process has got from it. `key` names the question, and with which credential
   * it is asked.
   */
  async run<T>(
    key: string,
    packing: Packing<T> | undefined,
    ask: FlightAsk<T>,
    { accepts = async () => true, sinceMs, onRemembered = () => {} }: FlightOptions = {},
  ): Promise<T> {
    const calls = this.#calls;
    if (calls === undefined || packing === undefined) return ask(() => {});
    const named = `${packing.name} ${key}`;
    let flownAtMs = this.#nowMs();
    const agoMs = (): number => {
      flownAtMs = this.#nowMs();
      return flownAtMs - (sinceMs ?? flownAtMs);
    };
    const flying = calls.fly(named, agoMs);
    const flight = await within(flying, LAND_WITHIN_MS);
    if (flight === LATE) {
      passOn(flying);
      return ask(() => {});
    }
    if ('land' in flight) return lead(flight.land, packing, ask);
    const { landing } = flight;
    if (landing === 'lost') return ask(() => {});
    const { landedAgoMs } = landing;
    const noteRemembered = () => landedAgoMs !== undefined && onRemembered(flownAtMs - landedAgoMs);
    if ('failure' in landing) {
      noteRemembered();
      const { kind, message, ...details } = landing.failure;
      throw new UpstreamFailure(kind, message, details);
    }
    const answer = (await accepts()) ? await packing.unpack(landing.answer) : undefined;
    if (answer === undefined) return ask(() => {});
    noteRemembered();
    return answer;
  }
}

async function lead<T>(land: (landing: Landing) => void, packing: Packing<T>, ask: FlightAsk<T>): Promise<T> {
  let landing: Landing = 'lost';
  let isKept = false;
  const sinceMs = performance.now();
  const ledForMs = () => performance.now() - sinceMs;
  try {
    const answer = await ask(() => (isKept = true));
    const packed = packing.pack(answer);
    if (packed !== undefined) landing = { answer: packed, ledForMs: ledForMs() };
    return answer;
  } catch (error) {
    if (error instanceof UpstreamFailure && !isKept) {
      const { kind, message, status, endpoint, retryAfterMs, obstacle } = error;
      landing = {
        failure: { kind, message, status, endpoint, retryAfterMs, obstacle },
        ledForMs: ledForMs(),
      };
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

/** How flights have landed lately. */
class Landings {
  /** By key, of each the last, the latest last; by `performance.now`. */
  readonly #landed = new Map<string, { readonly landing: Exclude<Landing, 'lost'>; readonly atMs: number }>();

  note(key: string, landing: Exclude<Landing, 'lost'>, ledSinceMs: number): void {
    const atMs = Math.min(performance.now(), ledSinceMs + (landing.ledForMs ?? 0));
    this.#landed.delete(key);
    if (JSON.stringify(landing).length <= MAX_LANDED_CHARS) this.#landed.set(key, { landing, atMs });
    for (const [each, landed] of this.#landed) {
      if (this.#landed.size <= MAX_LANDED && atMs - landed.atMs < LANDED_FOR_MS) return;
      this.#landed.delete(each);
    }
  }

  /** How it has landed in the last `agoMs`. */
  find({ key, agoMs }: AskedFlight): Landing | undefined {
    const landed = this.#landed.get(key);
    if (landed === undefined) return undefined;
    const landedAgoMs = performance.now() - landed.atMs;
    return landedAgoMs < Math.min(agoMs, LANDED_FOR_MS) ? { ...landed.landing, landedAgoMs } : undefined;
  }
}

/**
 * Decides for all processes who asks; each is named by an object. A process finds out from the index that it has to ask, and in
 * the meantime the one that asks may store the answer and land: so a landing is remembered for those who had begun before it.
 */
export class FlightBoard {
  /** By key, the newest flight last. Nobody joins those before it: their leaders have taken too long. */
  readonly #flights = new Map<string, Asking[]>();
  readonly #landings = new Landings();

  /** The calls of one process. */
  of(process: object): BoardCalls {
    return {
      fly: asked => this.#fly(process, asked),
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

  async #fly(process: object, asked: AskedFlight): Promise<Landing | 'lead'> {
    const { key } = asked;
    const landed = this.#landings.find(asked);
    if (landed !== undefined) return landed;
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
    // Whoever began lately would not have joined one that has taken too long.
    if (landing !== 'lost' && performance.now() - flight.sinceMs <= LAND_WITHIN_MS)
      this.#landings.note(key, landing, flight.sinceMs);
    const others = flights.filter(each => each !== flight);
    if (others.length === 0) this.#flights.delete(key);
    else this.#flights.set(key, others);
    for (const { resolve } of flight.waiting) resolve(landing);
  }
}
