// The parts of hosted/ on real stores in a temporary folder, or with an index in memory, without HTTP.
import { join } from 'node:path';
import { Readable } from 'node:stream';
import type { BlobStore } from '../../src/blobs/blob-store.ts';
import { type FileStores, openFileStores } from '../../src/blobs/file-stores.ts';
import type { Spool } from '../../src/blobs/spool.ts';
import type { Chunk } from '../../src/hosted/chunk.ts';
import { Hosted } from '../../src/hosted/hosted.ts';
import { Publication } from '../../src/hosted/publication.ts';
import { Removal } from '../../src/hosted/removal.ts';
import { Uploads, type UploadsOptions } from '../../src/hosted/uploads.ts';
import { Presence } from '../../src/lib/lease.ts';
import { silentLog } from '../../src/lib/log.ts';
import { openMemoryMetadataStore } from '../../src/metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../../src/metadata/metadata-store.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import type { Repository } from '../../src/oci/repository.ts';
import { ANONYMOUS, type Right } from '../../src/oci/requester.ts';
import { bytesOf, type Content, type Image } from './content.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export const RIGHT: Right = {
  requester: ANONYMOUS,
  credentials: [],
  proved: true,
  provedIfUnreachable: false,
};

export interface BenchOptions extends Partial<Omit<UploadsOptions, 'spool' | 'blobs' | 'metadata' | 'log'>> {
  /** Where blobs stay, if not in the folder. */
  readonly blobs?: BlobStore;
  /** Whether the index is in memory: it ends with the bench, and no other bench knows of it. */
  readonly hasMemoryIndex?: boolean;
  /** Puts something between hosted/ and its spool, such as a full disk. */
  readonly wrapSpool?: (spool: Spool) => Spool;
}

export class HostedBench {
  readonly folder: string;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly hosted: Hosted;
  readonly uploads: Uploads;
  readonly publication: Publication;
  readonly removal: Removal;
  readonly #files: FileStores;

  private constructor(folder: string, files: FileStores, metadata: MetadataStore, options: BenchOptions) {
    const {
      wrapSpool = (spool: Spool) => spool,
      blobs = files.blobs,
      hasMemoryIndex: _,
      ...limits
    } = options;
    const { spool } = files;
    const parts = { spool: wrapSpool(spool), blobs, metadata, log: silentLog };
    this.folder = folder;
    this.#files = files;
    this.spool = spool;
    this.blobs = blobs;
    this.metadata = metadata;
    this.hosted = new Hosted(parts);
    this.uploads = new Uploads({ ...parts, ...limits });
    this.publication = new Publication({ metadata, admit: bytes => spool.space.admit(bytes) });
    this.removal = new Removal({ metadata });
  }

  /** On `folder`, which another bench may have left or may have open; a new one if left out. */
  static async open(folder?: string, options: BenchOptions = {}): Promise<HostedBench> {
    const path = folder ?? (await makeTempFolder('hosted'));
    const files = await openFileStores(path, { log: silentLog });
    const metadata =
      options.hasMemoryIndex === true
        ? openMemoryMetadataStore()
        : await openSqliteMetadataStore(join(path, 'index.db'), { log: silentLog });
    return new HostedBench(path, files, metadata, options);
  }

  /** Ends it like a server; the folder stays. */
  async close(): Promise<void> {
    await this.uploads.close();
    await this.#files.close();
    await this.metadata.close();
  }

  async remove(): Promise<void> {
    await this.close();
    await removeFolder(this.folder);
  }

  async pushBlob(repository: Repository, blob: Content): Promise<void> {
    await this.uploads.push(ANONYMOUS, repository, blob.digest, chunkOf(bytesOf(blob)));
  }

  async pushManifest(repository: Repository, manifest: Content, reference: string = manifest.digest) {
    return this.publication.publish(repository, {
      reference,
      tags: [],
      contentType: manifest.mediaType,
      contentLength: manifest.size,
      body: Readable.from([bytesOf(manifest)], { objectMode: false }),
      holder: { name: 'anonymous' },
      during: this.metadata.presence,
    });
  }

  async pushImage(repository: Repository, image: Image, reference?: string): Promise<void> {
    for (const blob of [image.config, ...image.layers]) await this.pushBlob(repository, blob);
    await this.pushManifest(repository, image.manifest, reference);
  }

  /** Names of the ingests that are in the store. */
  async ingests(): Promise<readonly string[]> {
    const keys: string[] = [];
    for await (const { key } of this.spool.list()) keys.push(key);
    return keys;
  }
}

/** For requests while nobody is suspended. */
export const DURING = { during: new Presence() };

/** A request's body of these bytes. */
export function chunkOf(bytes: Uint8Array, contentRange?: string): Chunk {
  return {
    body: Readable.from([Buffer.from(bytes)], { objectMode: false }),
    contentRange,
    contentLength: bytes.length,
    ...DURING,
  };
}

/** A body that brings `bytes` and then waits for the test: `body.push(null)` ends it, `destroy` is a client leaving. */
export function openChunk(bytes: Uint8Array, contentRange?: string): Chunk & { readonly body: Readable } {
  const body = new Readable({ read() {} });
  if (bytes.length > 0) body.push(Buffer.from(bytes));
  return { body, contentRange, contentLength: undefined, ...DURING };
}
