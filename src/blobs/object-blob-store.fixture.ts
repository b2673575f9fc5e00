// A BlobStore on objects as S3 has them: never renamed or changed, read by ranges, and listed with a delay.
import { createHash, randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobReader } from '../lib/blob-reader.ts';
import { type Digest, digestAlgorithm, digestHex, isDigest, parseDigest } from '../oci/digest.ts';
import type { BlobRemoval, BlobStat, BlobStore, FoundBlob, RehashOptions, StoredBlob } from './blob-store.ts';
import type { Ingest } from './spool.ts';

const PART_BYTES = 64 * 1024;
/** How long the list of all objects lags behind. A list of those that begin with one digest is up to date. */
const LIST_DELAY_MS = 50;

/** An object, which never changes. An open one can still be read after it is deleted. */
interface StoredObject {
  readonly key: string;
  readonly parts: readonly Uint8Array[];
  readonly size: number;
  readonly storedAtMs: number;
}

/** Objects in memory, shared by all stores that open them. */
export class Bucket {
  readonly #objects = new Map<string, StoredObject>();

  /** Visible when all parts have arrived, as with a multipart upload. */
  async upload(key: string, parts: AsyncIterable<Uint8Array>): Promise<void> {
    const stored: Uint8Array[] = [];
    for await (const part of parts) stored.push(part);
    const size = stored.reduce((sum, { byteLength }) => sum + byteLength, 0);
    this.#objects.set(key, { key, parts: stored, size, storedAtMs: Date.now() });
  }

  async get(key: string): Promise<StoredObject | undefined> {
    await turn();
    return this.#objects.get(key);
  }

  async delete(key: string): Promise<void> {
    await turn();
    this.#objects.delete(key);
  }

  has(key: string): boolean {
    return this.#objects.has(key);
  }

  async list(prefix: string): Promise<readonly string[]> {
    await turn();
    return [...this.#objects.keys()].filter(key => key.startsWith(prefix));
  }

  async listAll(): Promise<readonly (readonly [key: string, object: StoredObject])[]> {
    await turn();
    return [...this.#objects].filter(([, { storedAtMs }]) => Date.now() - storedAtMs >= LIST_DELAY_MS);
  }
}

/** A network request takes at least one turn of the event loop. */
function turn(): Promise<void> {
  return sleep(0);
}

/** Each `put` makes a new object, so a removal never removes one that was put after it was prepared. */
export class ObjectBlobStore implements BlobStore {
  readonly isOnSpoolDisk = false;
  readonly #bucket: Bucket;
  readonly #readers = new Map<Digest, number>();

  constructor(bucket: Bucket) {
    this.#bucket = bucket;
  }

  async stat(digest: Digest): Promise<BlobStat | undefined> {
    const object = await this.#find(digest);
    return object && { size: object.size };
  }

  async open(digest: Digest): Promise<BlobReader | undefined> {
    const object = await this.#find(digest);
    if (object === undefined) return undefined;
    this.#readers.set(digest, (this.#readers.get(digest) ?? 0) + 1);
    let isClosed = false;
    return {
      size: object.size,
      origin: object.key,
      read: async (buffer, position) => {
        if (isClosed) throw new Error('the reader is closed');
        await turn();
        return readRange(object, buffer, position);
      },
      close: async () => {
        if (!isClosed) this.#readers.set(digest, (this.#readers.get(digest) ?? 1) - 1);
        isClosed = true;
      },
    };
  }

  async put(digest: Digest, spooled: Ingest): Promise<StoredBlob> {
    const { lease } = spooled;
    // Rejects if the ingest has ended; it was hashed before.
    if ((await spooled.hash(digest)) !== digest) throw new Error('not the bytes of the digest');
    const key = `${prefixOf(digest)}${randomUUID()}`;
    await lease.confirm();
    await this.#bucket.upload(key, partsOf(spooled));
    try {
      await lease.confirm();
    } catch (error) {
      await this.#bucket.delete(key);
      throw error;
    }
    await spooled.abort();
    return { lease, isThere: () => this.#bucket.has(key) };
  }

  async removal(digest: Digest): Promise<BlobRemoval> {
    const keys = await this.#bucket.list(prefixOf(digest));
    const free = async () => {
      await Promise.all(keys.map(key => this.#bucket.delete(key)));
    };
    return { isSame: () => true, takeAway: () => (keys.length === 0 ? undefined : free) };
  }

  async *list(): AsyncIterable<FoundBlob> {
    for (const [key, { size, storedAtMs }] of await this.#bucket.listAll()) {
      const [algorithm, hex] = key.split('/').slice(1);
      yield { digest: parseDigest(`${algorithm}:${hex}`), size, modifiedAtMs: storedAtMs };
    }
  }

  async rehash(digest: Digest, { signal, onProgress }: RehashOptions): Promise<Digest | undefined> {
    const object = await this.#find(digest);
    signal?.throwIfAborted();
    if (object === undefined) return undefined;
    const hash = createHash(digestAlgorithm(digest));
    for (const part of object.parts) hash.update(part);
    onProgress?.(object.size);
    return parseDigest(`${digestAlgorithm(digest)}:${hash.digest('hex')}`);
  }

  hasReaders(digest: Digest): boolean {
    return (this.#readers.get(digest) ?? 0) > 0;
  }

  async #find(digest: Digest): Promise<StoredObject | undefined> {
    const [key] = await this.#bucket.list(prefixOf(digest));
    return key === undefined ? undefined : this.#bucket.get(key);
  }
}

function prefixOf(digest: Digest): string {
  if (!isDigest(digest)) throw new TypeError('not a digest');
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}/`;
}

async function* partsOf(spooled: Ingest): AsyncIterable<Uint8Array> {
  for (let position = 0; position < spooled.offset; ) {
    const part = new Uint8Array(PART_BYTES);
    const count = await spooled.read(part, position);
    if (count === 0) throw new Error('the ingest ends early');
    yield part.subarray(0, count);
    position += count;
  }
}

/** At most to the end of the part that `position` is in. */
function readRange({ parts }: StoredObject, buffer: Uint8Array, position: number): number {
  let start = 0;
  for (const part of parts) {
    if (position < start + part.byteLength) {
      const bytes = part.subarray(position - start, position - start + buffer.byteLength);
      buffer.set(bytes);
      return bytes.byteLength;
    }
    start += part.byteLength;
  }
  return 0;
}
