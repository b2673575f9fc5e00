/**
 * upkeep/: what keeps a store sound and small while it serves. May import blobs/, metadata/, oci/ and lib/.
 *
 * The one idea: looking is slow and removing is quick. The survey's thread walks through index and files and names what
 * may go; the removal asks again, in the transaction that removes the row, whether something has come to need it. So
 * nothing is ever read-only, and no request waits. Rows go before their bytes: a crash leaves files without a row, which
 * are never served, and which the next collection takes.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Lease } from '../lib/lease.ts';
import { Collection, type CollectionOptions, type CollectionReport } from './collection.ts';
import { Eviction, type EvictionOptions, type EvictionReport, type EvictionRun } from './eviction.ts';
import { Scrub, type ScrubOptions, type ScrubReport } from './scrub.ts';
import type { RunOptions, Stores } from './stores.ts';

export type UpkeepOptions = CollectionOptions & EvictionOptions & ScrubOptions;

/** A process that stands still is known to for 5 s, and one that begins has to count them itself. */
const WAIT_MS = 6_500;
const WAIT_POLL_MS = 100;

/** For a run that is wanted now, and not when its time comes again. */
export interface Waiting {
  /**
   * Told when another process is at it: that is waited for as long as one that only stands still has the right to it. One
   * that is dead is known at once.
   */
  readonly onWait?: (maxMs: number) => void;
}

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

  collect(run?: Parameters<Collection['run']>[0] & Waiting): Promise<CollectionReport | undefined> {
    return this.#alone('collection', run, () => this.#collection.run(run));
  }

  /** One look-up: whether `evict` would find more than may be held. */
  needsEviction(): Promise<boolean> {
    return this.#eviction.isDue();
  }

  evict(run?: EvictionRun & Waiting): Promise<EvictionReport | undefined> {
    return this.#alone('eviction', run, () => this.#eviction.run(run));
  }

  scrub(run?: Parameters<Scrub['run']>[0] & Waiting): Promise<ScrubReport | undefined> {
    return this.#alone('scrub', run, () => this.#scrub.run(run));
  }

  /** Of the last scrub that was not broken off; 0 for none. */
  scrubbedAtMs(): Promise<number> {
    return this.#scrub.finishedAtMs();
  }

  async #alone<T>(
    kind: string,
    run: (Waiting & RunOptions) | undefined,
    work: () => Promise<T>,
  ): Promise<T | undefined> {
    const lease = await this.#take(`upkeep-${kind}`, run);
    if (lease === undefined) {
      return undefined;
    }
    try {
      return await work();
    } finally {
      await this.#metadata.release(lease);
    }
  }

  async #take(key: string, { onWait, signal }: Waiting & RunOptions = {}): Promise<Lease | undefined> {
    let lease = await this.#metadata.acquireLease(key);
    if (lease !== undefined || onWait === undefined) {
      return lease;
    }
    onWait(WAIT_MS);
    for (let waitedMs = 0; lease === undefined && waitedMs < WAIT_MS; waitedMs += WAIT_POLL_MS) {
      await sleep(WAIT_POLL_MS, undefined, { signal });
      lease = await this.#metadata.acquireLease(key);
    }
    return lease;
  }
}
