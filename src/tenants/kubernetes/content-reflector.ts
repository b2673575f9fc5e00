import type { Clock, Timer } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import type { KubeCollection, KubeClient, KubeObject } from './kube-client.ts';
import type { PassedOverObjects } from './passed-over.ts';
import { WatchLoop } from './watch-loop.ts';

export interface ContentReflectorOptions<Kept> {
  readonly client: KubeClient;
  /** The collection to watch; each namespace in it is listed separately. */
  readonly collection: KubeCollection;
  /** Its name in the log, such as `secrets`. */
  readonly resource: string;
  /** What to keep of an object. Of an object with a `problem`, only that it exists. */
  readonly keep: (object: KubeObject) => Kept;
  /** Called with wanted namespaces in which something changed, or which have to be read. */
  readonly onChange: (namespaces: ReadonlySet<string>) => void;
  /** As in `WatchLoopOptions`. */
  readonly onState: (problem: string | undefined) => void;
  /** Told of objects that are too large to be kept. */
  readonly passedOver: PassedOverObjects;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * How much is kept of one kind in one namespace, in bytes of JSON: a thousand pull Secrets of usual size. Of anything
 * beyond only the name is kept, so that a namespace cannot affect others.
 */
export const MAX_NAMESPACE_BYTES = 4 * 2 ** 20;

/** How many objects of one kind are kept in one namespace; names need memory, too. */
export const MAX_NAMESPACE_OBJECTS = 2_000;

/** How much is read of one namespace to find what to keep: about a second, mostly of the server's time. */
const MAX_READ_BYTES = 256 * 2 ** 20;

/** How long after its content has shrunk a namespace that did not fit is read again; not more often. */
const READ_AGAIN_MS = 60_000;

interface Seen<Kept> {
  readonly resourceVersion: string;
  /** How much counts against the limit of the namespace. */
  readonly size: number;
  readonly problem: string | undefined;
  readonly value: Kept;
}

/** The content of one namespace. */
class Copy<Kept> {
  objects = new Map<string, Seen<Kept>>();
  bytes = 0;
  isRead = false;
  /** Whether it was read at least once; before that, that it has no objects means nothing. */
  isKnown = false;
  /** Whether something was skipped because of the limit. */
  isShort = false;
  /** Why there are further objects, of which not even the names are kept. */
  othersProblem: string | undefined;
  /** The names of objects that changed while the namespace is being read; `undefined` otherwise. */
  touched: Set<string> | undefined;
  reading: Promise<void> | undefined;
  readAgain: Timer | undefined;
}

/**
 * Copies of the objects of one kind in wanted namespaces. The whole collection is watched, since the API server can
 * serve one watch for any number of namespaces; each wanted namespace is listed separately. Objects in other namespaces
 * are not read. A namespace is listed while the watch is running: what the watch reports meanwhile is newer than the
 * list, or a later report is.
 */
export class ContentReflector<Kept> {
  readonly #options: ContentReflectorOptions<Kept>;
  readonly #loop: WatchLoop;
  readonly #copies = new Map<string, Copy<Kept>>();
  readonly #end = new AbortController();
  /** Counts watches: what was read during an earlier one may be outdated. */
  #epoch = 0;

