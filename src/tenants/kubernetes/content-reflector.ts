import type { Log } from '../../lib/log.ts';
import type { Collection, KubeClient, KubeObject } from './kube-client.ts';
import type { PassedOverObjects } from './passed-over.ts';
import { WatchLoop } from './watch-loop.ts';

export interface ContentReflectorOptions<Kept> {
  readonly client: KubeClient;
  /** What is watched; a namespace of it is listed by itself. */
  readonly collection: Collection;
  /** What the log calls it: `secrets`. */
  readonly resource: string;
  /** What to keep of an object; of one with a `problem`, that it is there. */
  readonly keep: (object: KubeObject) => Kept;
  /** Namespaces that are wanted, and in which something is other than before, or has to be read. */
  readonly onChange: (namespaces: ReadonlySet<string>) => void;
  readonly onState: (problem: string | undefined) => void;
  readonly passedOver: PassedOverObjects;
  readonly log: Log;
}

/**
 * What is kept of one kind in one namespace, bytes of its JSON: a thousand pull Secrets of usual size. What is over it
 * is kept by its name alone, so that a namespace costs the others no more than this.
 */
export const MAX_NAMESPACE_BYTES = 4 * 2 ** 20;

/** What is kept of one kind in one namespace, by number; names too have a size. */
export const MAX_NAMESPACE_OBJECTS = 2_000;

/** What is read of one namespace to find what is to be kept: a second's work, most of it the server's. */
const MAX_READ_BYTES = 256 * 2 ** 20;

/** A namespace whose content did not fit is read again so long after it has shrunk, and not more often. */
const READ_AGAIN_MS = 60_000;

interface Seen<Kept> {
  readonly resourceVersion: string;
  /** That count in its namespace. */
  readonly size: number;
  readonly problem: string | undefined;
  readonly value: Kept;
}

/** What lies in one namespace. */
class Copy<Kept> {
  objects = new Map<string, Seen<Kept>>();
  bytes = 0;
  isRead = false;
  /** Something of it was passed over for want of room. */
  isShort = false;
  /** Why there are others of which not even the names are kept. */
  othersProblem: string | undefined;
  /** Names of what changed since it is being read; `undefined` while it is not. */
  touched: Set<string> | undefined;
  reading: Promise<void> | undefined;
  readAgain: NodeJS.Timeout | undefined;
}

/**
 * Copies of what lies in the namespaces that are wanted, of one kind: the collection is watched as a whole, since one
 * watch is what the server bears for any number of namespaces, and each wanted namespace is listed by itself. What lies
 * in others is never read, and costs them nothing.
 *
 * A namespace is listed while the watch goes on: what the watch tells of an object meanwhile is newer than the list, or
 * is followed by what is.
 */
export class ContentReflector<Kept> {
  readonly #options: ContentReflectorOptions<Kept>;
  readonly #loop: WatchLoop;
  readonly #copies = new Map<string, Copy<Kept>>();
  readonly #end = new AbortController();
  /** Since when the watch stands without a gap. */
  #epoch = 0;

  constructor(options: ContentReflectorOptions<Kept>) {
    this.#options = options;
    this.#loop = new WatchLoop({
      ...options,
      list: async signal => {
        const version = await options.client.version(options.collection, signal);
        this.#forgetWhatWasRead();
        return version;
      },
      apply: (object, isGone) => this.#apply(object, isGone),
    });
  }

  /** Why it is not followed now. */
  get problem(): string | undefined {
    return this.#loop.problem;
  }

  /** Resolves when the watch stands, or could not be had; then it goes on by itself. */
  start(): Promise<void> {
    return this.#loop.start();
  }

  async close(): Promise<void> {
    this.#end.abort();
    for (const { readAgain } of this.#copies.values()) clearTimeout(readAgain);
    await this.#loop.close();
    await Promise.allSettled([...this.#copies.values()].flatMap(({ reading }) => reading ?? []));
  }

  /** From now on, until it is dropped, what lies in the namespace is kept. */
  want(namespace: string): void {
    if (!this.#copies.has(namespace)) this.#copies.set(namespace, new Copy());
  }

  drop(namespace: string): void {
    const copy = this.#copies.get(namespace);
    if (copy === undefined) return;
    clearTimeout(copy.readAgain);
    this.#copies.delete(namespace);
    const { passedOver, resource } = this.#options;
    for (const name of [...copy.objects.keys(), OTHERS]) passedOver.forget(resource, namespace, name);
  }

  /** Lists what lies in a wanted namespace, if that is not known. Rejects when it cannot be listed; what was seen last stays. */
  async read(namespace: string): Promise<void> {
    const copy = this.#copies.get(namespace);
    // Without a watch, nothing would follow it; once it stands, all that is wanted has to be read.
    if (copy === undefined || copy.isRead || !this.#loop.hasListed) return;
    copy.reading ??= this.#read(namespace, copy).finally(() => (copy.reading = undefined));
    await copy.reading;
  }

  /** What lies in a wanted namespace, by name; a text that says why it was never read. */
  in(namespace: string): ReadonlyMap<string, Kept> | string {
    const copy = this.#copies.get(namespace);
    if (!this.#loop.hasListed) return this.problem ?? 'they have not been read yet';
    return new Map([...(copy?.objects ?? [])].map(([name, { value }]) => [name, value]));
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
            // A page that was too large comes again.
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
    // Between the list and the new watch, nobody has looked.
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
  }

  /** A new watch begins: what happened before it was told by none. */
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
      // It is nobody's, and is told all the same: it was sent to us.
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

  /** What did not change is not read again, and stays the same value. */
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
    copy.readAgain ??= setTimeout(() => {
      copy.readAgain = undefined;
      copy.isRead = false;
      this.#options.onChange(new Set([namespace]));
    }, READ_AGAIN_MS).unref();
  }
}

/** In place of a name, for those whose names are not kept. */
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

/** The part of a collection that lies in one namespace. */
function within(collection: Collection, namespace: string): Collection {
  const path = collection.path.replace(
    /^\/api\/v1\/(?!namespaces\/)/,
    `/api/v1/namespaces/${encodeURIComponent(namespace)}/`,
  );
  return { ...collection, path };
}
