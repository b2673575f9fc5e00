// The two sides of a model test: an index on disk, and one in memory.
import { copyFile, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Lease } from '../../lib/lease.ts';
import { silentLog } from '../../lib/log.ts';
import type { HostedRecord } from '../image-record.ts';
import { MemoryIndex } from '../memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../metadata-store.ts';
import { openSqliteMetadataStore } from '../sqlite-metadata-store.ts';
import { openSqliteSurvey } from '../sqlite-survey.ts';
import { Connection } from '../sqlite/connection.ts';
import type { Survey } from '../survey.ts';

/** An index with two processes on it. */
export interface Side {
  readonly stores: readonly [MetadataStore, MetadataStore];
  readonly survey: Survey;
  /** The last Lease that a process got for a key. */
  readonly leases: Map<string, Lease>;
  /** The keys of all objects that were announced. */
  readonly objects: Set<string>;
  /** The records of hosted images that were kept, by name and digest. */
  readonly records: Map<string, HostedRecord>;
  /** Resolves when nothing is being done in the background any more. */
  settle(): Promise<void>;
  close(): Promise<void>;
}

/** SQLite in the new folder `folder`, beginning with a copy of the empty index `empty`. */
export async function openSqliteSide(folder: string, empty: string): Promise<Side> {
  const path = join(folder, 'index.db');
  await mkdir(folder);
  await copyFile(empty, path);
  const open = () => openSqliteMetadataStore(path, { log: silentLog });
  const stores = [await open(), await open()] as const;
  const survey = await openSqliteSurvey(path);
  const look = await Connection.openReadOnly(path);
  const removed = look.prepare('SELECT 1 FROM removed_repositories');
  return {
    stores,
    survey,
    leases: new Map(),
    objects: new Set(),
    records: new Map(),
    settle: async () => {
      while (removed.get() !== undefined) await delay(2);
    },
    close: async () => {
      look.close();
      survey.close();
      for (const store of stores) await store.close();
      await rm(folder, { recursive: true });
    },
  };
}

export function openMemorySide(): Side {
  const index = new MemoryIndex();
  const stores = [index.open(), index.open()] as const;
  return {
    stores,
    survey: index.survey(),
    leases: new Map(),
    objects: new Set(),
    records: new Map(),
    settle: async () => {},
    close: async () => {
      for (const store of stores) await store.close();
    },
  };
}
