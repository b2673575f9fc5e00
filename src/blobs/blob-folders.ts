import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { syncFolder } from '../lib/atomic-file.ts';
import type { Digest } from '../oci/digest.ts';
import type { FilePaths } from './file-paths.ts';

/** Makes the folders of blobs when the first blob comes, durably, and remembers which are there. */
export class BlobFolders {
  readonly #paths: FilePaths;
  readonly #made = new Map<string, Promise<void>>();

  constructor(paths: FilePaths) {
    this.#paths = paths;
  }

  /** Resolves with the folder of `digest` once its name would survive a power loss. */
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

  /** Somebody has deleted the folder of `digest` under us: the next `make` makes it again. */
  forget(digest: Digest): void {
    this.#made.delete(this.#paths.blobFolder(digest));
  }
}

/** Every folder from `root` down to `path` may be new, even if another process has made it: all names are synced. */
async function makeDurably(path: string, root: string): Promise<void> {
  await mkdir(path, { recursive: true });
  for (let folder = dirname(path); folder.length >= root.length; folder = dirname(folder)) {
    await syncFolder(folder);
  }
}
