import type { Clock, Timer } from '../lib/clock.ts';
import { errorCode } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import type { GoneReplica, ReplicaPlace } from '../metadata/metadata-store.ts';
import { ReplicaAway } from '../mirror/fill/replicas.ts';
import type { ReplicaAbout } from './about-request.ts';

/** How often each other replica is asked about itself: one small request over a connection of its own. */
const LOOK_EACH_MS = 10_000;
/** How soon one that did not answer is asked again. */
const LOOK_AGAIN_MS = 5_000;
/** One that was killed is still listed for up to 6 s, which is nothing that anybody could fix. */
const SURE_AFTER_MS = 8_000;

/** Why another replica cannot be asked: no connection, another key or certificate, or something else answers at its address. */
export type ReplicaTrouble = 'unreachable' | 'key' | 'another';

/** For people: what it means, and which option may be wrong. */
const MEANINGS: Readonly<Record<ReplicaTrouble, string>> = {
  unreachable: 'cannot be reached (its cluster.advertise and cluster.listen, or a firewall)',
  key: 'refuses the key of this one, or the two do not trust their certificates (cluster.keyFile, cluster.tls)',
  another: 'is not what answers at its address (its cluster.advertise)',
};

const CONSEQUENCES = 'content may be downloaded more than once, and uploads that it has begun fail here';

/** What is known of another replica. */
export interface OtherReplica {
  readonly address: string;
  /** `unknown` until it has answered, or not answered for long enough; `gone` if it disappeared without shutting down. */
  readonly state: 'unknown' | 'reached' | 'unreachable' | 'gone';
  /** When this state began, epoch ms; for one that is gone, when it was last seen alive. */
  readonly sinceMs: number;
  /** Set if it is `unreachable`. */
  readonly trouble: ReplicaTrouble | undefined;
  /** What it has last said of itself; `undefined` if it has not, or is of a version that does not. */
  readonly about: ReplicaAbout | undefined;
}

interface Seen extends OtherReplica {
  /** Since when it has not answered, by `Clock.monotonicMs`; `undefined` if it has. */
  readonly silentSinceMs: number | undefined;
}

export interface ReplicaWatchOptions {
  /** The id of this replica. */
  readonly replica: string;
  readonly listReplicas: () => Promise<readonly ReplicaPlace[]>;
  readonly listGoneReplicas: () => Promise<readonly GoneReplica[]>;
  /** As `ReplicaClient.about`. */
  readonly ask: (address: string) => Promise<ReplicaAbout | undefined>;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Whether each replica in the index can be asked for what only it has. Nothing fails if it cannot, so that nobody would
 * notice a wrong key, address or firewall: it is logged when it begins and when it ends. Also which replicas disappeared
 * without shutting down: the others carry on, so that nobody would notice that either.
 */
export class ReplicaWatch {
  readonly #options: ReplicaWatchOptions;
  /** By id. */
  readonly #seen = new Map<string, Seen>();
  #gone: readonly GoneReplica[] = [];
  #looking: Promise<void> | undefined;
  #timer: Timer | undefined;
  #isWatching = false;

  constructor(options: ReplicaWatchOptions) {
    this.#options = options;
  }

  /** Looks now, and every now and then until it is closed. Before, nothing is known. */
  begin(): void {
    this.#isWatching = true;
    void this.#look();
  }

  close(): void {
    this.#isWatching = false;
    this.#timer?.cancel();
  }

  /** Call when a replica that was needed could not be reached. */
  noteAway(address: string): void {
    const isNews = this.#listed.some(other => other.address === address && other.silentSinceMs === undefined);
    if (isNews) void this.#look();
  }

