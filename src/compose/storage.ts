/**
 * The part of the composition root that knows how a store is implemented: files in a folder, or blobs in a bucket; and,
 * with `indexes.ts`, where the index is. Only the survey's thread, which opens the same for itself, knows it, too.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { MinFree } from '../blobs/disk-space.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import { BlobsUnusable } from '../blobs/blobs-unusable.ts';
import { openFileStores } from '../blobs/file-stores.ts';
import type { LocalLevel } from '../blobs/s3/s3-blob-store.ts';
import type { RecordStore } from '../blobs/record-store.ts';
import type { BucketOfStore } from '../blobs/s3/s3-stores.ts';
import type { Spool } from '../blobs/spool.ts';
import type { Config } from '../config/config.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { Opened } from '../lib/opened.ts';
import { openPrivateFolder } from '../lib/private-folder.ts';
import { SOCKET_FOLDER } from '../lib/socket-folder.ts';
import { startThread } from '../lib/thread.ts';
import type { DiskShare } from '../lib/units.ts';
import { IndexUnusable } from '../metadata/index-unusable.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { RESERVE_FILE } from '../metadata/reserve.ts';
import { storageFault } from '../metadata/storage-probe.ts';
import {
  BLOBS_IN,
  IN_BUCKET,
  INDEX_FILE,
  MOVING_FROM,
  STATE_FILE,
  stopCollectingDuringRebuild,
} from '../metadata/store-identity.ts';
import type { Survey } from '../metadata/survey.ts';
import { SurveyThread } from '../upkeep/survey-thread.ts';
import {
  type IndexPlace,
  openIndex,
  type OpenIndexOptions,
  openSurvey,
  type StorageConfig,
} from './indexes.ts';
import { s3SettingsOf } from './s3.ts';

/** The storage that parts work with. */
export interface Storage {
  readonly metadata: MetadataStore;
  readonly index: IndexPlace;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  /** Beside the blobs. */
  readonly records: RecordStore;
  /** Where blobs are, if not in the folder. */
  readonly bucket: BucketOfStore | undefined;
  /** The id of this replica, if there may be others. */
  readonly replica: string | undefined;
}

/** The folder for what was last seen of a cluster. */
export const SEEN_CLUSTER_FOLDER = 'cluster';

/** The store's own files and folders besides the index. Its folder may have other contents, too. */
export const STORE_CONTENTS: readonly string[] = [
  'blobs',
  'copies',
  'images',
  'ingest',
  'manifests',
  'processes',
  SEEN_CLUSTER_FOLDER,
  SOCKET_FOLDER,
  STATE_FILE,
  RESERVE_FILE,
];

/**
 * Opens the store in `storage.path`, creating it if necessary, and adds it to `opened`. `onBeat` is called once a
 * second.
 */
export async function openStorage(
  opened: Opened,
  config: StorageConfig,
  {
    clock,
    log,
    onBeat,
    reportsDoubts,
    serves = false,
    restores = false,
    takesBucketOver = false,
    mayBeIncomplete = false,
  }: {
    readonly clock: Clock;
    readonly log: Log;
    readonly onBeat: () => void;
    readonly reportsDoubts: boolean;
    /** As in `OpenIndexOptions`. */
    readonly serves?: boolean;
    readonly restores?: boolean;
    /** Whether a bucket of another store becomes this one's, if this one has no blobs. */
    readonly takesBucketOver?: boolean;
    /** Whether a store may be opened that another one is still being moved to. */
    readonly mayBeIncomplete?: boolean;
  },
): Promise<Storage> {
  const { storage } = config;
  const { path } = storage;
  const { metadata, index, replica, settle } = await openIndex(opened, config, {
    clock,
    log,
    onBeat,
    serves,
    restores,
    preparesFolder: () => openPrivateFolder(path, { database: INDEX_FILE, folders: STORE_CONTENTS }, log),
  });
  const { presence: during } = metadata;
  if (!mayBeIncomplete && (await metadata.readSetting(MOVING_FROM))) {
    throw new IndexUnusable(
      `the store in ${path} is not complete: entrepot migrate has only prepared it, or was interrupted; run it again`,
    );
  }
  const files = opened.add(await openFileStores(path, { log, minFree: minFreeOf(storage) }));
  const areThere = () => isAny(files.blobs.list());
  const storeId = await settle(areThere, reportsDoubts ? log : silentLog);
  const bucket = await bucketOf(config, metadata, storeId);
  const { spool } = files;
  if (bucket === undefined) {
    const { blobs, records } = files;
    return { metadata, index, spool, blobs, records, bucket, replica };
  }
  // Loaded only if a bucket is configured.
  const { openS3Stores } = await import('../blobs/s3/s3-stores.ts');
  const local = await localLevelOf(storage, { spool, replica, log });
  const { blobs, records, ...s3 } = opened.add(openS3Stores(bucket, { ledger: metadata, local, clock, log }));
  spool.observer = blobs.observer;
  const isClaimed = (await metadata.readSetting(BLOBS_IN)) === IN_BUCKET;
  // An index that names blobs has a bucket of its own: another one must not become it by mistake.
  const mayTakeOver = takesBucketOver && (await metadata.readTotals()).blobs === 0;
  if (mayTakeOver || !isClaimed) {
    // Before the bucket is this store's: its objects would be garbage to an index that knows none of them.
    if (mayTakeOver) await stopCollectingDuringRebuild(metadata, { during });
    await s3.claim({ takesOver: mayTakeOver });
    await metadata.putSetting(BLOBS_IN, IN_BUCKET);
  } else {
    await s3.check(log);
  }
  return { metadata, index, spool, blobs, records, bucket, replica };
}

