import type { Clock } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import type { KubeCollection, KubeClient, KubeObject } from './kube-client.ts';
import { WatchLoop } from './watch-loop.ts';

export interface ReflectorOptions<Kept> {
  readonly client: KubeClient;
  readonly collection: KubeCollection;
  /** Its name in the log, such as `namespaces`. */
  readonly resource: string;
  /** What to keep of an object. */
  readonly keep: (object: KubeObject) => Kept;
  /** Called with the names of changed objects; for the first list, when `hasListed` is true, even if there are none. */
  readonly onChange: (names: ReadonlySet<string>) => void;
  /** As in `WatchLoopOptions`. */
  readonly onState: (problem: string | undefined) => void;
  readonly clock: Clock;
  readonly log: Log;
}

interface Seen<Kept> {
  readonly resourceVersion: string;
  readonly value: Kept;
}

/**
 * A copy of a whole collection of objects without a namespace. While the server cannot be reached or refuses, the copy
 * stays as it was.
 */
export class Reflector<Kept> {
  readonly #options: ReflectorOptions<Kept>;
  readonly #loop: WatchLoop;
  #seen = new Map<string, Seen<Kept>>();
  #listed = this.#seen;

  constructor(options: ReflectorOptions<Kept>) {
    this.#options = options;
    this.#loop = new WatchLoop({
      ...options,
      list: signal => this.#list(signal),
      onListed: isFirst => this.#takeListed(isFirst),
      apply: (object, isGone) => this.#apply(object, isGone),
    });
  }

  get hasListed(): boolean {
    return this.#loop.hasListed;
  }

  get problem(): string | undefined {
    return this.#loop.problem;
  }

  get names(): Iterable<string> {
    return this.#seen.keys();
  }

  find(name: string): Kept | undefined {
    return this.#seen.get(name)?.value;
  }

  /** Resolves when the collection was listed, or could not be; it is then retried in the background. */
  start(): Promise<void> {
    return this.#loop.start();
  }

  close(): Promise<void> {
    return this.#loop.close();
  }

  #list(signal: AbortSignal): Promise<string> {
    const { client, collection } = this.#options;
    return client.list(
      collection,
      () => {
        const listed = new Map<string, Seen<Kept>>();
        this.#listed = listed;
        return object => {
          listed.set(object.name, this.#see(object));
          return true;
        };
      },
      signal,
    );
  }

  #takeListed(isFirst: boolean): void {
    const before = this.#seen;
    const after = this.#listed;
    this.#seen = after;
    const names = [...before.keys(), ...after.keys()];
    const changed = new Set(names.filter(name => before.get(name) !== after.get(name)));
    if (changed.size > 0 || isFirst) this.#options.onChange(changed);
  }

  #apply(object: KubeObject, isGone: boolean): void {
    if (isGone) this.#seen.delete(object.name);
    else this.#seen.set(object.name, this.#see(object));
    this.#options.onChange(new Set([object.name]));
  }

  /** An unchanged object is not parsed again, and keeps its value. */
  #see(object: KubeObject): Seen<Kept> {
    const { name, resourceVersion } = object;
    const known = this.#seen.get(name);
    if (known?.resourceVersion === resourceVersion) return known;
    return { resourceVersion, value: this.#options.keep(object) };
  }
}
