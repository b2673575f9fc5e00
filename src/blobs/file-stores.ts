import { syncFolder } from '../lib/atomic-file.ts';
import type { Log } from '../lib/log.ts';
import { makeFolder } from '../lib/make-folder.ts';
import type { BlobStore } from './blob-store.ts';
import { DiskSpace, type MinFree } from './disk-space.ts';
import { FileBlobStore } from './file-blob-store.ts';
import { FilePaths } from './file-paths.ts';
import { FileRecordStore } from './file-record-store.ts';
import { FileSpool } from './file-spool.ts';
import { Hasher } from './hasher.ts';
import type { RecordStore } from './record-store.ts';
import type { Spool } from './spool.ts';

/**
 * Stored content may be private, so `blobs/` and `ingest/` are accessible to their owner only. What is inside has the
 * usual modes.
 */
const DOOR_MODE = 0o700;

export interface FileStoresOptions {
  readonly log: Log;
  /** Default: nothing. */
  readonly minFree?: MinFree | undefined;
}

/** A Spool and a BlobStore in one folder, so that storing a blob is moving a file. */
export interface FileStores {
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly records: RecordStore;
  close(): Promise<void>;
}

/**
 * Opens both in the folder `path` (see `FilePaths` for the layout), and creates what is missing. Scans nothing.
 */
export async function openFileStores(
  path: string,
  { log, minFree = () => 0 }: FileStoresOptions,
): Promise<FileStores> {
  const paths = new FilePaths(path);
  await makeFolder(path, DOOR_MODE);
  await makeFolder(paths.blobs, DOOR_MODE);
  await makeFolder(paths.ingests, DOOR_MODE);
  await syncFolder(path);
  const hasher = new Hasher(log);
  return {
    spool: new FileSpool(paths, hasher, new DiskSpace(path, minFree)),
    blobs: new FileBlobStore(paths, hasher),
    records: new FileRecordStore(paths.root),
    close: () => hasher.close(),
  };
}
