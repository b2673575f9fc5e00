import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Ingest, Spool } from '../blobs/spool.ts';
import { unreadableReason } from '../blobs/unreadable.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Lease } from '../lib/lease.ts';
import {
  BLOBS,
  type IndexReading,
  type IndexRow,
  type IndexSource,
  type IndexTable,
  type IndexTarget,
  type IndexValue,
  MANIFESTS,
  QUARANTINE,
  SETTINGS,
  TABLES,
} from '../metadata/index-tables.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { BLOBS_IN, MOVING_FROM, STORE_ID } from '../metadata/store-identity.ts';
import {
  type Digest,
  DIGEST_MISMATCH,
  digestAlgorithm,
  digestHex,
  digestOf,
  isDigest,
} from '../oci/digest.ts';
import type { LackingContent } from './backup.ts';

/** Two buffers for each blob: one is written while the next is read. */
const READ_BYTES = 1024 * 1024;
/** Small blobs wait for a sync, or for an answer of a bucket, most of the time. */
const BLOBS_AT_ONCE = 8;
/** Rows that are written in one transaction. A page with more may come from the source. */
const BYTES_PER_WRITE = 1024 * 1024;
const ROWS_PER_WRITE = 1_000;
/** After this, what is being stored is abandoned, and the next run starts it again: S3 may be silent for minutes. */
const STOPS_WITHIN_MS = 5_000;
/** A process that has died while it moved the same blob is noticed after some seconds. */
const LEASE_POLL_MS = 100;

/** What of the settings belongs to a store and not to its content. */
const OWN_SETTINGS: ReadonlySet<IndexValue> = new Set([STORE_ID, BLOBS_IN, MOVING_FROM]);

export interface MigrationParts {
  readonly from: { readonly blobs: Pick<BlobStore, 'open'>; readonly index: IndexSource };
  readonly to: {
    readonly metadata: MetadataStore;
    readonly spool: Spool;
    readonly blobs: BlobStore;
    readonly index: IndexTarget;
  };
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: MigrationProgress) => void;
}

/** What has been moved since the last one. */
export interface MigrationProgress {
  readonly kind: 'blobs' | 'rows';
  readonly items: number;
  /** Bytes of blobs. */
  readonly bytes: number;
}

/**
 * Moves a store to an empty one, whatever the kinds of both: blobs, each verified, and then the index as it is at one
 * moment. Blobs that are moved have rows at once, so that an interrupted migration continues where it was; all other rows are
 * written again each time, and until they all are, `MOVING_FROM` says that the store must not be used.
 */
export class StoreMigration {
  readonly #parts: MigrationParts;
  readonly #lacking = new Map<Digest, LackingContent>();
  #copied = 0;
  #copiedBytes = 0;

  constructor(parts: MigrationParts) {
    this.#parts = parts;
  }

