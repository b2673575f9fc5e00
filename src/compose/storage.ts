/**
 * The part of the composition root that knows how a store is implemented: files, and an index in SQLite, in one folder.
 * Only the survey's thread, which opens the same for itself, knows it, too.
 */
import { join } from 'node:path';
import type { MinFree } from '../blobs/disk-space.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import { openFileStores } from '../blobs/file-stores.ts';
import type { Spool } from '../blobs/spool.ts';
import type { Config } from '../config/config.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { Opened } from '../lib/opened.ts';
import { openPrivateFolder } from '../lib/private-folder.ts';
import { SOCKET_FOLDER } from '../lib/socket-folder.ts';
import { startThread } from '../lib/thread.ts';
import type { DiskShare } from '../lib/units.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { Reserve, RESERVE_FILE } from '../metadata/reserve.ts';
import { storageFault } from '../metadata/storage-probe.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { openSqliteSurvey } from '../metadata/sqlite-survey.ts';
import { INDEX_FILE, STATE_FILE, StoreIdentity } from '../metadata/store-identity.ts';
import type { Survey } from '../metadata/survey.ts';
import { SurveyThread } from '../upkeep/survey-thread.ts';

/** The storage that parts work with. */
export interface Storage {
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
}

/** The folder for what was last seen of a cluster. */
export const SEEN_CLUSTER_FOLDER = 'cluster';

/** The store's own files and folders besides the index. Its folder may have other contents, too. */
export const STORE_CONTENTS: readonly string[] = [
  'blobs',
  'ingest',
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
  { storage }: Pick<Config, 'storage'>,
  {
    clock,
    log,
    onBeat,
    reportsDoubts,
  }: {
    readonly clock: Clock;
    readonly log: Log;
    readonly onBeat: () => void;
    readonly reportsDoubts: boolean;
  },
): Promise<Storage> {
  const { path } = storage;
  const indexPath = join(path, INDEX_FILE);
  const identity = opened.add(await StoreIdentity.look(path, INDEX_FILE));
  await openPrivateFolder(path, { database: INDEX_FILE, folders: STORE_CONTENTS }, log);
  const metadata = opened.add(
    await openSqliteMetadataStore(indexPath, {
      log,
      clock,
      isCopied: identity.doubts.isCopied,
      reserve: new Reserve(indexPath, log),
      onBeat: () => {
        void identity.stay();
        onBeat();
      },
    }),
  );
  opened.add({ close: () => identity.closing() });
  const { spool, blobs } = opened.add(await openFileStores(path, { log, minFree: minFreeOf(storage) }));
  await identity.settle(metadata, () => isAny(blobs.list()), reportsDoubts ? log : silentLog);
  return { metadata, spool, blobs };
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
 * Opens a store for a command that only looks at what is stored: without the other parts, and without a thread, which
 * both take longer to start than most stores to be read.
 */
export async function openStored(config: Pick<Config, 'storage'>, log: Log): Promise<Stored> {
  const { path } = config.storage;
  const opened = new Opened();
  try {
    const storage = await openStorage(opened, config, {
      clock: systemClock,
      log,
      onBeat: () => {},
      reportsDoubts: true,
    });
    const survey = opened.add(await openSqliteSurvey(join(path, INDEX_FILE)));
    return { ...storage, path, survey, close: () => opened.close(0) };
  } catch (error) {
    await opened.close(0);
    // The error may be a consequence of what the file system lacks.
    throw (await storageFault(path)) ?? error;
  }
}

/** A survey of the store in the folder `path`, in a thread of its own. */
export function surveyOf(path: string): SurveyThread {
  return new SurveyThread(() => startThread(import.meta.url, 'survey-worker', { data: path }));
}

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
