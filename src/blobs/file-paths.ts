import { randomUUID } from 'node:crypto';
import { join, resolve } from 'node:path';
import { type Digest, digestAlgorithm, digestHex, isDigest } from '../oci/digest.ts';

/** Also what keeps a key from being a path: no dot, no slash. */
const INGEST_KEY = /^[a-z0-9-]{1,200}$/;

/** Of the holder with that epoch; `.copy`: still being copied from another's. Programs before epochs left it out. */
const INGEST_NAME = /^(?<key>[a-z0-9-]{1,200})(?:\.(?<epoch>[0-9]{1,15})(?<copy>\.copy)?)?$/;

export interface IngestName {
  readonly key: string;
  readonly epoch: number | undefined;
  readonly isPartialCopy: boolean;
}

/** `undefined` for a file that is no ingest. */
export function parseIngestName(name: string): IngestName | undefined {
  const { key, epoch, copy } = INGEST_NAME.exec(name)?.groups ?? {};
  if (key === undefined) return undefined;
  return { key, epoch: epoch === undefined ? undefined : Number(epoch), isPartialCopy: copy !== undefined };
}

/**
 * Where things lie under the folder `root`:
 *
 *     root/                                              0700, as are the two folders in it
 *       blobs/<algorithm>/<first two hex digits>/<hex>   a whole blob, read-only; its name is the digest of its bytes
 *       ingest/<key>.<epoch>                             a write in progress, or one that was left for resuming
 *       ingest/gone-<id>                                 a blob that was taken away, about to be freed
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

  ingest(key: string, epoch: number): string {
    if (!INGEST_KEY.test(key) || !Number.isSafeInteger(epoch)) {
      throw new TypeError('not an ingest key');
    }
    return join(this.ingests, `${key}.${epoch}`);
  }

  /** Of one that was found there. */
  foundIngest(name: string): string {
    if (parseIngestName(name) === undefined) {
      throw new TypeError('not the name of an ingest');
    }
    return join(this.ingests, name);
  }

  /** A new name for what is about to be freed. */
  gone(): string {
    return join(this.ingests, `gone-${randomUUID()}`);
  }
}
