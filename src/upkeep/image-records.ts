/**
 * Records of hosted images beside the blobs: what `entrepot rebuild` makes a lost index of. Of each manifest its bytes,
 * `manifests/<algorithm>/<first two hex digits>/<hex>`, and for each repository that has it a document,
 * `images/<repository, with @ for />/<algorithm>-<hex>`.
 *
 * There are none of mirrored repositories: what a client may read of those has to be proved upstream again, which brings the
 * manifests along. Nor are there any of tenants, logins and Grants, so that nobody regains a right that was revoked since.
 */
import { type FoundRecord, type RecordStore, RecordTooLarge } from '../blobs/record-store.ts';
import { unreadableReason } from '../blobs/unreadable.ts';
import { parseJsonObject } from '../lib/json.ts';
import type { HostedImage, HostedRecord, RecordedTag } from '../metadata/image-record.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf, isDigest } from '../oci/digest.ts';
import { MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { isRepositoryName, isTag } from '../oci/reference.ts';

const MANIFESTS = 'manifests';
const IMAGES = 'images';
/** Of a million tags of usual length. */
const MAX_RECORD_BYTES = 64 * 1024 * 1024;

/** Which index the records are of: a token that it has, too. No repository has such a name. */
const STATE = `${IMAGES}/index@`;
const MAX_STATE_BYTES = 1024;

/** An image of which there is a record. */
export interface ListedImage extends HostedImage {
  readonly position: string;
  readonly recordBytes: number;
}

/** The records of images in a RecordStore. */
export class ImageRecordStore {
  readonly #records: RecordStore;

  constructor(records: RecordStore) {
    this.#records = records;
  }

  async putManifest(digest: Digest, bytes: Uint8Array): Promise<void> {
    await this.#records.put(manifestName(digest), bytes);
  }

  async removeManifest(digest: Digest): Promise<void> {
    await this.#records.remove(manifestName(digest));
  }

  /** `undefined` if they are absent or unreadable, or do not match the digest. */
  async readManifest(digest: Digest): Promise<Uint8Array | undefined> {
    const bytes = await this.#read(manifestName(digest), MAX_MANIFEST_BYTES);
    return bytes !== undefined && digestOf(bytes, digestAlgorithm(digest)) === digest ? bytes : undefined;
  }

  async put(image: HostedImage, { mediaType, tags, pins }: HostedRecord): Promise<void> {
    const { name: repository, digest } = image;
    const document = { repository, digest, mediaType, tags, pins };
    await this.#records.put(imageName(image), Buffer.from(`${JSON.stringify(document)}\n`));
  }

  async remove(image: HostedImage): Promise<void> {
    await this.#records.remove(imageName(image));
  }

  /** `undefined` if it is absent or damaged. */
  async read(image: HostedImage): Promise<HostedRecord | undefined> {
    const bytes = await this.#read(imageName(image), MAX_RECORD_BYTES);
    return bytes && parseRecord(bytes, image);
  }

  /** The images that have a record, in an order that stays the same, and from a position in it on. */
  async *images(after?: string): AsyncIterable<ListedImage> {
    for await (const found of this.#records.list(IMAGES, after)) {
      const image = imageOf(found);
      if (image !== undefined) yield { ...image, position: found.name, recordBytes: found.size };
    }
  }

  /** The manifests of which the bytes are kept. */
  async *manifests(): AsyncIterable<Digest> {
    for await (const { name } of this.#records.list(MANIFESTS)) {
      const [, algorithm, , hex] = name.split('/');
      const digest = `${algorithm}:${hex}`;
      if (isDigest(digest)) yield digest;
    }
  }

  async readState(): Promise<string | undefined> {
    const bytes = await this.#read(STATE, MAX_STATE_BYTES);
    return bytes && Buffer.from(bytes).toString().trim();
  }

  async putState(state: string): Promise<void> {
    await this.#records.put(STATE, Buffer.from(`${state}\n`));
  }

  /** A record that is damaged is absent: it must not keep the others from being read. */
  async #read(name: string, maxBytes: number): Promise<Uint8Array | undefined> {
    try {
      return await this.#records.read(name, maxBytes);
    } catch (error) {
      if (error instanceof RecordTooLarge || unreadableReason(error) !== undefined) return undefined;
      throw error;
    }
  }
}

function manifestName(digest: Digest): string {
  const hex = digestHex(digest);
  return `${MANIFESTS}/${digestAlgorithm(digest)}/${hex.slice(0, 2)}/${hex}`;
}

/** Names of repositories have no `@`, and their folders have to be one each: a repository may be named like another's part. */
function imageName({ name, digest }: HostedImage): string {
  return `${IMAGES}/${name.replaceAll('/', '@')}/${digestAlgorithm(digest)}-${digestHex(digest)}`;
}

/** `undefined` for anything that others have put there. */
function imageOf({ name }: FoundRecord): HostedImage | undefined {
  const [, folder = '', file = '', ...more] = name.split('/');
  const repository = folder.replaceAll('@', '/');
  const digest = file.replace('-', ':');
  const isImage = isRepositoryName(repository) && isDigest(digest) && more.length === 0;
  return isImage ? { name: repository, digest } : undefined;
}

/** `undefined` unless it is the record of this image. */
function parseRecord(bytes: Uint8Array, { name, digest }: HostedImage): HostedRecord | undefined {
  const document = parseJsonObject(bytes);
  if (document?.['repository'] !== name || document['digest'] !== digest) return undefined;
  const { mediaType, tags, pins } = document;
  if (typeof mediaType !== 'string' || !Array.isArray(tags) || !Array.isArray(pins)) return undefined;
  const isWhole = tags.every(isRecordedTag) && pins.every(pin => isTag(pin) || isDigest(pin));
  const isOnce = new Set(tags.map(({ tag }) => tag)).size === tags.length;
  return isWhole && isOnce ? { mediaType, tags, pins } : undefined;
}

function isRecordedTag(value: unknown): value is RecordedTag {
  if (typeof value !== 'object' || value === null || !('tag' in value) || !('atMs' in value)) return false;
  return typeof value.tag === 'string' && isTag(value.tag) && Number.isSafeInteger(value.atMs);
}