  /** How many blobs were copied, those of earlier runs not included. */
  get copied(): { readonly blobs: number; readonly bytes: number } {
    return { blobs: this.#copied, bytes: this.#copiedBytes };
  }

  /** Content that the index names and that is damaged or missing. It is left out, and recorded as damaged. */
  get lacking(): readonly LackingContent[] {
    return [...this.#lacking.values()];
  }

  /** Copies the blobs that the new store lacks. The old one may be used meanwhile. */
  async copyBlobs(): Promise<void> {
    await this.#copyBlobs(this.#parts.from.index);
  }

  /** Copies the blobs that are still lacking, and then the index as it is at that moment. */
  async complete(): Promise<void> {
    const { index } = this.#parts.from;
    // Most of it without keeping a moment of the index, which would grow meanwhile.
    await this.#copyBlobs(index);
    await index.read(async reading => {
      // Some of it may have been removed meanwhile.
      this.#lacking.clear();
      await this.#copyBlobs(reading);
      await this.#copyIndex(reading);
    });
  }

  async #copyBlobs(reading: IndexReading): Promise<void> {
    const { signal } = this.#parts;
    const over = new AbortController();
    const stopped = signal.aborted
      ? undefined
      : once(signal, 'abort', { signal: over.signal }).catch(() => {});
    const there = new OrderedDigests(this.#parts.to.index);
    const copying = new Set<Promise<void>>();
    const failures: unknown[] = [];
    try {
      for await (const rows of reading.rows(BLOBS)) {
        for (const { digest, size } of rows) {
          if (!isText(digest) || !isDigest(digest) || typeof size !== 'number') continue;
          if (await there.has(digest)) continue;
          while (copying.size >= BLOBS_AT_ONCE && !signal.aborted) await Promise.race([...copying, stopped]);
          signal.throwIfAborted();
          if (failures.length > 0) throw failures[0];
          const one = this.#copyBlob(digest, size)
            .catch((error: unknown) => void failures.push(error))
            .finally(() => copying.delete(one));
          copying.add(one);
        }
      }
      await Promise.race([Promise.all(copying), stopped]);
    } finally {
      const late = async () => {
        await stopped;
        await delay(STOPS_WITHIN_MS, undefined, { signal: over.signal });
      };
      await Promise.race([Promise.all(copying), late()]);
      over.abort();
    }
    signal.throwIfAborted();
    if (failures.length > 0) throw failures[0];
  }

  async #copyBlob(digest: Digest, size: number): Promise<void> {
    const { signal, from, to } = this.#parts;
    signal.throwIfAborted();
    // Named, so that a copy in front of a bucket is neither made nor trusted.
    let reader: BlobReader | undefined;
    let lease: Lease | undefined;
    try {
      reader = await from.blobs.open(digest, [{ start: 0, end: size }]).catch(asUnreadable);
      if (reader === undefined) return this.#lacks('blob', digest, 'it is missing');
      if (reader.size !== size) return this.#lacks('blob', digest, 'it has the wrong size');
      lease = await this.#acquireLease(`import-${digestAlgorithm(digest)}-${digestHex(digest)}`);
      const ingest = await to.spool.ingest(lease, { digest, anew: true });
      try {
        await this.#store(digest, reader, ingest);
      } finally {
        await ingest.abort();
        await ingest.close();
      }
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      this.#lacks('blob', digest, error.message);
    } finally {
      await reader?.close();
      if (lease !== undefined) await to.metadata.release(lease);
    }
  }

  async #store(digest: Digest, reader: BlobReader, ingest: Ingest): Promise<void> {
    const { metadata, blobs } = this.#parts.to;
    await this.#copyBytes(reader, ingest);
    if ((await ingest.hash(digest)) !== digest) {
      return this.#lacks('blob', digest, DIGEST_MISMATCH);
    }
    const stored = await blobs.put(digest, ingest);
    if (!(await metadata.putBlob(digest, reader.size, undefined, stored))) {
      throw new Error(`the new store lost ${digest} as soon as it was stored: is something else using it?`);
    }
    this.#lacking.delete(digest);
    this.#copied += 1;
    this.#copiedBytes += reader.size;
    this.#parts.onProgress?.({ kind: 'blobs', items: 1, bytes: 0 });
  }

