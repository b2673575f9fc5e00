import { randomBytes } from 'node:crypto';
import type { BlobStore } from '../blobs/blob-store.ts';
import { collectBytes } from '../lib/collect-bytes.ts';
import { parseJsonObject } from '../lib/json.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type Digest, isDigest } from '../oci/digest.ts';
import { ArchiveError } from './archive-error.ts';

const HAVE_TYPE = 'application/vnd.entrepot.have.v1+json';

/** Some 850,000 blobs, ten times as many as in a large registry; the list is in memory while a bundle is made. */
const MAX_HAVE_BYTES = 64 * 1024 * 1024;

/** The setting in which a store keeps the seal of its lists. */
const SEAL_SETTING = 'have-list seal';
const SEAL_BYTES = 16;

/** The blobs that a receiver has, so that a bundle for it may leave them out. */
export interface HaveList {
  readonly blobs: ReadonlySet<Digest>;
  /**
   * A secret that all lists of one store contain. By repeating it a bundle proves that its author was given a list:
   * otherwise any archive could claim content of others by naming its digest.
   */
  readonly seal: string;
}

/** Whether a bundle with this seal was made with a list of this store. */
export async function isOwnSeal(
  seal: string | undefined,
  metadata: Pick<MetadataStore, 'readSetting'>,
): Promise<boolean> {
  return seal !== undefined && seal === (await metadata.readSetting(SEAL_SETTING));
}

/** The list of all stored blobs, including those of private repositories, and how many these are. */
export async function haveListOf(
  blobs: BlobStore,
  metadata: MetadataStore,
): Promise<{ readonly bytes: Uint8Array; readonly count: number }> {
  const held: Digest[] = [];
  for await (const { digest, size } of blobs.list()) {
    // A file without a row does not count: it may be about to be collected.
    if ((await metadata.statBlob(digest))?.size === size) held.push(digest);
  }
  const seal = await metadata.initSetting(SEAL_SETTING, randomBytes(SEAL_BYTES).toString('hex'));
  const bytes = Buffer.from(`${JSON.stringify({ mediaType: HAVE_TYPE, seal, blobs: held.sort() })}\n`);
  if (bytes.byteLength > MAX_HAVE_BYTES) {
    throw new ArchiveError(`the list of ${held.length} blobs is larger than ${MAX_HAVE_BYTES} bytes`);
  }
  return { bytes, count: held.length };
}

/** Reads a have-list. Rejects with ArchiveError if `source` is not one, or as soon as it proves too large. */
export async function readHaveList(source: AsyncIterable<Uint8Array>): Promise<HaveList> {
  const tooLarge = () => new ArchiveError(`the have-list is larger than ${MAX_HAVE_BYTES} bytes`);
  const list = parseJsonObject(await collectBytes(source, MAX_HAVE_BYTES, tooLarge));
  const { seal, blobs } = list?.['mediaType'] === HAVE_TYPE ? list : {};
  if (typeof seal !== 'string' || !Array.isArray(blobs) || !blobs.every(isDigestText)) {
    throw new ArchiveError('the have-list was not written by "entrepot have", or was changed');
  }
  return { blobs: new Set(blobs), seal };
}

function isDigestText(value: unknown): value is Digest {
  return typeof value === 'string' && isDigest(value);
}
