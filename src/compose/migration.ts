/** Moving a store: opens both, and says whether one may be moved to the other. */
import { realpath } from 'node:fs/promises';
import { ArchiveError } from '../archive/archive-error.ts';
import { StoreMigration, type MigrationParts } from '../archive/migration.ts';
import { systemClock } from '../lib/clock.ts';
import type { Lease } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { makeFolder } from '../lib/make-folder.ts';
import { Opened } from '../lib/opened.ts';
import { PRIVATE_FOLDER_MODE } from '../lib/private-folder.ts';
import { type IndexTarget, SETTINGS } from '../metadata/index-tables.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { MOVING_FROM, STORE_ID } from '../metadata/store-identity.ts';
import { openIndexSource, openIndexTarget, type StorageConfig } from './indexes.ts';
import { openStorage } from './storage.ts';

/** Held in the new store while another one is being moved to it. */
const LEASE_KEY = 'migration';

/** The move of a store to another place. The caller closes it. */
export interface OpenedMigration {
  readonly migration: StoreMigration;
  /** The index of the store that is moved. */
  readonly from: MetadataStore;
  /** Call when everything is moved: from now on, the new store may be used. */
  complete(): Promise<void>;
  close(): Promise<void>;
}

export interface MigrationOptions extends Pick<MigrationParts, 'signal' | 'onProgress'> {
  readonly log: Log;
}

/**
 * Opens the stores of two configurations for moving the first one to the second, which is created if necessary. Rejects with
 * ArchiveError if that is in use or has anything that was not moved from the first one.
 */
export async function openMigration(
  from: StorageConfig,
  to: StorageConfig,
  { log, signal, onProgress }: MigrationOptions,
): Promise<OpenedMigration> {
  await requireTwoFolders(from, to);
  const opened = new Opened();
  try {
    const beside = { clock: systemClock, log, onBeat: () => {}, reportsDoubts: true };
    const old = await openStorage(opened, from, beside);
    const storage = await openStorage(opened, to, { ...beside, mayBeIncomplete: true });
    await requireUnused(storage.metadata, to);
    const lease = await acquireAlone(storage.metadata, to);
    opened.add({ close: () => storage.metadata.release(lease) });
    const index = opened.add(await openIndexTarget(storage.index, lease));
    await begin(old.metadata, { metadata: storage.metadata, index }, to);
    const migration = new StoreMigration({
      from: { blobs: old.blobs, index: opened.add(await openIndexSource(old.index)) },
      to: { ...storage, index },
      signal,
      ...(onProgress && { onProgress }),
    });
    return {
      migration,
      from: old.metadata,
      complete: () => noteMovingFrom(index, ''),
      close: () => opened.close(0),
    };
  } catch (error) {
    await opened.close(0);
    throw error;
  }
}

async function requireTwoFolders(from: StorageConfig, to: StorageConfig): Promise<void> {
  const { path } = to.storage;
  await makeFolder(path, PRIVATE_FOLDER_MODE);
  if ((await realpath(path)) !== (await realpath(from.storage.path))) return;
  throw new ArchiveError(
    `both stores have the same folder, ${path}: choose another storage.path for the new one`,
  );
}

/** A process that has it open would not notice what is written behind its back. */
async function requireUnused(metadata: MetadataStore, { storage: { path } }: StorageConfig): Promise<void> {
  if ((await metadata.countProcesses()) === 1) return;
  throw new ArchiveError(`the new store in ${path} is in use by another process: stop that first`);
}

/**
 * A process that was suspended in the middle of a migration has lost this Lease once another one continues it: the new
 * store may be in use by then.
 */
async function acquireAlone(metadata: MetadataStore, { storage: { path } }: StorageConfig): Promise<Lease> {
  const lease = await metadata.acquireLease(LEASE_KEY);
  if (lease !== undefined) return lease;
  throw new ArchiveError(`another process is moving a store to ${path}: wait for it, or end it first`);
}

/** Records in the new store the id of the one that is being moved to it; '' once that is complete. */
function noteMovingFrom(index: IndexTarget, id: string): Promise<void> {
  return index.add(SETTINGS, [{ name: MOVING_FROM, value: id }]);
}

async function begin(
  from: MetadataStore,
  { metadata: to, index }: { readonly metadata: MetadataStore; readonly index: IndexTarget },
  { storage: { path } }: StorageConfig,
): Promise<void> {
  const id = (await from.readSetting(STORE_ID)) ?? '';
  const known = await to.readSetting(MOVING_FROM);
  if (known === id) return;
  if (known)
    throw new ArchiveError(`another store is being moved to ${path}: complete that, or choose another one`);
  const { repositories, manifests, blobs } = await to.readTotals();
  const [tenants, credentials] = await Promise.all([to.listKnownTenants(), to.listIssuedCredentials()]);
  if (repositories + manifests + blobs + tenants.length + credentials.length > 0) {
    throw new ArchiveError(
      `the new store in ${path} is not empty: if it is what an earlier run has completed, start the server with it; ` +
        'otherwise choose another storage.path, bucket prefix or schema',
    );
  }
  await noteMovingFrom(index, id);
}
