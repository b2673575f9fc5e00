import { setTimeout as delay } from 'node:timers/promises';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Ingest, Spool } from '../blobs/spool.ts';
import { removeStrays } from '../blobs/stray-removal.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Lease } from '../lib/lease.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { whyNotCollected } from '../metadata/store-identity.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf } from '../oci/digest.ts';
import { MAX_MANIFEST_BYTES } from '../oci/manifest.ts';
import { ArchiveError } from './archive-error.ts';
import type { BlobTaker } from './contents.ts';
import { checked, hashOf, looksLikeManifest, readEntry, requireDigest } from './entry-bytes.ts';
import { MAX_MANIFESTS_BYTES } from './layout.ts';
import type { ArchiveEntry } from './open-archive.ts';

/** Large enough for an efficient write; one is written while the next is collected. */
const WRITE_BYTES = 1024 * 1024;
/** How many blobs may be hashed and synced while the next ones are read. */
const MAX_SETTLING = 4;
/** Rows that are removed in one transaction, which others have to wait for. */
const DISCARDS_PER_STEP = 20;
/** Another import of the same blob takes any time, and a dead one is noticed after 5 s. */
const LEASE_POLL_MS = 100;

export interface BlobImporterOptions {
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly signal: AbortSignal;
}

/**
 * Stores the blobs of an archive, one after the other, each verified. They belong to no repository yet, so nobody can
 * read them; `discard` removes them again.
 */
export class BlobImporter implements BlobTaker {
  readonly #options: BlobImporterOptions;
  /** All blobs of the archive, with their sizes. */
  readonly #carried = new Map<Digest, number>();
  readonly #manifests = new Map<Digest, Uint8Array>();
  #manifestsBytes = 0;
  /** Blobs that were not stored before. */
  readonly #added = new Map<Digest, number>();
  readonly #settling = new Set<Promise<void>>();
  #failure: { readonly cause: unknown } | undefined;

  constructor(options: BlobImporterOptions) {
    this.#options = options;
  }

  /** Blobs that were not stored before, with their sizes. */
  get added(): ReadonlyMap<Digest, number> {
    return this.#added;
  }

  /** The size of a blob of the archive; `undefined` if it has none with this digest. */
  carriedSize(digest: Digest): number | undefined {
    return this.#carried.get(digest);
  }

  /** The bytes of a blob that looked like a manifest. */
  manifestBytes(digest: Digest): Uint8Array | undefined {
    return this.#manifests.get(digest);
  }

  open(digest: Digest): Promise<BlobReader | undefined> {
    return this.#options.blobs.open(digest);
  }

