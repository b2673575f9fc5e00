/**
 * upkeep/: what keeps a store sound and small while it serves. May import blobs/, metadata/, oci/ and lib/.
 *
 * The one idea: looking is slow and removing is quick. The survey's thread walks through index and files and names what
 * may go; the removal asks again, in the transaction that removes the row, whether something has come to need it. So
 * nothing is ever read-only, and no request waits. Rows go before their bytes: a crash leaves files without a row, which
 * are never served, and which the next collection takes.
 */
import { Collection, type CollectionOptions, type CollectionReport } from './collection.ts';
import { Eviction, type EvictionOptions, type EvictionReport, type EvictionRun } from './eviction.ts';
import { Scrub, type ScrubOptions, type ScrubReport } from './scrub.ts';
import type { Stores } from './stores.ts';

export type UpkeepOptions = CollectionOptions & EvictionOptions & ScrubOptions;

/** Each kind runs once at a time on a store, whichever process does it: `undefined` while another one is at it. */
export class Upkeep {
  readonly #metadata: Stores['metadata'];
  readonly #collection: Collection;
  readonly #eviction: Eviction;
  readonly #scrub: Scrub;

  constructor(options: UpkeepOptions) {
    this.#metadata = options.metadata;
    this.#collection = new Collection(options);
    this.#eviction = new Eviction(options);
    this.#scrub = new Scrub(options);
  }

  collect(run?: Parameters<Collection['run']>[0]): Promise<CollectionReport | undefined> {
    return this.#alone('collection', () => this.#collection.run(run));
  }

  /** One look-up: whether `evict` would find more than may be held. */
  needsEviction(): Promise<boolean> {
    return this.#eviction.isDue();
  }

  evict(run?: EvictionRun): Promise<EvictionReport | undefined> {
    return this.#alone('eviction', () => this.#eviction.run(run));
  }

  scrub(run?: Parameters<Scrub['run']>[0]): Promise<ScrubReport | undefined> {
    return this.#alone('scrub', () => this.#scrub.run(run));
  }

  /** Of the last scrub that was not broken off; 0 for none. */
  scrubbedAtMs(): Promise<number> {
    return this.#scrub.finishedAtMs();
  }

  async #alone<T>(kind: string, work: () => Promise<T>): Promise<T | undefined> {
    const key = `upkeep-${kind}`;
    if (!(await this.#metadata.claim(key))) {
      return undefined;
    }
    try {
      return await work();
    } finally {
      await this.#metadata.release(key);
    }
  }
}
