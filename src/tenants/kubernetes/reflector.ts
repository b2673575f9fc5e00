import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../../lib/backoff.ts';
import type { Log } from '../../lib/log.ts';
import { type Collection, type KubeClient, type KubeObject, KubeRefusal } from './kube-client.ts';

export interface ReflectorOptions<Kept> {
  readonly client: KubeClient;
  readonly collection: Collection;
  /** What the log calls it: `secrets`. */
  readonly resource: string;
  /** What to keep of an object. */
  readonly keep: (object: KubeObject) => Kept;
  /** Namespaces in which something is other than before; a Namespace is in itself. `isFirst`: now all of it is known. */
  readonly onChange: (namespaces: ReadonlySet<string>, isFirst: boolean) => void;
  /** It follows the cluster again, or no longer: then what was seen last stays. */
  readonly onState: (problem: string | undefined) => void;
  readonly log: Log;
}

/**
 * After a failure. One request in ten seconds is no burden to a server that is coming up, and what changed meanwhile
 * counts within seconds of its return.
 */
const RETRY = { firstMs: 250, maxMs: 10_000 } as const;

/** Refusals in a row that may be of a server that is coming up: the first four of them take four seconds. */
const PATIENT_FAILURES = 4;

/** A server that ends each watch at once would be asked without a pause. */
const SHORT_WATCH_MS = 1_000;

interface Seen<Kept> {
  readonly resourceVersion: string;
  readonly value: Kept;
}

/** By namespace, then by name. */
type Place<Kept> = Map<string, Map<string, Seen<Kept>>>;

/**
 * A copy of a collection of the cluster that is kept up to date: listed once, then watched, resumed where a watch ended,
 * and listed anew when the cluster no longer knows that place. While the server cannot be reached, or refuses, the copy
 * stays as it was.
 */
export class Reflector<Kept> {
  readonly #options: ReflectorOptions<Kept>;
  readonly #end = new AbortController();
  #place: Place<Kept> = new Map();
  #resourceVersion: string | undefined;
  #isPaged = true;
  #failures = 0;
  #hasListed = false;
  #problem: string | undefined;
  readonly #firstAttempt: Promise<void>;
  #attempted = () => {};
  #running: Promise<void> | undefined;

  constructor(options: ReflectorOptions<Kept>) {
    this.#options = options;
    this.#firstAttempt = new Promise(resolve => (this.#attempted = resolve));
  }

  /** The collection was read whole at least once. */
  get hasListed(): boolean {
    return this.#hasListed;
  }

  /** Why it is not followed now. */
  get problem(): string | undefined {
    return this.#problem;
  }

  get namespaces(): Iterable<string> {
    return this.#place.keys();
  }

  in(namespace: string): ReadonlyMap<string, Seen<Kept>> {
    return this.#place.get(namespace) ?? new Map<string, Seen<Kept>>();
  }

  /** Resolves when the collection was listed, or could not be; then it goes on by itself. */
  async start(): Promise<void> {
    this.#running ??= this.#run();
    await this.#firstAttempt;
  }

