import { join, resolve } from 'node:path';
import { type Digest, digestAlgorithm, digestHex, isDigest } from '../oci/digest.ts';

/** Also what keeps a key from being a path: no dot, no slash. */
const INGEST_KEY = /^[a-z0-9-]{1,200}$/;

export function isIngestKey(text: string): boolean {
  return INGEST_KEY.test(text);
}

/**
 * Where things lie under the folder `root`:
 *
 *     root/                                              0700, as are the two folders in it
 *       blobs/<algorithm>/<first two hex digits>/<hex>   a whole blob, read-only; its name is the digest of its bytes
 *       ingest/<key>                                     a write in progress, or one that a crash left for resuming
 *
 * A blob comes into being by moving an ingest. Nothing else is kept here, and no file is ever changed under its name.
 */
export class FilePaths {
  readonly root: string;
  readonly blobs: string;
  readonly ingests: string;

  constructor(root: string) {
    this.root = resolve(root);
    this.blobs = join(this.root, 'blobs');
    this.ingests = join(this.root, 'ingest');
  }

  /** A digest of the type's name only by a cast must not become a path, so it is looked at again here. */
  blobFolder(digest: Digest): string {
    if (!isDigest(digest)) {
      throw new TypeError('not a digest');
    }
    return join(this.blobs, digestAlgorithm(digest), digestHex(digest).slice(0, 2));
  }

  blob(digest: Digest): string {
    return join(this.blobFolder(digest), digestHex(digest));
  }

  ingest(key: string): string {
    if (!isIngestKey(key)) {
      throw new TypeError('not an ingest key');
    }
    return join(this.ingests, key);
  }
}
