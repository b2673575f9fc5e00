// Stores, images and archives for the tests of this folder.
import { join } from 'node:path';
import { pack } from 'tar-stream';
import { bytesOf, type Content, type Image, type ImageIndex } from '../../test/support/content.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import { type FileStores, openFileStores } from '../blobs/file-stores.ts';
import type { Spool } from '../blobs/spool.ts';
import { silentLog } from '../lib/log.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { openMemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { type Digest, digestAlgorithm, digestHex } from '../oci/digest.ts';
import { parseManifest } from '../oci/manifest.ts';
import { parseImageName } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import type { ExportImage } from './export.ts';
import { importArchive, type ImportOptions } from './import.ts';
import { type ArchiveEntry, readArchive } from './open-archive.ts';
import type { ImagePlace } from './placement.ts';

/** A store of its own, in a temporary folder; its index is in memory if nobody else opens it. */
export class ArchiveWorld {
  readonly folder: string;
  readonly metadata: MetadataStore;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly #files: FileStores;

  private constructor(folder: string, metadata: MetadataStore, files: FileStores) {
    this.folder = folder;
    this.metadata = metadata;
    this.#files = files;
    this.spool = files.spool;
    this.blobs = files.blobs;
  }

  static async open({ isIndexOnDisk = false } = {}): Promise<ArchiveWorld> {
    const folder = await makeTempFolder('arc');
    const metadata = isIndexOnDisk
      ? await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog })
      : openMemoryMetadataStore();
    return new ArchiveWorld(folder, metadata, await openFileStores(folder, { log: silentLog }));
  }

  get stores() {
    const { metadata, spool, blobs } = this;
    return { metadata, spool, blobs };
  }

  /** Stores an image or an index completely, as a pull would. */
  async hold(name: string, content: Image | ImageIndex, { isPublic = true } = {}): Promise<ExportImage> {
    const { repository, tag } = placeOf(name);
    for (const image of 'images' in content ? content.images : [content]) {
      for (const blob of [image.config, ...image.layers]) await this.#holdBlob(repository, blob);
      await this.#holdManifest(repository, image.manifest);
    }
    await this.#holdManifest(repository, content.manifest, tag);
    if (isPublic) {
      await this.metadata.putGrant(repository, { credentialId: '', verifiedAtMs: 1 });
    }
    return { name, repository, digest: content.manifest.digest, isOpenToAll: async () => isPublic };
  }

  /** Everything that an import could leave behind. */
  async traces(): Promise<object> {
    const { repositories, manifests, blobs } = await this.metadata.readTotals();
    const files: string[] = [];
    for await (const { digest } of this.blobs.list()) files.push(digest);
    for await (const { key } of this.spool.list()) files.push(key);
    return { repositories, manifests, blobs, files: files.length };
  }

  import(tar: Uint8Array, options: Partial<ImportOptions> = {}) {
    return importArchive(readArchive(inPieces(tar)), this.options(options));
  }

  options(options: Partial<ImportOptions> = {}): ImportOptions {
    const { stores } = this;
    return { ...stores, placeOf: name => (name === undefined ? undefined : placeOf(name)), ...options };
  }

  async remove(): Promise<void> {
    await this.#files.close();
    await this.metadata.close();
    await removeFolder(this.folder);
  }

  async #holdBlob(repository: Repository, content: Content): Promise<void> {
    if ((await this.blobs.stat(content.digest)) === undefined) {
      const ingest = await this.spool.ingest(steadyLease(`test-${digestHex(content.digest)}`), {
        digest: content.digest,
      });
      for (const piece of content.slice()) await ingest.write([piece]);
      await this.blobs.put(content.digest, ingest);
      await ingest.close();
    }
    await this.metadata.putBlob(content.digest, content.size, repository);
  }

  async #holdManifest(repository: Repository, content: Content, tag?: string): Promise<void> {
    const bytes = bytesOf(content);
    const { digest, mediaType } = content;
    const view = parseManifest(bytes, mediaType);
    await this.metadata.putManifest(repository, { digest, mediaType, bytes }, view, {
      atMs: 1,
      ...(tag === undefined ? {} : { tag }),
    });
  }
}

/** In these tests every registry is an upstream. */
export function placeOf(name: string): ImagePlace & { tag?: string | undefined } {
  const { registry, repository, tag, digest } = parseImageName(name);
  return { repository: { upstream: registry, name: repository }, tag, digest };
}

export async function gathered(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const chunk of chunks) all.push(chunk);
  return Buffer.concat(all);
}

/** In pieces of arbitrary length, as from a pipe. */
export async function* inPieces(bytes: Uint8Array, size = 100_003): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

/** The names and contents of a tar's files, in order. */
export async function filesOf(tar: Uint8Array): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  for await (const { name, body } of readArchive(inPieces(tar))) files.set(name, await gathered(body));
  return files;
}

export interface TarFile {
  readonly name: string;
  readonly bytes?: Uint8Array | string;
  readonly type?: 'file' | 'directory' | 'symlink' | 'link' | 'character-device' | 'block-device' | 'fifo';
  readonly linkname?: string;
}

/** A tar with the given files, even with invalid names. */
export async function tarOf(files: readonly TarFile[]): Promise<Buffer> {
  const tar = pack();
  for (const { name, bytes = '', type = 'file', linkname } of files) {
    const body = typeof bytes === 'string' ? Buffer.from(bytes) : Buffer.from(bytes);
    tar.entry({ name, type, ...(linkname === undefined ? {} : { linkname }) }, body);
  }
  tar.finalize();
  const chunks: Uint8Array[] = [];
  for await (const chunk of tar) if (chunk instanceof Uint8Array) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The files of a layout with this image, as other programs write it: blobs first. */
export function layoutFiles(content: Image | ImageIndex, name: string): TarFile[] {
  const images = 'images' in content ? content.images : [content];
  const blobs = images.flatMap(image => [image.config, ...image.layers, image.manifest]);
  const all = new Map([...blobs, content.manifest].map(blob => [blob.digest, blob]));
  const { mediaType, digest, size } = content.manifest;
  const index = {
    schemaVersion: 2,
    manifests: [{ mediaType, digest, size, annotations: { 'org.opencontainers.image.ref.name': name } }],
  };
  return [
    ...[...all.values()].map(blob => ({ name: pathOf(blob.digest), bytes: bytesOf(blob) })),
    { name: 'index.json', bytes: JSON.stringify(index) },
    { name: 'oci-layout', bytes: '{"imageLayoutVersion":"1.0.0"}' },
  ];
}

export function pathOf(digest: Digest): string {
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}`;
}

export async function* entriesOf(...entries: ArchiveEntry[]): AsyncGenerator<ArchiveEntry> {
  yield* entries;
}
