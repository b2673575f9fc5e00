import type { BlobStore } from '../blobs/blob-store.ts';
import type { FoundIngest, Spool } from '../blobs/spool.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { Found, Survey, SurveyedImage } from '../metadata/survey.ts';
import type { Digest } from '../oci/digest.ts';

/** What every kind of upkeep needs. */
export interface Stores {
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly survey: StoreSurvey;
  readonly rows: RowRemoval;
  readonly log: Log;
  readonly meter: Meter;
}

/** What images can be ordered by: the latest use, or the largest size, first. */
export type ImageOrder = 'used' | 'own' | 'shared';

/** A page of ordered images. */
export interface OrderedImages extends Found<SurveyedImage> {
  /** Whether the order is only that of the images that were looked at so far: all take longer than somebody waits. */
  readonly isPartial: boolean;
}

/** A survey of the stored files as well as of the index. */
export interface StoreSurvey extends Survey {
  /**
   * Files of blobs without a row that are older than `madeBeforeMs`, with the number of files seen. One walk at a time:
   * a new one ends the last.
   */
  strayFiles(madeBeforeMs: number, after?: string): Promise<Found<StrayFiles>>;
  /** Abandons an unfinished walk, which keeps a folder, or the list of a bucket, open. Never rejects. */
  endStrayFiles(): Promise<void>;
  /** All images ordered by `order`, in pages; once somebody has waited for a while, only those that were looked at so far. */
  orderedImages(order: ImageOrder, after?: string): Promise<OrderedImages>;
  /** All ingests: in progress, suspended, or left by a crash. There are as many as downloads and uploads. */
  unfinished(): Promise<readonly FoundIngest[]>;
}

/**
 * Removes rows, as `MetadataStore` does, and bytes, in a thread with a connection of its own: a commit waits for the
 * disk, and many of them would delay requests served by this thread.
 */
export interface RowRemoval
  extends Pick<
    MetadataStore,
    'lowerLinks' | 'expireLinks' | 'removeUnneeded' | 'removeUnlinked' | 'evict' | 'giveUpStrayObjects'
  > {
  /** Removes the bytes of those digests that nothing says should be stored; returns them. */
  removeStrays(digests: readonly Digest[]): Promise<readonly Digest[]>;
}

/** A part of a walk through all files. */
export interface StrayFiles {
  readonly files: readonly StrayFile[];
  /** Files seen. */
  readonly seen: number;
}

/** A file without a row, or an object that the index does not know. */
export interface StrayFile {
  readonly digest: Digest;
  /** Of an object. */
  readonly key?: string;
  /** Bytes. */
  readonly size: number;
}

/** What upkeep needs to know of ingests. */
export interface Ingests {
  /** Whether an ingest belongs to an upload, which then decides about it. */
  readonly isOfUpload: (ingestKey: string) => Promise<boolean>;
}

/** How to run a kind of upkeep. */
export interface RunOptions {
  /** Finds out what would be done, without doing it. */
  readonly dryRun?: boolean;
  /** Ends the run, which then rejects. */
  readonly signal?: AbortSignal | undefined;
  /** Called now and then; `items` and `bytes` count from the beginning of the step. */
  readonly onProgress?: (progress: Progress) => void;
}

/** The progress of a step. */
export interface Progress {
  /** What is being done, for people, such as `collecting blobs`. */
  readonly step: string;
  readonly items: number;
  readonly bytes: number;
}

/** What was removed, or would be. */
export interface Tally {
  readonly items: number;
  readonly bytes: number;
}

/** Counts what is removed, and reports progress. */
export class Counter implements Tally {
  readonly #step: string;
  readonly #onProgress: RunOptions['onProgress'];
  items = 0;
  bytes = 0;

  constructor(step: string, { onProgress }: RunOptions) {
    this.#step = step;
    this.#onProgress = onProgress;
  }

  add(entries: readonly { readonly size: number }[]): void {
    this.items += entries.length;
    this.bytes += entries.reduce((sum, { size }) => sum + size, 0);
    this.#onProgress?.({ step: this.#step, items: this.items, bytes: this.bytes });
  }

  get tally(): Tally {
    return { items: this.items, bytes: this.bytes };
  }
}