  /** Stores the file that should have `digest`. Throws ArchiveError if it does not, now or in a later call. */
  async take(digest: Digest, entry: ArchiveEntry): Promise<void> {
    this.#throwFailure();
    this.#carried.set(digest, entry.size);
    if (entry.size <= MAX_MANIFEST_BYTES) {
      await this.#takeSmall(digest, entry);
    } else if (await this.isHeld(digest, entry.size)) {
      // Equal bytes are stored, but only an archive that has the bytes may claim them.
      requireDigest(digest, await hashOf(entry, digest, this.#options.signal));
    } else {
      await this.#store(digest, entry);
    }
  }

  /** Stores as a blob what looked like a manifest, but is named as a blob. */
  async keepAsBlob(digest: Digest): Promise<void> {
    const bytes = this.#manifests.get(digest);
    if (bytes === undefined || (await this.isHeld(digest, bytes.byteLength))) return;
    await this.#store(digest, { name: digest, size: bytes.byteLength, body: once(bytes) });
  }

  /** Counts as a use, so that it stays while the import runs. */
  async isHeld(digest: Digest, size: number): Promise<boolean> {
    const { blobs, metadata } = this.#options;
    await metadata.putUse(digest);
    const row = await metadata.statBlob(digest);
    return row?.size === size && (await blobs.stat(digest))?.size === size;
  }

  /** Resolves when everything taken is verified, synced and in the index. */
  async settle(): Promise<void> {
    await Promise.all(this.#settling);
    this.#throwFailure();
  }

  /**
   * Removes what was added and belongs to nothing, except for blobs in `used`, and for what another import may have
   * found stored. Removes nothing while no garbage is collected: a rebuild may need files that were there before and that
   * the index did not know. Call after the Lease of this import is released, which keeps it.
   */
  async discard(used: ReadonlySet<Digest> = new Set()): Promise<void> {
    await Promise.allSettled(this.#settling);
    const { blobs, metadata } = this.#options;
    const unused = [...this.#added.keys()].filter(digest => !used.has(digest));
    for (const digest of unused) this.#added.delete(digest);
    if ((await whyNotCollected(metadata)) !== undefined) return;
    for (let at = 0; at < unused.length; at += DISCARDS_PER_STEP) {
      const step = unused.slice(at, at + DISCARDS_PER_STEP);
      const contents = step.map(digest => ({ kind: 'blob' as const, digest }));
      const removed = await metadata.removeUnneeded(contents, Number.POSITIVE_INFINITY);
      await removeStrays(
        blobs,
        metadata,
        removed.map(({ digest }) => digest),
      );
    }
  }

  async #takeSmall(digest: Digest, entry: ArchiveEntry): Promise<void> {
    const bytes = await readEntry(entry);
    requireDigest(digest, digestOf(bytes, digestAlgorithm(digest)));
    if (looksLikeManifest(bytes)) {
      this.#manifestsBytes += bytes.byteLength;
      if (this.#manifestsBytes > MAX_MANIFESTS_BYTES) {
        throw new ArchiveError(`its manifests exceed ${MAX_MANIFESTS_BYTES} bytes in total`);
      }
      this.#manifests.set(digest, bytes);
    } else if (!(await this.isHeld(digest, bytes.byteLength))) {
      await this.#store(digest, { ...entry, body: once(bytes) });
    }
  }

  async #store(digest: Digest, entry: ArchiveEntry): Promise<void> {
    const { spool, metadata, signal } = this.#options;
    const lease = await this.#acquireLease(`import-${digestAlgorithm(digest)}-${digestHex(digest)}`);
    let settled = async (): Promise<void> => metadata.release(lease);
    try {
      // What a killed import has left is not continued: the archive starts the blob from its beginning.
      const ingest = await spool.ingest(lease, { digest, anew: true });
      settled = async () => {
        await ingest.abort();
        await ingest.close();
        await metadata.release(lease);
      };
      await write(ingest, entry, signal);
      await this.#settleBehind(digest, ingest, settled);
    } catch (error) {
      await settled();
      throw error;
    }
  }

  async #acquireLease(key: string): Promise<Lease> {
    for (;;) {
      const lease = await this.#options.metadata.acquireLease(key);
      if (lease !== undefined) return lease;
      await delay(LEASE_POLL_MS, undefined, { signal: this.#options.signal });
    }
  }

  /** Verifies and commits while the next blob is read. The next call throws its failure. */
  async #settleBehind(digest: Digest, ingest: Ingest, settled: () => Promise<void>): Promise<void> {
    while (this.#settling.size >= MAX_SETTLING) await Promise.race(this.#settling);
    const committing = async (): Promise<void> => {
      try {
        await this.#commit(digest, ingest);
      } finally {
        await settled();
      }
    };
    const settling = committing()
      .catch((cause: unknown) => {
        this.#failure ??= { cause };
      })
      .finally(() => this.#settling.delete(settling));
    this.#settling.add(settling);
  }

  async #commit(digest: Digest, ingest: Ingest): Promise<void> {
    const { blobs, metadata } = this.#options;
    const size = ingest.offset;
    requireDigest(digest, await ingest.hash(digest));
    const stored = await blobs.put(digest, ingest);
    if (!(await metadata.putBlob(digest, size, undefined, stored))) {
      // An equal blob was being collected, and this one was removed with it.
      throw new ArchiveError(`${digest} was removed during the import: run it again`);
    }
    this.#added.set(digest, size);
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.cause;
  }
}

/** Writes in large pieces, one in progress while the next is collected. */
async function write(ingest: Ingest, entry: ArchiveEntry, signal: AbortSignal): Promise<void> {
  let inFlight: Promise<void> = Promise.resolve();
  let chunks: Uint8Array[] = [];
  let bytes = 0;
  const flush = async (): Promise<void> => {
    await inFlight;
    inFlight = ingest.write(chunks);
    // Whoever awaits it gets the failure; until then it must not count as unhandled.
    inFlight.catch(() => {});
    chunks = [];
    bytes = 0;
  };
  try {
    for await (const chunk of checked(entry)) {
      signal.throwIfAborted();
      chunks.push(chunk);
      bytes += chunk.byteLength;
      if (bytes >= WRITE_BYTES) await flush();
    }
    await flush();
  } finally {
    await inFlight;
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array, void> {
  yield bytes;
}