  /** Those of the last look, by address. */
  get others(): readonly OtherReplica[] {
    const gone = this.#gone.map(({ address, goneSinceMs }) => ({
      address,
      state: 'gone' as const,
      sinceMs: goneSinceMs,
      trouble: undefined,
      about: undefined,
    }));
    return [...this.#listed, ...gone].toSorted((one, other) => (one.address < other.address ? -1 : 1));
  }

  get #listed(): readonly Seen[] {
    return [...this.#seen.values()];
  }

  /** For `/readyz` and `status`, without addresses, since anybody may read it. */
  get problems(): readonly string[] {
    const all = this.#listed;
    const away = all.filter(({ state }) => state === 'unreachable');
    const problems: string[] = [];
    if (away.length > 0) {
      const since = earliest(away.map(({ sinceMs }) => sinceMs));
      problems.push(
        `${away.length} of ${all.length} other replicas cannot be asked for anything, since ${since}: ${CONSEQUENCES} (see entrepot status)`,
      );
    }
    if (this.#gone.length > 0) {
      const [number, first] =
        this.#gone.length === 1 ? ['a replica', ''] : [`${this.#gone.length} replicas`, 'the first '];
      const since = earliest(this.#gone.map(({ goneSinceMs }) => goneSinceMs));
      problems.push(
        `${number} disappeared without shutting down, ${first}last seen at ${since} (see entrepot status)`,
      );
    }
    return problems;
  }

  /** Resolves when all have been asked. Never rejects. */
  async #look(): Promise<void> {
    if (!this.#isWatching) return;
    this.#timer?.cancel();
    this.#looking ??= this.#askAll().finally(() => {
      this.#looking = undefined;
      this.#wait();
    });
    await this.#looking;
  }

  #wait(): void {
    if (!this.#isWatching) return;
    const isSilent = this.#listed.some(({ silentSinceMs }) => silentSinceMs !== undefined);
    const delayMs = isSilent ? LOOK_AGAIN_MS : LOOK_EACH_MS;
    this.#timer = this.#options.clock.after(delayMs, () => void this.#look()).unref();
  }

  async #askAll(): Promise<void> {
    const { replica, listReplicas, listGoneReplicas } = this.#options;
    // Without the index nobody knows who is there, which is said elsewhere.
    const [places, gone] = await Promise.all([listReplicas(), listGoneReplicas()]).catch(() => []);
    if (places === undefined || gone === undefined) return;
    // The index lists this one, too, if it was suspended, until its next heartbeat.
    this.#noteGone(gone.filter(({ id }) => id !== replica));
    // One that is gone may still be listed because of a command on its machine.
    const there = places.filter(({ id }) => !gone.some(one => one.id === id));
    for (const [id, seen] of this.#seen)
      if (!there.some(place => isAt(place, id, seen))) this.#forget(id, seen);
    await Promise.all(there.filter(({ id }) => id !== replica).map(place => this.#ask(place)));
  }

  async #ask({ id, address }: ReplicaPlace): Promise<void> {
    let about: ReplicaAbout | undefined;
    let trouble: ReplicaTrouble | undefined;
    let failure: unknown;
    try {
      about = await this.#options.ask(address);
      if (about !== undefined && about.id !== id) trouble = 'another';
    } catch (error) {
      failure = error;
      trouble = troubleOf(error);
    }
    if (!this.#isWatching) return;
    if (trouble === undefined) this.#answered(id, address, about);
    else this.#wasSilent(id, address, { trouble, failure });
  }

  #answered(id: string, address: string, about: ReplicaAbout | undefined): void {
    const before = this.#seen.get(id);
    const sinceMs = before?.state === 'reached' ? before.sinceMs : this.#options.clock.nowMs();
    const state = 'reached';
    this.#seen.set(id, { address, state, sinceMs, trouble: undefined, about, silentSinceMs: undefined });
    if (before?.state === 'unreachable') this.#logEnd(before, 'another replica can be reached again');
  }

  #wasSilent(
    id: string,
    address: string,
    { trouble, failure }: { readonly trouble: ReplicaTrouble; readonly failure: unknown },
  ): void {
    const { clock, log } = this.#options;
    const nowMs = clock.monotonicMs();
    const before = this.#seen.get(id);
    const { state = 'unknown', sinceMs = clock.nowMs(), silentSinceMs = nowMs } = before ?? {};
    const isNews = state !== 'unreachable' && nowMs - silentSinceMs >= SURE_AFTER_MS;
    this.#seen.set(id, {
      address,
      state: isNews ? 'unreachable' : state,
      sinceMs: isNews ? clock.nowMs() - (nowMs - silentSinceMs) : sinceMs,
      trouble: isNews || state === 'unreachable' ? trouble : undefined,
      about: undefined,
      silentSinceMs,
    });
    if (!isNews) return;
    const fields = {
      replica: address,
      reason: trouble,
      ...(failure !== undefined && { detail: detailOf(failure) }),
    };
    log.warn(fields, `another replica ${MEANINGS[trouble]}: ${CONSEQUENCES}`);
  }

  #forget(id: string, seen: Seen): void {
    this.#seen.delete(id);
    if (seen.state === 'unreachable') this.#logEnd(seen, 'a replica that could not be asked is gone');
  }

  #noteGone(gone: readonly GoneReplica[]): void {
    const known = new Set(this.#gone.map(({ address }) => address));
    this.#gone = gone;
    for (const { address, goneSinceMs } of gone) {
      if (known.has(address)) continue;
      const fields = { replica: address, since: new Date(goneSinceMs).toISOString() };
      this.#options.log.warn(fields, 'another replica disappeared without shutting down');
    }
  }

  #logEnd({ address, trouble, sinceMs }: Seen, message: string): void {
    const { clock, log } = this.#options;
    log.info({ replica: address, reason: trouble, forMs: Math.round(clock.nowMs() - sinceMs) }, message);
  }
}

function earliest(timesMs: readonly number[]): string {
  return new Date(Math.min(...timesMs)).toISOString();
}

function isAt(place: ReplicaPlace, id: string, { address }: Seen): boolean {
  return place.id === id && place.address === address;
}

/** What the failure of a request to a replica means. */
function troubleOf(error: unknown): ReplicaTrouble {
  if (error instanceof ReplicaAway && error.isDistrusted) return 'key';
  // Who answers speaks another protocol.
  return errorCode(causeOf(error)) === 'EPROTO' ? 'another' : 'unreachable';
}

/** For the log: without a stack, since the fault is not in the program. */
function detailOf(error: unknown): string {
  const cause = causeOf(error);
  const message = cause instanceof Error ? cause.message : String(cause);
  return message || (errorCode(cause) ?? 'no reason given');
}

function causeOf(error: unknown): unknown {
  return error instanceof Error ? (error.cause ?? error) : error;
}