  constructor(options: ContentReflectorOptions<Kept>) {
    this.#options = options;
    this.#loop = new WatchLoop({
      ...options,
      list: signal => options.client.version(options.collection, signal),
      onListed: () => this.#forgetWhatWasRead(),
      apply: (object, isGone) => this.#apply(object, isGone),
    });
  }

  /** Why it is not watched now; `undefined` if it is. */
  get problem(): string | undefined {
    return this.#loop.problem;
  }

  /** Resolves when the watch has begun, or failed to; it is then retried in the background. */
  start(): Promise<void> {
    return this.#loop.start();
  }

  async close(): Promise<void> {
    this.#end.abort();
    for (const { readAgain } of this.#copies.values()) readAgain?.cancel();
    await this.#loop.close();
    await Promise.allSettled([...this.#copies.values()].flatMap(({ reading }) => reading ?? []));
  }

  /** From now on, until `drop`, the objects of the namespace are kept. */
  want(namespace: string): void {
    if (!this.#copies.has(namespace)) this.#copies.set(namespace, new Copy());
  }

  drop(namespace: string): void {
    const copy = this.#copies.get(namespace);
    if (copy === undefined) return;
    copy.readAgain?.cancel();
    this.#copies.delete(namespace);
    const { passedOver, resource } = this.#options;
    for (const name of [...copy.objects.keys(), OTHERS]) passedOver.forget(resource, namespace, name);
  }

  /**
   * Lists the objects of a wanted namespace, unless they are known. Rejects if that fails; what was seen last is kept.
   */
  async read(namespace: string): Promise<void> {
    const copy = this.#copies.get(namespace);
    // Without a watch, nothing would follow it. When the watch begins, all wanted namespaces have to be read.
    if (copy === undefined || copy.isRead || !this.#loop.hasListed) return;
    copy.reading ??= this.#read(namespace, copy).finally(() => (copy.reading = undefined));
    await copy.reading;
  }

  /** The objects of a wanted namespace by name, or the reason for which it was never read. */
  in(namespace: string): ReadonlyMap<string, Kept> | string {
    const copy = this.#copies.get(namespace);
    if (copy?.isKnown !== true) return this.problem ?? 'they have not been read yet';
    return new Map([...copy.objects].map(([name, { value }]) => [name, value]));
  }

  async #read(namespace: string, copy: Copy<Kept>): Promise<void> {
    const { client, collection, resource, passedOver } = this.#options;
    const epoch = this.#epoch;
    copy.touched = new Set();
    let next = new Copy<Kept>();
    try {
      await client.list(
        within(collection, namespace),
        () => {
          next = new Copy<Kept>();
          let bytes = 0;
          return object => {
            // A page that was too large is requested again.
            if (!next.objects.has(object.name)) bytes += object.size;
            if (bytes > MAX_READ_BYTES) leaveOthers(next, `at most ${MAX_READ_BYTES} bytes are read`);
            else this.#put(next, object, copy.objects.get(object.name));
            return bytes <= MAX_READ_BYTES;
          };
        },
        this.#end.signal,
      );
    } finally {
      const { touched } = copy;
      copy.touched = undefined;
      for (const name of touched ?? []) {
        const seen = copy.objects.get(name);
        remove(next, name);
        if (seen !== undefined) add(next, name, seen);
      }
    }
    if (this.#copies.get(namespace) !== copy) return;
    // Changes between the list and the new watch were missed.
    if (epoch !== this.#epoch) return this.#read(namespace, copy);
    for (const name of copy.objects.keys()) {
      if (!next.objects.has(name)) passedOver.forget(resource, namespace, name);
    }
    for (const [name, { problem }] of next.objects) passedOver.note(resource, { namespace, name, problem });
    passedOver.note(resource, { namespace, name: OTHERS, problem: next.othersProblem });
    copy.objects = next.objects;
    copy.bytes = next.bytes;
    copy.isShort = next.isShort;
    copy.othersProblem = next.othersProblem;
    copy.isRead = true;
    copy.isKnown = true;
  }

  /** A new watch begins: changes before it were not reported. */
  #forgetWhatWasRead(): void {
    this.#epoch += 1;
    for (const copy of this.#copies.values()) copy.isRead = false;
    this.#options.onChange(new Set(this.#copies.keys()));
  }

  #apply(object: KubeObject, isGone: boolean): void {
    const { resource, passedOver, onChange } = this.#options;
    const { namespace, name } = object;
    const copy = this.#copies.get(namespace);
    if (copy === undefined) {
      // In no wanted namespace, but reported all the same, since the server sent it.
      passedOver.note(resource, isGone ? { namespace, name, problem: undefined } : object);
      return;
    }
    copy.touched?.add(name);
    const bytes = copy.bytes;
    if (isGone) {
      remove(copy, name);
      passedOver.forget(resource, namespace, name);
    } else {
      this.#put(copy, object, copy.objects.get(name));
      passedOver.note(resource, { namespace, name, problem: copy.objects.get(name)?.problem });
      passedOver.note(resource, { namespace, name: OTHERS, problem: copy.othersProblem });
    }
    if (copy.isShort && (isGone || copy.bytes < bytes)) this.#readAgainSoon(namespace, copy);
    onChange(new Set([namespace]));
  }

  /** An unchanged object is not parsed again, and keeps its value. */
  #put(copy: Copy<Kept>, object: KubeObject, known: Seen<Kept> | undefined): void {
    const { name, resourceVersion, size } = object;
    remove(copy, name);
    if (copy.objects.size >= MAX_NAMESPACE_OBJECTS) {
      leaveOthers(copy, `at most ${MAX_NAMESPACE_OBJECTS} are kept`);
      return;
    }
    const isRoom = object.problem !== undefined || copy.bytes + size <= MAX_NAMESPACE_BYTES;
    if (!isRoom) copy.isShort = true;
    const told = isRoom ? object : { ...object, bytes: undefined, problem: NO_ROOM };
    const { problem } = told;
    const isSame = known?.resourceVersion === resourceVersion && known.problem === problem;
    const counted = problem === undefined ? size : 0;
    add(
      copy,
      name,
      isSame ? known : { resourceVersion, size: counted, problem, value: this.#options.keep(told) },
    );
  }

  #readAgainSoon(namespace: string, copy: Copy<Kept>): void {
    const { clock, onChange } = this.#options;
    copy.readAgain ??= clock
      .after(READ_AGAIN_MS, () => {
        copy.readAgain = undefined;
        copy.isRead = false;
        onChange(new Set([namespace]));
      })
      .unref();
  }
}

/** Stands for all objects whose names are not kept. */
const OTHERS = '(others)';

const NO_ROOM = `the objects of this kind in its namespace exceed ${MAX_NAMESPACE_BYTES} bytes in total`;

function leaveOthers<Kept>(copy: Copy<Kept>, problem: string): void {
  copy.isShort = true;
  copy.othersProblem = problem;
}

function add<Kept>(copy: Copy<Kept>, name: string, seen: Seen<Kept>): void {
  copy.objects.set(name, seen);
  copy.bytes += seen.size;
}

function remove<Kept>(copy: Copy<Kept>, name: string): void {
  copy.bytes -= copy.objects.get(name)?.size ?? 0;
  copy.objects.delete(name);
}

/** The part of a collection in one namespace. */
function within(collection: KubeCollection, namespace: string): KubeCollection {
  const path = collection.path.replace(
    /^\/api\/v1\/(?!namespaces\/)/,
    `/api/v1/namespaces/${encodeURIComponent(namespace)}/`,
  );
  return { ...collection, path };
}
