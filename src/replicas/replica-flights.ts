import { createHash } from 'node:crypto';
import type { ReplicaPlace } from '../metadata/metadata-store.ts';
import {
  type AgoMs,
  FlightBoard,
  type FlightCalls,
  flightsOn,
  type Landing,
  type SharedFlight,
} from '../mirror/shared-flights.ts';

/** How long a list of the replicas is used: one that is gone may still be asked for that long after it left the index. */
const PLACES_VALID_MS = 1_000;
/**
 * How many questions about which other replicas decide may be open. Each takes a connection until it is answered, and downloads
 * and pushes need some: clients that ask slow upstreams for one tag after the other must not take all. Further ones are not shared.
 */
const MAX_ELSEWHERE = 512;

export interface ReplicaFlightsOptions {
  /** The id of this replica. */
  readonly replica: string;
  readonly listReplicas: () => Promise<readonly ReplicaPlace[]>;
  /** Rejects if the replica cannot be reached. */
  readonly flyAt: (address: string, key: string, agoMs?: AgoMs) => Promise<SharedFlight>;
}

/**
 * Agrees with the other replicas on who asks an upstream. Each question is decided in one of them, which all find from its
 * key. While they do not agree on who is there, or one cannot be reached, a question may be asked more than once.
 */
export class ReplicaFlights implements FlightCalls {
  /** Decides about the questions that are this replica's, for all. */
  readonly board = new FlightBoard();
  readonly #options: ReplicaFlightsOptions;
  readonly #own: FlightCalls;
  /** Open questions of this replica about which others decide. */
  #elsewhere = 0;
  #places: { readonly atMs: number; readonly list: Promise<readonly ReplicaPlace[]> } | undefined;

  constructor(options: ReplicaFlightsOptions) {
    this.#options = options;
    this.#own = flightsOn(this.board.of(this));
  }

  async fly(key: string, agoMs?: AgoMs): Promise<SharedFlight> {
    const place = await this.#placeOf(key);
    if (place === undefined) return this.#own.fly(key, agoMs);
    return this.#elsewhere < MAX_ELSEWHERE ? this.#flyAt(place.address, key, agoMs) : { landing: 'lost' };
  }

  async #flyAt(address: string, key: string, agoMs: AgoMs | undefined): Promise<SharedFlight> {
    this.#elsewhere += 1;
    const flight = await this.#options.flyAt(address, key, agoMs).catch(() => ({ landing: 'lost' }) as const);
    if ('landing' in flight) {
      this.#elsewhere -= 1;
      return flight;
    }
    const land = (landing: Landing) => {
      this.#elsewhere -= 1;
      flight.land(landing);
    };
    return { land };
  }

  /** The other replica that decides about this question; `undefined` if this one does. */
  async #placeOf(key: string): Promise<ReplicaPlace | undefined> {
    const places = await this.#list().catch(() => []);
    const [first] = places
      .map(place => ({ place, rank: rankOf(place.id, key) }))
      .toSorted((one, other) => (one.rank < other.rank ? -1 : 1));
    return first?.place.id === this.#options.replica ? undefined : first?.place;
  }

  #list(): Promise<readonly ReplicaPlace[]> {
    const nowMs = performance.now();
    if (this.#places === undefined || nowMs - this.#places.atMs > PLACES_VALID_MS)
      this.#places = { atMs: nowMs, list: this.#options.listReplicas() };
    return this.#places.list;
  }
}

/** Rendezvous hashing: when a replica comes or goes, only its questions are decided elsewhere. */
function rankOf(id: string, key: string): string {
  return createHash('sha256').update(`${id} ${key}`).digest('hex');
}