/** What of the bucket is also kept in the folder: nothing if clients read the bucket themselves. */
async function localLevelOf(
  storage: Config['storage'],
  { spool, replica, log }: Pick<Storage, 'spool' | 'replica'> & { readonly log: Log },
): Promise<LocalLevel | undefined> {
  if (storage.s3?.redirect === true) return undefined;
  const { LocalCopies } = await import('../blobs/local-copies.ts');
  const { path } = storage;
  // Read each time, since a reload may change it.
  const maxBytes = (diskBytes: number) => bytesOf(storage.maxLocalBytes ?? DEFAULT_MAX_LOCAL, diskBytes);
  return { copies: await LocalCopies.open({ path, maxBytes, log }), spool, replica };
}

/** The configured bucket. Throws BlobsUnusable if the store has its blobs elsewhere. */
async function bucketOf(
  { storage: { path, s3 }, ...rest }: StorageConfig,
  metadata: MetadataStore,
  storeId: string,
): Promise<BucketOfStore | undefined> {
  const isInBucket = (await metadata.readSetting(BLOBS_IN)) === IN_BUCKET;
  if (isInBucket !== (s3 !== undefined)) {
    const { blobs } = await metadata.readTotals();
    if (blobs > 0 && isInBucket) {
      throw new BlobsUnusable(`the blobs of the store in ${path} are in a bucket: configure it (storage.s3)`);
    }
    if (blobs > 0) {
      throw new BlobsUnusable(
        `storage.s3: the store in ${path} has its blobs in its folder: use a new storage.path, and move it there (entrepot migrate)`,
      );
    }
    if (isInBucket) {
      await metadata.putSetting(BLOBS_IN, '');
      await rm(join(path, 'copies'), { recursive: true, force: true });
    }
  }
  return s3 && { settings: await s3SettingsOf(s3, rest), storeId };
}

async function isAny(entries: AsyncIterable<unknown>): Promise<boolean> {
  for await (const _ of entries) return true;
  return false;
}

/** A store to look at. */
export interface Stored extends Storage {
  /** The folder. */
  readonly path: string;
  /** In this thread, whose event loop it blocks for a page at a time. */
  readonly survey: Survey;
  close(): Promise<void>;
}

/**
 * Opens a store for a command that only looks at what is stored: without the other parts and without a thread, since
 * starting either takes longer than reading most stores.
 */
export async function openStored(
  config: StorageConfig,
  log: Log,
  { restores = false }: Pick<OpenIndexOptions, 'restores'> = {},
): Promise<Stored> {
  const { path } = config.storage;
  const opened = new Opened();
  try {
    const storage = await openStorage(opened, config, {
      clock: systemClock,
      log,
      onBeat: () => {},
      restores,
      reportsDoubts: true,
    });
    const survey = opened.add(await openSurvey(storage.index));
    return { ...storage, path, survey, close: () => opened.close(0) };
  } catch (error) {
    await opened.close(0);
    // The error may be a consequence of what the file system lacks.
    throw (await storageFault(path)) ?? error;
  }
}

/** A survey of the store in the folder `path`, in a thread of its own. */
export function surveyOf(place: SurveyedPlace): SurveyThread {
  return new SurveyThread(() => startThread(import.meta.url, 'survey-worker', { data: place }));
}

/** What the survey's thread opens. */
export interface SurveyedPlace {
  readonly path: string;
  readonly index: IndexPlace;
  readonly bucket: BucketOfStore | undefined;
}

/** Of a disk of its own, the other half is for what is being written, without waiting for copies to be removed. */
const DEFAULT_MAX_LOCAL: DiskShare = { percent: 50 };

const DEFAULT_MIN_FREE: DiskShare = { percent: 5 };
/** The maximum of the default, for large disks. */
const MAX_DEFAULT_MIN_FREE_BYTES = 5 * 1024 ** 3;

/** How much of a disk must stay free; `storage` is read each time. */
function minFreeOf(storage: Config['storage']): MinFree {
  return diskBytes => {
    const { minFree } = storage;
    return minFree === undefined
      ? Math.min(bytesOf(DEFAULT_MIN_FREE, diskBytes), MAX_DEFAULT_MIN_FREE_BYTES)
      : bytesOf(minFree, diskBytes);
  };
}

function bytesOf(share: DiskShare, diskBytes: number): number {
  return 'bytes' in share ? share.bytes : Math.floor((diskBytes * share.percent) / 100);
}