  async close(): Promise<void> {
    this.#end.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#end;
    while (!signal.aborted) {
      const startMs = performance.now();
      try {
        await this.#follow();
        this.#failures = performance.now() - startMs < SHORT_WATCH_MS ? this.#failures + 1 : 0;
      } catch (error) {
        if (signal.aborted) break;
        this.#note(error);
      }
      this.#attempted();
      const waitMs = jittered(backoffMs(RETRY, this.#failures));
      await sleep(waitMs, undefined, { signal }).catch(() => {});
    }
    this.#attempted();
  }

  /** Until the server ends the watch. */
  async #follow(): Promise<void> {
    const { client, collection } = this.#options;
    const { signal } = this.#end;
    const from = this.#resourceVersion ?? (await this.#list());
    this.#attempted();
    const watch = client.watch(collection, from, { following: () => this.#noteFollowing(), signal });
    for await (const event of watch) {
      this.#failures = 0;
      if (event.type === 'BOOKMARK') this.#resourceVersion = event.resourceVersion;
      else this.#apply(event.object, event.type === 'DELETED');
    }
  }

  async #list(): Promise<string> {
    const { client, collection, onChange } = this.#options;
    const next: Place<Kept> = new Map();
    const version = await client.list(collection, object => this.#put(next, object), {
      isPaged: this.#isPaged,
      signal: this.#end.signal,
    });
    const changed = difference(this.#place, next);
    const isFirst = !this.#hasListed;
    this.#place = next;
    this.#resourceVersion = version;
    this.#isPaged = true;
    this.#hasListed = true;
    if (changed.size > 0 || isFirst) onChange(changed, isFirst);
    return version;
  }

  #apply(object: KubeObject, isGone: boolean): void {
    const [namespace, name] = placeOf(object);
    if (isGone) {
      const within = this.#place.get(namespace);
      within?.delete(name);
      if (within?.size === 0) this.#place.delete(namespace);
    } else {
      this.#put(this.#place, object);
    }
    this.#resourceVersion = object.resourceVersion;
    this.#options.onChange(new Set([namespace]), false);
  }

  /** What did not change is not read again, and stays the same value. */
  #put(place: Place<Kept>, object: KubeObject): void {
    const [namespace, name] = placeOf(object);
    const { resourceVersion } = object;
    const known = this.#place.get(namespace)?.get(name);
    const seen =
      known?.resourceVersion === resourceVersion
        ? known
        : { resourceVersion, value: this.#options.keep(object) };
    const within = place.get(namespace);
    if (within === undefined) place.set(namespace, new Map([[name, seen]]));
    else within.set(name, seen);
  }

  #note(error: unknown): void {
    const { resource, onState, log } = this.#options;
    this.#failures += 1;
    if (error instanceof KubeRefusal && error.isGone) {
      // A list that became too old half way is taken in one go the next time.
      this.#isPaged = this.#resourceVersion !== undefined;
      this.#resourceVersion = undefined;
      log.info(
        { resource, reason: error.message },
        'the cluster has forgotten what was seen last: listing anew',
      );
      return;
    }
    if (error instanceof KubeRefusal && this.#isLasting(error)) this.#resourceVersion = undefined;
    const problem = error instanceof Error ? error.message : String(error);
    if (problem === this.#problem) return;
    this.#problem = problem;
    onState(problem);
    log.error({ resource, reason: problem }, 'the cluster cannot be followed: what was seen last counts');
  }

  /**
   * Whether a list may be answered where the watch is refused: who may list but not watch still sees changes, if later.
   * A server that is coming up refuses for seconds whom it will let in, and were everybody to list anew by that, it
   * would come up later still. Whoever it does not know (401) it gives no list either.
   */
  #isLasting({ status }: KubeRefusal): boolean {
    if (status === 401 || status === 429 || status >= 500) return false;
    return status !== 403 || this.#failures > PATIENT_FAILURES;
  }

  #noteFollowing(): void {
    if (this.#problem === undefined) return;
    this.#problem = undefined;
    const { resource, onState, log } = this.#options;
    onState(undefined);
    log.info({ resource }, 'the cluster is followed again');
  }
}

function placeOf({ namespace, name }: KubeObject): readonly [namespace: string, name: string] {
  return [namespace === '' ? name : namespace, name];
}

/** The namespaces in which `after` is other than `before`. */
function difference<Kept>(before: Place<Kept>, after: Place<Kept>): Set<string> {
  const changed = new Set<string>();
  for (const namespace of new Set([...before.keys(), ...after.keys()])) {
    const [then, now] = [before.get(namespace), after.get(namespace)];
    const isSame =
      then?.size === now?.size && [...(now ?? [])].every(([name, seen]) => then?.get(name) === seen);
    if (!isSame) changed.add(namespace);
  }
  return changed;
}
