import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Spool } from '../blobs/spool.ts';
import { collectBytes } from '../lib/collect-bytes.ts';
import { isJsonObject, type JsonObject, parseJsonObject } from '../lib/json.ts';
import { soleLease } from '../lib/lease.ts';
import { type Digest, digestHex, isDigest } from '../oci/digest.ts';
import { ArchiveError } from './archive-error.ts';
import {
  BACKUP_FORMAT,
  BACKUP_INDEX_FILE,
  type BackupSummary,
  type LackingContent,
  FIRST_FILE,
  INDEX_BACKUP_FORMAT,
  LAST_FILE,
} from './backup.ts';
import { readTar, type TarEntry } from './tar.ts';

/** For the first and the last file; the last one lists blobs that were missing, at about 150 bytes each. */
const MAX_JSON_BYTES = 64 * 1024 * 1024;
/** How much is collected before it is written. */
const WRITE_BYTES = 1024 * 1024;
/** For the owner only, as in the store. */
const INDEX_MODE = 0o600;

export interface RestoreOptions {
  /** Where to write the index, which is complete when `restoreBackup` resolves. */
  readonly indexPath: string;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  /** Whether it must be the backup of a store whose blobs are in a bucket, or must not. */
  readonly isOfBucket: boolean;
  /** Ends the restoring, which then rejects. */
  readonly signal?: AbortSignal;
  /** Called with the number of bytes of blobs as they are written. */
  readonly advanced?: (bytes: number) => void;
}

/**
 * Writes the content of `source`: blobs, each verified, and the index, which the caller moves to its place. Rejects
 * with ArchiveError if it is not a complete backup; what was written until then is useless.
 */
export async function restoreBackup(
  source: AsyncIterable<Uint8Array>,
  options: RestoreOptions,
): Promise<BackupSummary> {
  const restoring = new Restoring(options);
  let summary: BackupSummary | undefined;
  let isFirst = true;
  for await (const entry of readTar(source)) {
    options.signal?.throwIfAborted();
    if (summary !== undefined) throw new ArchiveError('it has data after its end');
    if (isFirst !== (entry.name === FIRST_FILE)) throw new ArchiveError('it is not a backup of a store');
    isFirst = false;
    summary = await restoring.take(entry);
  }
  if (summary === undefined)
    throw new ArchiveError('it is truncated: its end is missing. Nothing was restored');
  return summary;
}

class Restoring {
  readonly #options: RestoreOptions;
  readonly #wrong = new Set<Digest>();
  #indexSha256: string | undefined;
  #blobs = 0;
  #blobBytes = 0;

  constructor(options: RestoreOptions) {
    this.#options = options;
  }

  /** Writes one file; for the last one, returns its content. */
  async take(entry: TarEntry): Promise<BackupSummary | undefined> {
    if (entry.name === FIRST_FILE) {
      const { format } = await readDocument(entry);
      this.#requireFormat(format);
    } else if (entry.name === BACKUP_INDEX_FILE) {
      await this.#takeIndex(entry);
    } else if (entry.name === LAST_FILE) {
      return this.#check(summaryIn(await readDocument(entry)));
    } else {
      await this.#takeBlob(entry);
    }
    return undefined;
  }

