import { open, readdir, readFile, rename, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { partialName, syncFolder } from '../lib/atomic-file.ts';
import { absentAsUndefined, errorCode } from '../lib/error-code.ts';
import { makeFolder } from '../lib/make-folder.ts';
import { type FoundRecord, type RecordStore, requireRecordName, RecordTooLarge } from './record-store.ts';

/** Records name private content. */
const FOLDER_MODE = 0o700;
const FILE_MODE = 0o600;

/** The end of the name of a file that is being written. */
const PARTIAL = '.partial';
/** No write takes as long: it was killed. */
const ABANDONED_AFTER_MS = 24 * 3_600_000;

/** Records as files below a folder. */
export class FileRecordStore implements RecordStore {
  readonly #root: string;
  /** Those that exist durably. */
  readonly #made = new Set<string>();

  constructor(root: string) {
    this.#root = root;
  }

  async put(name: string, bytes: Uint8Array): Promise<void> {
    const path = this.#path(name);
    try {
      await this.#write(path, bytes);
    } catch (error) {
      // Its last record may just have been removed, and the folder with it.
      if (errorCode(error) !== 'ENOENT') throw error;
      this.#made.clear();
      await this.#write(path, bytes);
    }
  }

  async read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    const path = this.#path(name);
    const found = await absentAsUndefined(stat(path));
    if (found !== undefined && found.size > maxBytes) throw new RecordTooLarge(name);
    return absentAsUndefined(readFile(path));
  }

  async remove(name: string): Promise<void> {
    const path = this.#path(name);
    const folder = dirname(path);
    if ((await absentAsUndefined(stat(folder))) === undefined) return;
    await rm(path, { force: true });
    try {
      await syncFolder(folder);
      await rmdir(folder);
      this.#made.delete(folder);
    } catch (error) {
      // Whoever removes the last records removes the folder.
      if (!['ENOTEMPTY', 'EEXIST', 'ENOENT'].includes(errorCode(error) ?? '')) throw error;
    }
  }

  async *list(folder: string, after = ''): AsyncIterable<FoundRecord> {
    yield* this.#below(folder, after);
  }

  /** Names are in memory, to be sorted: some 10 MB of the folder of a repository with 100,000 images. */
  async *#below(name: string, after: string): AsyncIterable<FoundRecord> {
    for (const entry of await sortedEntries(join(this.#root, name))) {
      const below = `${name}/${entry.name}`;
      if (entry.isDirectory) {
        const start = `${below}/`;
        if (start > after || after.startsWith(start)) yield* this.#below(below, after);
        continue;
      }
      const path = join(this.#root, below);
      const found = below > after ? await absentAsUndefined(stat(path)) : undefined;
      if (found === undefined) continue;
      if (entry.name.endsWith(PARTIAL)) await removeAbandoned(path, found.mtimeMs);
      else yield { name: below, size: found.size };
    }
  }

  #path(name: string): string {
    return join(this.#root, requireRecordName(name));
  }

  async #write(path: string, bytes: Uint8Array): Promise<void> {
    const folder = dirname(path);
    await this.#makeDurably(folder);
    // A name of its own: another process may write the same record.
    const partial = partialName(path);
    try {
      const file = await open(partial, 'wx', FILE_MODE);
      try {
        await file.writeFile(bytes);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(partial, path);
    } catch (error) {
      await rm(partial, { force: true });
      throw error;
    }
    await syncFolder(folder);
  }

  async #makeDurably(folder: string): Promise<void> {
    if (this.#made.has(folder)) return;
    await makeFolder(folder, FOLDER_MODE);
    // Another process may have made it without having synced it yet.
    for (let above = dirname(folder); above.length >= this.#root.length; above = dirname(above)) {
      await syncFolder(above);
    }
    this.#made.add(folder);
  }
}

interface Entry {
  readonly name: string;
  readonly isDirectory: boolean;
}

/** In the order of the names of records, in which a slash follows the name of a folder. None if there is no such folder. */
async function sortedEntries(folder: string): Promise<readonly Entry[]> {
  const found = (await absentAsUndefined(readdir(folder, { withFileTypes: true }))) ?? [];
  const place = ({ name, isDirectory }: Entry) => (isDirectory ? `${name}/` : name);
  return found
    .map(entry => ({ name: entry.name, isDirectory: entry.isDirectory() }))
    .toSorted((a, b) => (place(a) < place(b) ? -1 : 1));
}

async function removeAbandoned(path: string, modifiedAtMs: number): Promise<void> {
  if (Date.now() - modifiedAtMs > ABANDONED_AFTER_MS) await rm(path, { force: true });
}
