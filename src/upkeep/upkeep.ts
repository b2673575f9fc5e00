/**
 * upkeep/: keeps a store small and undamaged while it serves. May import blobs/, metadata/, oci/ and lib/.
 *
 * The main idea: finding is slow, removing is fast. The survey's thread reads index and files, and names what may be
 * removed; the removal checks again, in the transaction that removes the row, whether anything needs it by now. So the
 * store is never read-only, and no request waits. Rows are removed before bytes: a crash leaves files without a row,
 * which are never served, and which the next collection removes.
 */
import type { RecordStore } from '../blobs/record-store.ts';
import { isStorageFull } from '../blobs/storage-full.ts';
import type { Lease } from '../lib/lease.ts';
import { withLease } from '../lib/with-lease.ts';
import { Collection, type CollectionOptions, type CollectionReport } from './collection.ts';
import { Eviction, type EvictionOptions, type EvictionReport, type EvictionRun } from './eviction.ts';
import { type RebuildReport, type RebuildRun, rebuildIndex } from './rebuild.ts';
import { RecordKeeping, type RecordLag } from './record-keeping.ts';
import { Scrub, type ScrubOptions, type ScrubReport } from './scrub.ts';
import type { RunOptions, Stores } from './stores.ts';

export type UpkeepOptions = CollectionOptions &
  EvictionOptions &
  ScrubOptions & { readonly records: RecordStore };

/** A suspended process is known to be dead after 5 s, and a process that has just started has to count these itself. */
const WAIT_MS = 6_500;
const WAIT_POLL_MS = 100;

/** For a run that was requested, rather than scheduled. */
export interface Waiting {
  /**
   * Called if another process is running it; `holder` says which, as in `LeaseState`. Waits until that ends, or for as
   * long as a process that is suspended holds its Lease; a process that has ended is detected at once.
   */
  readonly onWait?: (maxMs: number, holder: string | undefined) => void;
}

/**
 * Each kind of upkeep runs once at a time on a store, in whichever process: `undefined` if another one is running it.
 */
export class Upkeep {
  readonly #options: UpkeepOptions;
  readonly #metadata: Stores['metadata'];
  readonly #collection: Collection;
  readonly #eviction: Eviction;
  readonly #scrub: Scrub;
  readonly #records: RecordKeeping;

  constructor(options: UpkeepOptions) {
    this.#options = options;
    this.#metadata = options.metadata;
    this.#collection = new Collection(options);
    this.#eviction = new Eviction(options);
    this.#scrub = new Scrub(options);
    this.#records = new RecordKeeping(options);
  }

  collect(run?: Parameters<Collection['run']>[0] & Waiting): Promise<CollectionReport | undefined> {
    // Taken before waiting for others.
    const { presence: during } = this.#metadata;
    return this.#alone('collection', run, async lease => {
      const report = await this.#collection.run({ during, lease, ...run });
      if (run?.dryRun !== true) await this.#sweepRecords({ signal: run?.signal, lease });
      return report;
    });
  }

  /**
   * Rebuilds the index; `undefined` if another process is collecting garbage or rebuilding. Never both at once: a forced
   * collection would remove files that the rebuild has yet to give a row.
   */
  rebuild(run: RebuildRun & Waiting): Promise<RebuildReport | undefined> {
    return this.#alone('collection', run, () => rebuildIndex(this.#options, run));
  }

  /** Whether a limit is exceeded, by two queries, and once a minute a count of unfinished transfers. */
  needsEviction(): Promise<boolean> {
    return this.#eviction.isDue();
  }

  evict(run?: EvictionRun & Waiting): Promise<EvictionReport | undefined> {
    return this.#alone('eviction', run, () => this.#eviction.run(run));
  }

  scrub(run?: Parameters<Scrub['run']>[0] & Waiting): Promise<ScrubReport | undefined> {
    return this.#alone('scrub', run, () => this.#scrub.run(run));
  }

  /** Whether records of hosted images have to be kept, by one query. */
  areRecordsDue(): Promise<boolean> {
    return this.#records.isDue();
  }

  /** Keeps the records of hosted images that have changed (see `image-records.ts`). */
  async keepRecords({ signal }: Pick<RunOptions, 'signal'> = {}): Promise<void> {
    await this.#alone('records', {}, () => this.#records.run(signal));
  }

  /** How far the records of hosted images are behind: two queries. */
  recordLag(): Promise<RecordLag> {
    return this.#records.lag();
  }

  /** When the last complete scrub finished; 0 for none. */
  scrubbedAtMs(): Promise<number> {
    return this.#scrub.finishedAtMs();
  }

  /** A full disk is no failure of the collection, which may be what frees it: the index lists what has to be written. */
  async #sweepRecords(run: Parameters<RecordKeeping['sweep']>[0]): Promise<void> {
    try {
      await this.#alone('records', {}, () => this.#records.sweep(run));
    } catch (error) {
      if (!isStorageFull(error)) throw error;
      this.#options.log.warn(
        { err: error },
        'records of hosted images could not be written, and will be when there is space',
      );
    }
  }

  #alone<T>(
    kind: string,
    { onWait, signal }: Waiting & RunOptions = {},
    work: (lease: Lease) => Promise<T>,
  ): Promise<T | undefined> {
    return withLease(this.#metadata, `upkeep-${kind}`, work, {
      mayWait: waitedMs => onWait !== undefined && waitedMs < WAIT_MS,
      onWait: holder => onWait?.(WAIT_MS, holder),
      pollMs: WAIT_POLL_MS,
      signal,
    });
  }
}
