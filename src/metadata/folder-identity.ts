import { randomUUID } from 'node:crypto';
import { link, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileAtomic } from '../lib/atomic-file.ts';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import type { Log } from '../lib/log.ts';
import { PRIVATE_FILE_MODE } from '../lib/private-folder.ts';
import { IndexUnusable } from './index-unusable.ts';
import type { MetadataStore } from './metadata-store.ts';
import { INDEX_FILE, reportStop, STATE_FILE, STORE_ID, stopCollecting } from './store-identity.ts';

interface FolderState {
  readonly indexIn: 'database';
  /** Of the folder; a copy of it has another inode, and gets another id. */
  readonly folder: string;
  readonly inode: number;
  /** Of the store; '' until the index was opened once. */
  readonly id: string;
}

/**
 * Which folder a store with an index in a database has. Unfinished transfers are in it, and blobs unless they are in a
 * bucket, so all processes on an index must have the same.
 */
export class FolderIdentity {
  readonly #folder: string;
  readonly #state: FolderState;

  private constructor(folder: string, state: FolderState) {
    this.#folder = folder;
    this.#state = state;
  }

  /** Call before the index is opened. Rejects with IndexUnusable if the folder has an index of its own. */
  static async look(folder: string): Promise<FolderIdentity> {
    const index = await absentAsUndefined(stat(join(folder, INDEX_FILE)));
    if ((index?.size ?? 0) > 0) {
      throw new IndexUnusable(
        `${folder} has an index of its own (${INDEX_FILE}), which index.postgres would not use: take another ` +
          'storage.path, and move the store there (entrepot migrate)',
      );
    }
    const { ino: inode } = await stat(folder);
    for (;;) {
      const known = await readFolderState(folder);
      if (known?.inode === inode) return new FolderIdentity(folder, known);
      await createState(
        folder,
        { indexIn: 'database', folder: randomUUID(), inode, id: '' },
        known !== undefined,
      );
    }
  }

  /** The id of the folder. */
  get id(): string {
    return this.#state.folder;
  }

  /**
   * Call when the index is open; returns the id of the store. `blobs`: whether there are any in the folder, called only if
   * the index is new; and whether that is where they belong. Rejects with IndexUnusable if the folder cannot be that of the
   * index.
   */
  async settle(
    metadata: MetadataStore,
    blobs: { readonly areThere: () => Promise<boolean>; readonly belongHere: boolean },
    log: Log,
  ): Promise<string> {
    const known = await metadata.readSetting(STORE_ID);
    const { id: before } = this.#state;
    if (known === undefined) {
      if (await blobs.areThere()) await stopCollecting(metadata, 'the index is new, and blobs/ is not empty');
    } else if (before !== '' && before !== known && blobs.belongHere) {
      // A folder without blobs says nothing about the store: the mark in the bucket does.
      await stopCollecting(metadata, 'the index belongs to a different store than the files beside it');
    } else if (before === '' && blobs.belongHere && (await metadata.readTotals()).blobs > 0) {
      throw new IndexUnusable(
        `the index in the database has blobs, and ${this.#folder} is not the folder that they are in: use that one ` +
          '(storage.path)',
      );
    }
    // Only now, since an index with an id would not be new to the next start.
    const id = known ?? (await metadata.initSetting(STORE_ID, randomUUID()));
    await reportStop(metadata, log);
    if (before !== id) await writeFileAtomic(statePath(this.#folder), [bytesOf({ ...this.#state, id })]);
    return id;
  }
}

/** The state of a folder whose index is in a database; `undefined` for any other. */
export async function readFolderState(folder: string): Promise<FolderState | undefined> {
  const text = await absentAsUndefined(readFile(statePath(folder), 'utf8'));
  try {
    const { indexIn, folder: own, inode, id }: Partial<FolderState> = JSON.parse(text ?? '{}');
    if (indexIn !== 'database' || typeof own !== 'string' || typeof inode !== 'number') return undefined;
    return { indexIn, folder: own, inode, id: id ?? '' };
  } catch {
    return undefined;
  }
}

/** `replaces`: that of a copied folder. Otherwise, of several processes one creates it. */
async function createState(folder: string, state: FolderState, replaces: boolean): Promise<void> {
  if (replaces) return writeFileAtomic(statePath(folder), [bytesOf(state)]);
  const own = `${statePath(folder)}.${state.folder}`;
  try {
    await writeFile(own, bytesOf(state), { mode: PRIVATE_FILE_MODE });
    await link(own, statePath(folder));
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
    // Of an index that was in the folder.
    if ((await readFolderState(folder)) === undefined) await rm(statePath(folder), { force: true });
  } finally {
    await rm(own, { force: true });
  }
}

function statePath(folder: string): string {
  return join(folder, STATE_FILE);
}

function bytesOf(state: FolderState): Buffer {
  return Buffer.from(`${JSON.stringify(state)}\n`);
}