  async #copyBytes(reader: BlobReader, ingest: Ingest): Promise<void> {
    const { signal, onProgress = () => {} } = this.#parts;
    const { size } = reader;
    const length = Math.min(READ_BYTES, Math.max(1, size));
    let [buffer, other] = [Buffer.allocUnsafeSlow(length), Buffer.allocUnsafeSlow(length)];
    let writing: Promise<void> = Promise.resolve();
    try {
      for (let position = 0; position < size; ) {
        signal.throwIfAborted();
        [buffer, other] = [other, buffer];
        const count = await reader.read(buffer, position).catch(asUnreadable);
        await writing;
        writing = ingest.write([buffer.subarray(0, count)]);
        // Whoever awaits it gets the failure; until then it must not count as unhandled.
        writing.catch(() => {});
        position += count;
        onProgress({ kind: 'blobs', items: 0, bytes: count });
      }
    } finally {
      await writing;
    }
  }

  async #copyIndex(reading: IndexReading): Promise<void> {
    const { index } = this.#parts.to;
    await index.clear();
    for (const table of TABLES) {
      for await (const rows of gathered(this.#wholeRows(table, reading))) {
        this.#parts.signal.throwIfAborted();
        await index.add(table, rows);
        this.#parts.onProgress?.({ kind: 'rows', items: rows.length, bytes: 0 });
      }
    }
    await this.#recordDamage();
    await index.finish();
  }

  /** Pages of a table without what is not to be moved. */
  async *#wholeRows(table: IndexTable, reading: IndexReading): AsyncGenerator<readonly IndexRow[], void> {
    for await (const rows of reading.rows(table)) {
      if (table === SETTINGS) yield rows.filter(({ name = null }) => !OWN_SETTINGS.has(name));
      else if (table === MANIFESTS) yield rows.filter(row => this.#isWholeManifest(row));
      else if (table === QUARANTINE) yield await this.#stillDamaged(rows);
      else yield rows;
    }
  }

  #isWholeManifest({ digest, bytes }: IndexRow): boolean {
    if (!isText(digest) || !isDigest(digest) || !(bytes instanceof Uint8Array)) return false;
    if (digestOf(bytes, digestAlgorithm(digest)) === digest) return true;
    this.#lacks('manifest', digest, DIGEST_MISMATCH);
    return false;
  }

  /** The rows except those of content that was moved intact, or recorded as damaged by this run. */
  async #stillDamaged(rows: readonly IndexRow[]): Promise<readonly IndexRow[]> {
    const left: IndexRow[] = [];
    for (const row of rows) {
      const { digest } = row;
      if (!isText(digest) || !isDigest(digest) || this.#lacking.has(digest)) continue;
      if ((await this.#parts.to.metadata.statBlob(digest)) === undefined) left.push(row);
    }
    return left;
  }

  async #recordDamage(): Promise<void> {
    const rows = this.lacking.map(({ digest, reason }) => ({ digest, reason, found_at_ms: Date.now() }));
    if (rows.length > 0) await this.#parts.to.index.add(QUARANTINE, rows);
  }

  async #acquireLease(key: string): Promise<Lease> {
    for (;;) {
      const lease = await this.#parts.to.metadata.acquireLease(key);
      if (lease !== undefined) return lease;
      await delay(LEASE_POLL_MS, undefined, { signal: this.#parts.signal });
    }
  }

  #lacks(kind: LackingContent['kind'], digest: Digest, reason: string): void {
    this.#lacking.set(digest, { kind, digest, reason });
  }
}

/** A blob of the old store is damaged; the message says how. The same failures of the new store end the migration. */
class Unreadable extends Error {
  override readonly name = 'Unreadable';
}

function asUnreadable(error: unknown): never {
  const reason = unreadableReason(error);
  throw reason === undefined ? error : new Unreadable(reason, { cause: error });
}

/** The digests of the blobs in an index, which are asked for in their order. */
class OrderedDigests {
  readonly #digests: AsyncIterator<IndexValue>;
  #next: IteratorResult<IndexValue> | undefined;

  constructor(index: IndexReading) {
    this.#digests = digestsIn(index);
  }

  /** `digest`: later than in the last call. */
  async has(digest: Digest): Promise<boolean> {
    this.#next ??= await this.#digests.next();
    while (this.#next.done !== true && isText(this.#next.value) && this.#next.value < digest) {
      this.#next = await this.#digests.next();
    }
    return this.#next.done !== true && this.#next.value === digest;
  }
}

async function* digestsIn(index: IndexReading): AsyncGenerator<IndexValue, void> {
  for await (const rows of index.rows(BLOBS)) {
    for (const { digest = null } of rows) yield digest;
  }
}

/** The rows of several pages in portions that are written at once. */
async function* gathered(
  pages: AsyncIterable<readonly IndexRow[]>,
): AsyncGenerator<readonly IndexRow[], void> {
  let rows: IndexRow[] = [];
  let bytes = 0;
  for await (const page of pages) {
    for (const row of page) {
      rows.push(row);
      if (row['bytes'] instanceof Uint8Array) bytes += row['bytes'].byteLength;
      if (rows.length < ROWS_PER_WRITE && bytes < BYTES_PER_WRITE) continue;
      yield rows;
      rows = [];
      bytes = 0;
    }
  }
  if (rows.length > 0) yield rows;
}

function isText(value: IndexValue | undefined): value is string {
  return typeof value === 'string';
}
