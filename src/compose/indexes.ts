/**
 * The part of the composition root that knows where the index is: in SQLite, in the store's folder, or in a PostgreSQL
 * database. Whoever opens the index of a configuration does it here.
 */
import { join } from 'node:path';
import type { Config } from '../config/config.ts';
import { formatAddress } from '../config/fields.ts';
import type { Clock } from '../lib/clock.ts';
import type { Lease } from '../lib/lease.ts';
import { type Log, silentLog } from '../lib/log.ts';
import type { Opened } from '../lib/opened.ts';
import { FolderIdentity, readFolderState } from '../metadata/folder-identity.ts';
import type { IndexSource, IndexTarget } from '../metadata/index-tables.ts';
import { IndexUnusable } from '../metadata/index-unusable.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import type { PostgresSettings } from '../metadata/postgres/postgres-settings.ts';
import { Reserve } from '../metadata/reserve.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { openSqliteSurvey } from '../metadata/sqlite-survey.ts';
import { requireNoRestore } from '../metadata/restore-lock.ts';
import { INDEX_FILE, StoreIdentity } from '../metadata/store-identity.ts';
import type { Survey } from '../metadata/survey.ts';
import { postgresSettingsOf } from './postgres.ts';

/** The part of the configuration that says where things are stored. */
export type StorageConfig = Pick<Config, 'storage' | 'index' | 'cluster' | 'environment' | 'origin'>;

/** Where an index is. Can be passed to a thread. */
export type IndexPlace = { readonly file: string } | PostgresPlace;

interface PostgresPlace {
  readonly postgres: PostgresSettings;
  readonly folder: {
    readonly path: string;
    readonly id: string;
    /** As in `StoreFolder`. */
    readonly replica: string | undefined;
  };
}

/** An index, and the rest of what is done to open it. */
export interface OpenedIndex {
  readonly metadata: MetadataStore;
  readonly index: IndexPlace;
  /** The id of this replica, if there may be others. */
  readonly replica: string | undefined;
  /**
   * Call when the files of the store are open: finds out whether they belong together. Returns the id of the store.
   * `hasBlobs`: whether there are blobs in the folder.
   */
  readonly settle: (hasBlobs: () => Promise<boolean>, log: Log) => Promise<string>;
}

export interface OpenIndexOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** Called once a second. */
  readonly onBeat: () => void;
  /** Whether this process serves as a replica, if `cluster` is configured. Default: no. */
  readonly serves?: boolean;
  /** Whether this process is restoring a backup to the folder, which no other may use meanwhile. Default: no. */
  readonly restores?: boolean;
  /** Called after the folder was looked at, and before anything is created in it. */
  readonly preparesFolder: () => Promise<void>;
}

/** Opens the index of the configuration, creating it if necessary, and adds it to `opened`. */
export function openIndex(
  opened: Opened,
  config: StorageConfig,
  options: OpenIndexOptions,
): Promise<OpenedIndex> {
  return config.index.postgres === undefined
    ? openInFolder(opened, config.storage.path, options)
    : openInPostgres(opened, config, options);
}

async function openInFolder(
  opened: Opened,
  path: string,
  { clock, log, onBeat, restores = false, preparesFolder }: OpenIndexOptions,
): Promise<OpenedIndex> {
  if (!restores) requireNoRestore(path);
  if ((await readFolderState(path)) !== undefined) {
    throw new IndexUnusable(
      `the index of the store in ${path} is in a database: configure it (index.postgres), or choose another storage.path`,
    );
  }
  const file = join(path, INDEX_FILE);
  const identity = opened.add(await StoreIdentity.look(path, INDEX_FILE));
  await preparesFolder();
  const metadata = opened.add(
    await openSqliteMetadataStore(file, {
      log,
      clock,
      isCopied: identity.doubts.isCopied,
      reserve: new Reserve(file, log),
      onBeat: () => {
        void identity.stay();
        onBeat();
      },
    }),
  );
  opened.add({ close: () => identity.closing() });
  return {
    metadata,
    index: { file },
    replica: undefined,
    settle: async (hasBlobs, to) => {
      await identity.settle(metadata, hasBlobs, to);
      return identity.id;
    },
  };
}

async function openInPostgres(
  opened: Opened,
  config: StorageConfig,
  { clock, log, onBeat, serves = false, preparesFolder }: OpenIndexOptions,
): Promise<OpenedIndex> {
  const {
    index: { postgres: section },
    storage: { path, s3 },
    cluster,
  } = config;
  if (section === undefined) throw new Error('internal error: no database is configured');
  const postgres = await postgresSettingsOf(section, config);
  await preparesFolder();
  const identity = await FolderIdentity.look(path);
  const { id } = identity;
  const folder = { path, id, replica: cluster && formatAddress(cluster.advertise) };
  // Loaded only if a database is configured.
  const { openPostgresMetadataStore } = await import('../metadata/postgres-metadata-store.ts');
  const options = { log, clock, folder, serves, onBeat };
  const metadata = opened.add(await openPostgresMetadataStore(postgres, options));
  return {
    metadata,
    index: { postgres, folder },
    replica: cluster && id,
    settle: (areThere, to) => identity.settle(metadata, { areThere, belongHere: s3 === undefined }, to),
  };
}

/** A survey of an index that is open; in this thread, whose event loop one in SQLite blocks for a page at a time. */
export async function openSurvey(index: IndexPlace): Promise<Survey & { close(): unknown }> {
  if ('file' in index) return openSqliteSurvey(index.file);
  const { openPostgresSurvey } = await import('../metadata/postgres-survey.ts');
  return openPostgresSurvey(index.postgres);
}

/** The tables of an index that is open, for moving them to another one. */
export async function openIndexSource(index: IndexPlace): Promise<IndexSource> {
  if ('file' in index) {
    const { openSqliteSource } = await import('../metadata/sqlite-index-tables.ts');
    return openSqliteSource(index.file);
  }
  const { openPostgresSource } = await import('../metadata/postgres-index-tables.ts');
  return openPostgresSource(index.postgres);
}

/** The tables of an index that is open and not used otherwise, to be filled under `lease`. */
export async function openIndexTarget(index: IndexPlace, lease: Lease): Promise<IndexTarget> {
  if ('file' in index) {
    const { openSqliteTarget } = await import('../metadata/sqlite-index-tables.ts');
    return openSqliteTarget(index.file, lease);
  }
  const { openPostgresTarget } = await import('../metadata/postgres-index-tables.ts');
  return openPostgresTarget(index.postgres, lease);
}

/** An index that is open, for a thread that removes rows. */
export async function openForThread(index: IndexPlace): Promise<MetadataStore> {
  if ('file' in index) {
    const reserve = new Reserve(index.file, silentLog);
    return openSqliteMetadataStore(index.file, { log: silentLog, reserve, isThread: true });
  }
  const { openPostgresMetadataStore } = await import('../metadata/postgres-metadata-store.ts');
  // One thing after the other.
  const postgres = { ...index.postgres, poolSize: 1 };
  return openPostgresMetadataStore(postgres, { log: silentLog, folder: index.folder, isThread: true });
}
