import type { Clock } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import { LATE, within } from '../../lib/within.ts';
import { BlobsUnusable } from '../blobs-unusable.ts';
import type { RecordStore } from '../record-store.ts';
import { Bucket } from './bucket.ts';
import { BucketWatch } from './bucket-watch.ts';
import { listBlobs, type LocalLevel, type ObjectLedger, S3BlobStore } from './s3-blob-store.ts';
import { S3Failure } from './s3-failure.ts';
import { S3RecordStore } from './s3-record-store.ts';
import type { S3Settings } from './settings.ts';
import { StoreMark } from './store-mark.ts';

/** How long a start waits to learn whose the bucket is: everything that changes it finds out first in any case. */
const CHECK_MS = 3_000;

/** A bucket, and the id of the store whose blobs it has. Can be passed to a thread. */
export interface BucketOfStore {
  readonly settings: S3Settings;
  readonly storeId: string;
}

/** Blobs in a bucket, and records beside them. */
export interface S3Stores {
  readonly blobs: S3BlobStore;
  readonly records: RecordStore;
  /** Makes the bucket this store's; see `StoreMark.claim`. Throws BlobsUnusable if that is not possible, too. */
  claim(options: { readonly takesOver: boolean }): Promise<void>;
  /** Throws BlobsUnusable if the bucket can be reached, and is not this store's. */
  check(log: Log): Promise<void>;
  close(): Promise<void>;
}

export interface S3StoresOptions {
  readonly ledger: ObjectLedger;
  /** Closed with the stores. Default: none. */
  readonly local?: LocalLevel | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/** Opens a bucket. Asks it nothing. */
export function openS3Stores(
  { settings, storeId }: BucketOfStore,
  { ledger, local, clock, log: storeLog }: S3StoresOptions,
): S3Stores {
  const bucket = new Bucket(settings);
  const mark = new StoreMark(bucket, storeId);
  const { name } = bucket;
  const watch = new BucketWatch({ name, look: () => mark.require(), clock, log: storeLog });
  bucket.watch = watch;
  const blobs = new S3BlobStore({
    bucket,
    mark,
    ledger,
    local,
    watch,
    log: storeLog,
    redirect: settings.redirect,
  });
  return {
    blobs,
    records: new S3RecordStore({ bucket, mark }),
    claim: async options => {
      // A failure here ends the start, whose error says why.
      bucket.watch = undefined;
      await mark.claim(options).catch((error: unknown) => {
        throw error instanceof S3Failure
          ? new BlobsUnusable(`storage.s3: ${error.message}${remedy(error)}`)
          : error;
      });
      bucket.watch = watch;
    },
    check: async log => {
      // A failure is logged by the watch.
      if ((await within(whyUnreachable(mark), CHECK_MS)) !== LATE) return;
      log.error({}, `${name} has not answered for ${CHECK_MS / 1000} s: starting without its answer`);
    },
    close: async () => {
      watch.close();
      await blobs.close();
      await bucket.close();
    },
  };
}

/** What an operator can do about a failure when the bucket is first used. */
function remedy({ status, code }: S3Failure): string {
  if (code === 'NoSuchBucket') return ': create the bucket first';
  return status === 401 || status === 403 ? ': check storage.s3.credentials and their permissions' : '';
}

/** What the survey's thread does with the bucket: it lists its objects. Removing them is left to others. */
export function openS3List({ settings, storeId }: BucketOfStore): Pick<S3BlobStore, 'list' | 'removal'> {
  const bucket = new Bucket(settings);
  const mark = new StoreMark(bucket, storeId);
  return {
    list: () => listBlobs({ bucket, mark }),
    removal: async () => ({ isSame: () => true, takeAway: () => undefined }),
  };
}

async function whyUnreachable(mark: StoreMark): Promise<S3Failure | undefined> {
  try {
    await mark.check();
    return undefined;
  } catch (error) {
    if (error instanceof S3Failure) return error;
    throw error;
  }
}
