/**
 * A backup of a whole store as one stream, a tar:
 *
 *     backup.json                      identifies the format; first, so that any other tar is refused at once
 *     index.db                         the index as it was when the backup began
 *     blobs/<algorithm>/<hex>          every blob in that index, verified against its digest while it is read
 *     complete.json                    last, with counts and the digest of the index: without it, the backup is truncated
 *
 * Of a store whose blobs are in a bucket it has the index alone, which names their objects: a bucket is protected by its own
 * means, and may be larger than any file.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { FILE_MISSING } from '../blobs/blob-fault.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import { unreadableReason } from '../blobs/unreadable.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import type { IndexSnapshot, SnapshotBlob } from '../metadata/sqlite-snapshot.ts';
import { type Digest, DIGEST_MISMATCH, digestAlgorithm, digestHex, isDigest } from '../oci/digest.ts';
import { blobPath } from './layout.ts';
import { packed, type TarWriter } from './tar.ts';

/** The version of the format; `restore` refuses any other. */
export const BACKUP_FORMAT = 1;
/** The same without blobs, because they are in a bucket. */
export const INDEX_BACKUP_FORMAT = 2;
export const FIRST_FILE = 'backup.json';
export const BACKUP_INDEX_FILE = 'index.db';
export const LAST_FILE = 'complete.json';

/** Each piece is a buffer of its own, which the tar keeps until it is written. */
const READ_BYTES = 256 * 1024;

/** Content that the store should have and the backup does not contain. */
export interface LackingContent {
  readonly kind: 'blob' | 'manifest';
  readonly digest: Digest;
  readonly reason: string;
  /** It was garbage, or was evicted, while the backup was made: nothing is wrong with the store. */
  readonly isRemoved?: boolean;
}

/** The content of the last file. */
export interface BackupSummary {
  readonly blobs: number;
  readonly blobBytes: number;
  readonly indexSha256: string;
  readonly lacking: readonly LackingContent[];
}

/** Writes a backup of a store. */
export class Backup {
  readonly #snapshot: IndexSnapshot;
  readonly #store: BlobStore;
  #blobs = 0;
  #blobBytes = 0;
  readonly lacking: LackingContent[] = [];
  /** Blobs that were removed while the backup was made. */
  readonly #removed: LackingContent[] = [];

  constructor(snapshot: IndexSnapshot, store: BlobStore) {
    this.#snapshot = snapshot;
    this.#store = store;
  }

  get blobs(): number {
    return this.#blobs;
  }

  /** How many blobs were removed while the backup was made, because nothing needed them any more or to make room. */
  get removed(): number {
    return this.#removed.length;
  }

  /**
   * The tar, produced as fast as it is consumed. Calls `advanced` with the number of bytes of blobs as they are
   * written.
   */
  tar(advanced: (bytes: number) => void = () => {}): AsyncGenerator<Uint8Array, void> {
    return packed(tar => this.#write(tar, advanced));
  }

  async #write(tar: TarWriter, advanced: (bytes: number) => void): Promise<void> {
    const { isOfBucket } = this.#snapshot;
    const format = isOfBucket ? INDEX_BACKUP_FORMAT : BACKUP_FORMAT;
    await addJson(tar, FIRST_FILE, { format, madeAt: new Date().toISOString() });
    const { path } = this.#snapshot;
    const hash = createHash('sha256');
    const index = async function* (): AsyncGenerator<Buffer> {
      for await (const chunk of createReadStream(path, { highWaterMark: READ_BYTES })) {
        hash.update(chunk);
        yield chunk;
      }
    };
    await tar.add(BACKUP_INDEX_FILE, (await stat(path)).size, index());
    const indexSha256 = hash.digest('hex');
    // Not as arguments of one call, whose number is limited.
    for (const lost of this.#snapshot.lost()) this.lacking.push(lost);
    const blobs = isOfBucket ? [] : this.#snapshot.blobs();
    for (const blob of blobs) await this.#add(tar, blob, advanced);
    const lacking = [...this.lacking, ...this.#removed];
    const summary: BackupSummary = { blobs: this.#blobs, blobBytes: this.#blobBytes, indexSha256, lacking };
    await addJson(tar, LAST_FILE, summary);
  }

  async #add(
    tar: TarWriter,
    { digest, size }: SnapshotBlob,
    advanced: (bytes: number) => void,
  ): Promise<void> {
    if (!isDigest(digest)) return this.#lacks(digest, 'its digest in the index is invalid');
    const reader = await this.#open(digest);
    if (reader === undefined) return;
    try {
      if (reader.size !== size) return this.#lacks(digest, 'its file has the wrong size');
      const reading = new VerifiedReading(reader, digest, advanced);
      await tar.add(blobPath(digest), size, reading.chunks());
      if (reading.fault !== undefined) return this.#lacks(digest, reading.fault);
      this.#blobs += 1;
      this.#blobBytes += size;
    } finally {
      await reader.close();
    }
  }

  async #open(digest: Digest): Promise<BlobReader | undefined> {
    try {
      const reader = await this.#store.open(digest);
      if (reader !== undefined) return reader;
      // Its row is removed first.
      if (await this.#snapshot.hasRemoved(digest)) {
        const reason = 'it was removed while the backup was made';
        this.#removed.push({ kind: 'blob', digest, reason, isRemoved: true });
        return undefined;
      }
      // It may have been removed, and stored again since.
      const again = await this.#store.open(digest);
      if (again === undefined) this.#lacks(digest, FILE_MISSING);
      return again;
    } catch (error) {
      this.#lacks(digest, reasonOf(error));
      return undefined;
    }
  }

  #lacks(digest: Digest, reason: string): void {
    this.lacking.push({ kind: 'blob', digest, reason });
  }
}

/** Reads all bytes of one blob; bytes that cannot be read become zeros, and `fault` tells the reason at the end. */
class VerifiedReading {
  readonly #reader: BlobReader;
  readonly #digest: Digest;
  readonly #advanced: (bytes: number) => void;
  fault: string | undefined;

  constructor(reader: BlobReader, digest: Digest, advanced: (bytes: number) => void) {
    this.#reader = reader;
    this.#digest = digest;
    this.#advanced = advanced;
  }

  async *chunks(): AsyncGenerator<Buffer, void> {
    const { size } = this.#reader;
    const hash = createHash(digestAlgorithm(this.#digest));
    for (let position = 0; position < size; ) {
      const chunk = await this.#read(position, Math.min(READ_BYTES, size - position));
      hash.update(chunk);
      position += chunk.byteLength;
      this.#advanced(chunk.byteLength);
      yield chunk;
    }
    if (hash.digest('hex') !== digestHex(this.#digest)) this.fault ??= DIGEST_MISMATCH;
  }

  async #read(position: number, length: number): Promise<Buffer> {
    const buffer = Buffer.alloc(length);
    if (this.fault !== undefined) return buffer;
    try {
      return buffer.subarray(0, await this.#reader.read(buffer, position));
    } catch (error) {
      this.fault = reasonOf(error);
      return buffer;
    }
  }
}

/** The reason for damage of one blob; throws any other error, which ends the backup. */
function reasonOf(error: unknown): string {
  const reason = unreadableReason(error);
  if (reason === undefined) throw error;
  return reason;
}

async function addJson(tar: TarWriter, name: string, value: unknown): Promise<void> {
  const bytes = Buffer.from(`${JSON.stringify(value)}\n`);
  await tar.add(name, bytes.byteLength, [bytes]);
}