  #requireFormat(format: unknown): void {
    const { isOfBucket } = this.#options;
    if (format !== BACKUP_FORMAT && format !== INDEX_BACKUP_FORMAT) {
      throw new ArchiveError(
        `it has format ${String(format)}, and this version reads only ${BACKUP_FORMAT} and ${INDEX_BACKUP_FORMAT}`,
      );
    }
    if (isOfBucket === (format === INDEX_BACKUP_FORMAT)) return;
    throw new ArchiveError(
      isOfBucket
        ? 'it has blobs, which are restored to a folder: remove storage.s3'
        : 'it has only the index of a store whose blobs are in a bucket: configure that bucket (storage.s3)',
    );
  }

  async #takeIndex({ body }: TarEntry): Promise<void> {
    const hash = createHash('sha256');
    const hashed = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of body) {
        hash.update(chunk);
        yield chunk;
      }
    };
    const file = createWriteStream(this.#options.indexPath, { mode: INDEX_MODE, flush: true });
    await pipeline(hashed, file);
    this.#indexSha256 = hash.digest('hex');
  }

  async #takeBlob({ name, size, body }: TarEntry): Promise<void> {
    const { spool, blobs, advanced = () => {} } = this.#options;
    const [folder, algorithm, hex, ...more] = name.split('/');
    const digest = `${algorithm}:${hex}`;
    if (folder !== 'blobs' || more.length > 0 || !isDigest(digest)) {
      throw new ArchiveError(`${JSON.stringify(name.slice(0, 200))} does not belong in a backup`);
    }
    const ingest = await spool.ingest(soleLease(`restore-${digestHex(digest)}`), { digest });
    try {
      await ingest.truncate(0);
      for await (const chunks of gathered(body)) {
        this.#options.signal?.throwIfAborted();
        await ingest.write(chunks);
        advanced(chunks.reduce((sum, { byteLength }) => sum + byteLength, 0));
      }
      if (ingest.offset === size && (await ingest.hash(digest)) === digest) {
        await blobs.put(digest, ingest);
        this.#blobs += 1;
        this.#blobBytes += size;
      } else {
        this.#wrong.add(digest);
      }
    } finally {
      await ingest.abort();
      await ingest.close();
    }
  }

  /** Compares everything with the last file. */
  #check(summary: BackupSummary): BackupSummary {
    const lacking = new Set(summary.lacking.map(({ digest }) => digest));
    const isWhole =
      summary.indexSha256 === this.#indexSha256 &&
      summary.blobs === this.#blobs &&
      summary.blobBytes === this.#blobBytes &&
      [...this.#wrong].every(digest => lacking.has(digest));
    if (!isWhole) throw new ArchiveError('it is damaged: its content does not match the summary at its end');
    return summary;
  }
}

async function readDocument({ name, size, body }: TarEntry): Promise<JsonObject> {
  const tooLarge = () => new ArchiveError(`its ${name} is larger than ${MAX_JSON_BYTES} bytes`);
  if (size > MAX_JSON_BYTES) throw tooLarge();
  const document = parseJsonObject(await collectBytes(body, MAX_JSON_BYTES, tooLarge));
  if (document === undefined) throw new ArchiveError(`its ${name} is not a JSON object`);
  return document;
}

function summaryIn({ blobs, blobBytes, indexSha256, lacking }: JsonObject): BackupSummary {
  const isSummary =
    typeof blobs === 'number' &&
    typeof blobBytes === 'number' &&
    typeof indexSha256 === 'string' &&
    Array.isArray(lacking) &&
    lacking.every(isLacking);
  if (!isSummary) throw new ArchiveError(`its ${LAST_FILE} is not the summary of a backup`);
  return { blobs, blobBytes, indexSha256, lacking };
}

function isLacking(value: unknown): value is LackingContent {
  if (!isJsonObject(value)) return false;
  const { kind, digest, reason, isRemoved } = value;
  // Old versions did not write the kind.
  const isKind = kind === undefined || kind === 'blob' || kind === 'manifest';
  const isMarked = isRemoved === undefined || typeof isRemoved === 'boolean';
  return isKind && isMarked && typeof digest === 'string' && typeof reason === 'string';
}

/** The chunks of a body, about a MiB at a time. */
async function* gathered(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array[], void> {
  let chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    chunks.push(chunk);
    bytes += chunk.byteLength;
    if (bytes >= WRITE_BYTES) {
      yield chunks;
      chunks = [];
      bytes = 0;
    }
  }
  if (chunks.length > 0) yield chunks;
}
