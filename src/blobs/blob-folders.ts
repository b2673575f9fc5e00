import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncFolder } from '../lib/atomic-file.ts';
import type { Digest } from '../oci/digest.ts';
import type { FilePaths } from './file-paths.ts';

/** Creates the folders of blobs when they are first needed, durably, and remembers which exist. */
export class BlobFolders {
  readonly #paths: FilePaths;
  readonly #made = new Map<string, Promise<void>>();

  constructor(paths: FilePaths) {
    this.#paths = paths;
  }

  /** Creates the folder of `digest`. Resolves with its path once it would survive a power failure. */
  async make(digest: Digest): Promise<string> {
    const folder = this.#paths.blobFolder(digest);
    let making = this.#made.get(folder);
    if (making === undefined) {
      making = makeDurably(folder, this.#paths.root);
      this.#made.set(folder, making);
    }
    try {
      await making;
    } catch (error) {
      this.#made.delete(folder);
      throw error;
    }
    return folder;
  }

  /** Reports that somebody has deleted the folder of `digest`: the next `make` creates it again. */
  forget(digest: Digest): void {
    this.#made.delete(this.#paths.blobFolder(digest));
  }
}

/**
 * Syncs the parents of all folders from `root` down to `path`: another process may have created one without having
 * synced it yet.
 */
async function makeDurably(path: string, root: string): Promise<void> {
  await mkdir(path, { recursive: true });
  for (let folder = dirname(path); folder.length >= root.length; folder = dirname(folder)) {
    await syncFolder(folder);
  }
}
