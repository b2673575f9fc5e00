import { randomUUID } from 'node:crypto';
import { join, resolve } from 'node:path';
import { type Digest, digestAlgorithm, digestHex, isDigest } from '../oci/digest.ts';

/** No dot and no slash, so a key can never be a path. */
const INGEST_KEY = /^[a-z0-9-]{1,200}$/;

/**
 * `<key>.<epoch>`, with `.copy` while it is still being copied from the previous holder's, and `.parts` if it is not
 * written from the start to the end. Old versions used the key alone.
 */
const INGEST_NAME = /^(?<key>[a-z0-9-]{1,200})(?:\.(?<epoch>[0-9]{1,15})(?<ending>\.copy|\.parts)?)?$/;

/** The parts of an ingest's file name. */
export interface IngestName {
  readonly key: string;
  readonly epoch: number | undefined;
  readonly isPartialCopy: boolean;
  /** Whether it is parts of a blob, in places of their own. */
  readonly isParts: boolean;
}

/** `undefined` for a file that is not an ingest. */
export function parseIngestName(name: string): IngestName | undefined {
  const { key, epoch, ending } = INGEST_NAME.exec(name)?.groups ?? {};
  if (key === undefined) return undefined;
  return {
    key,
    epoch: epoch === undefined ? undefined : Number(epoch),
    isPartialCopy: ending === '.copy',
    isParts: ending === '.parts',
  };
}

/**
 * The layout of the folder `root`:
 *
 *     root/                                              mode 0700, as are the two folders in it
 *       blobs/<algorithm>/<first two hex digits>/<hex>   a verified blob, read-only; its name is its digest
 *       ingest/<key>.<epoch>                             a write in progress, or one that can be resumed
 *       ingest/<key>.<epoch>.parts                       some bytes of a blob, and a map of which
 *       ingest/gone-<id>                                 a removed blob that is about to be freed
 *       copies/<algorithm>/<first two hex digits>/<hex>  a copy of a blob that is in a bucket; as in `blobs/`
 *       manifests/…, images/…                            records (see `RecordStore`)
 *
 * A blob is made by moving an ingest. Blobs are never changed in place, and nothing else is stored here.
 */
export class FilePaths {
  readonly root: string;
  readonly blobs: string;
  readonly ingests: string;

  /** `place`: which of the two folders has the blobs. */
  constructor(root: string, place: 'blobs' | 'copies' = 'blobs') {
    this.root = resolve(root);
    this.blobs = join(this.root, place);
    this.ingests = join(this.root, 'ingest');
  }

  /** Checks the digest again, since a cast must not be able to make a path. */
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

  parts(key: string, epoch: number): string {
    return `${this.ingest(key, epoch)}.parts`;
  }

  /** The path of an ingest with this name, as found in the folder. */
  foundIngest(name: string): string {
    if (parseIngestName(name) === undefined) {
      throw new TypeError('not the name of an ingest');
    }
    return join(this.ingests, name);
  }

  /** A new name for a blob that is about to be freed. */
  gone(): string {
    return join(this.ingests, `gone-${randomUUID()}`);
  }
}
