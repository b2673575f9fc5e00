import { createHash } from 'node:crypto';
import type { BlobStore } from '../blobs/blob-store.ts';
import { heldContent, missingFrom } from '../metadata/held-tree.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { type ContentTree, readContentTree } from '../oci/content-tree.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { type Digest, DIGEST_MISMATCH, digestAlgorithm, digestHex } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { Manifest } from '../oci/manifest.ts';
import { formatPlatform, type Platform } from '../oci/platform.ts';
import type { ContentLookup } from '../oci/platform-choice.ts';
import { signatureTags } from '../oci/reference.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import { dockerManifestBytes } from './docker-manifest.ts';
import type { HaveList } from './have-list.ts';
import {
  blobPath,
  type BundleImage,
  DOCKER_FILE,
  LAYOUT_INDEX_FILE,
  indexBytes,
  LAYOUT_FILE,
  layoutBytes,
  MAX_MANIFESTS_BYTES,
} from './layout.ts';
import { packed, type TarWriter } from './tar.ts';

/** How much of a blob is read at a time. Each piece is a buffer of its own, which the tar keeps until it is written. */
const READ_BYTES = 256 * 1024;
const REFERRERS_PAGE = 100;
/** Referrers of referrers are few; an endless chain is malicious. */
const MAX_REFERRERS = 10_000;

/** An image to export. */
export interface ExportImage {
  /** The full name under which it is imported: `docker.io/library/nginx:1.27`. */
  readonly name: string;
  readonly repository: Repository;
  readonly digest: Digest;
  /** The platforms for which children of an index are included; all if absent. */
  readonly platforms?: readonly Platform[] | undefined;
  /** Whether everybody may read this content of its repository. If not, the receiver has to decide who may. */
  readonly isOpenToAll: (digests: readonly Digest[]) => Promise<boolean>;
}

/** What a bundle is to contain, and where from. */
export interface ExportOptions {
  readonly metadata: MetadataStore;
  readonly blobs: BlobStore;
  /** Leaves out blobs that the receiver has. */
  readonly have?: HaveList | undefined;
  /** Includes stored signatures, SBOMs and other attached artifacts. */
  readonly referrers?: boolean;
  /** Adds the file that `docker load` needs if Docker does not use the containerd image store. */
  readonly dockerManifest?: boolean;
}

/** Images with everything that belongs to them, ready to be written: everything was found, nothing read yet. */
export class Bundle {
  /** Bytes of its blobs, without manifests. */
  readonly blobBytes: number;
  /** The number of blobs that are left out because the receiver has them. */
  readonly leftOut: number;
  /** The number of named images that an import makes public only with `--public`. */
  readonly privateImages: number;
  readonly #store: BlobStore;
  readonly #files: readonly { readonly path: string; readonly bytes: Uint8Array }[];
  readonly #blobs: readonly Descriptor[];

  constructor(
    store: BlobStore,
    files: readonly { readonly path: string; readonly bytes: Uint8Array }[],
    blobs: readonly Descriptor[],
    { leftOut, privateImages }: { readonly leftOut: number; readonly privateImages: number },
  ) {
    this.#store = store;
    this.#files = files;
    this.#blobs = blobs;
    this.leftOut = leftOut;
    this.privateImages = privateImages;
    this.blobBytes = blobs.reduce((sum, { size }) => sum + size, 0);
  }

  get blobCount(): number {
    return this.#blobs.length;
  }

  /**
   * The tar, produced as fast as it is consumed. Calls `advanced` with the number of bytes of blobs as they are
   * written. Throws ArchiveError at the first blob that does not match its digest.
   */
  tar(advanced: (bytes: number) => void = () => {}): AsyncGenerator<Uint8Array, void> {
    return packed(tar => this.#write(tar, advanced));
  }

  async #write(tar: TarWriter, advanced: (bytes: number) => void): Promise<void> {
    for (const { path, bytes } of this.#files) await tar.add(path, bytes.byteLength, [bytes]);
    for (const { digest, size } of this.#blobs) {
      await tar.add(blobPath(digest), size, this.#read(digest, size, advanced));
    }
  }

  async *#read(
    digest: Digest,
    size: number,
    advanced: (bytes: number) => void,
  ): AsyncGenerator<Uint8Array, void> {
    const reader = await this.#store.open(digest);
    if (reader === undefined) throw new ArchiveError(`${digest} was removed during the export`);
    const hash = createHash(digestAlgorithm(digest));
    try {
      for (let position = 0; position < size; ) {
        const buffer = Buffer.allocUnsafeSlow(Math.min(READ_BYTES, size - position));
        const length = await reader.read(buffer, position);
        if (length === 0)
          throw new ArchiveError(`${digest} is damaged: it ends at byte ${position} of ${size}`);
        position += length;
        const chunk = buffer.subarray(0, length);
        hash.update(chunk);
        yield chunk;
        advanced(length);
      }
      if (hash.digest('hex') !== digestHex(digest)) {
        throw new ArchiveError(
          `${digest} is damaged: ${DIGEST_MISMATCH}. Run entrepot scrub, then pull or push it again`,
        );
      }
    } finally {
      await reader.close();
    }
  }
}

/** Finds everything that belongs to the images. Throws ArchiveError if something is not stored. */
export async function planBundle(images: readonly ExportImage[], options: ExportOptions): Promise<Bundle> {
  const { have } = options;
  const gathered = new Gathered(options);
  for (const image of images) await gathered.add(image);
  const manifests = sorted(gathered.manifests.values());
  if (manifests.reduce((sum, { bytes }) => sum + bytes.byteLength, 0) > MAX_MANIFESTS_BYTES) {
    throw new ArchiveError(
      `the manifests exceed ${MAX_MANIFESTS_BYTES} bytes in total, the limit of an import: make several bundles`,
    );
  }
  const dockerFile =
    options.dockerManifest === true
      ? [{ path: DOCKER_FILE, bytes: await dockerManifestBytes(gathered.images, gathered.lookup) }]
      : [];
  const files = [
    { path: LAYOUT_FILE, bytes: layoutBytes() },
    { path: LAYOUT_INDEX_FILE, bytes: indexBytes({ images: gathered.images, have: have?.seal }) },
    ...dockerFile,
    ...manifests.map(({ digest, bytes }) => ({ path: blobPath(digest), bytes })),
  ];
  const blobs = sorted(gathered.blobs.values());
  const carried = blobs.filter(({ digest }) => have === undefined || !have.blobs.has(digest));
  const privateImages = gathered.images.filter(
    ({ name, isPrivate }) => name !== undefined && isPrivate,
  ).length;
  return new Bundle(options.blobs, files, carried, {
    leftOut: blobs.length - carried.length,
    privateImages,
  });
}

/** The contents of one bundle, without duplicates. */
class Gathered {
  readonly #images = new Map<string, BundleImage>();
  readonly manifests = new Map<Digest, Manifest>();
  readonly blobs = new Map<Digest, Descriptor>();
  readonly #options: ExportOptions;

  constructor(options: ExportOptions) {
    this.#options = options;
  }

  /** Without duplicates: two names of one image share their signatures. */
  get images(): readonly BundleImage[] {
    return [...this.#images.values()];
  }

  /** Looks up collected manifests, whichever repository they are from. */
  get lookup(): ContentLookup {
    return {
      manifest: async descriptor => asNamed(this.manifests.get(descriptor.digest), descriptor),
      config: ({ digest }) => this.#options.blobs.open(digest),
    };
  }

  async add(image: ExportImage): Promise<void> {
    const { root, tree } = await this.#addRoot(image);
    if (this.#options.referrers !== true) return;
    const areOpen = await this.#addReferrers(image, tree);
    // Those without a name are imported wherever the image is, for the same people.
    if (!areOpen) this.#addImage({ ...root, isPrivate: true });
  }

  async #addRoot({ name, repository, digest, platforms, isOpenToAll }: ExportImage) {
    const root = await this.#options.metadata.readLinkedManifest(repository, digest);
    if (root === undefined) throw new ArchiveError(`${name} is not stored here`);
    const descriptor = { mediaType: root.mediaType, digest, size: root.bytes.byteLength };
    const tree = await this.#complete(name, repository, descriptor, platforms);
    const image = { descriptor, name, platforms, isPrivate: !(await isOpenToAll(digestsOf(tree))) };
    this.#addImage(image);
    return { root: image, tree };
  }

  #addImage(image: BundleImage): void {
    const key = `${image.name ?? ''} ${image.descriptor.digest}`;
    const earlier = this.#images.get(key) ?? image;
    const [one, other] = [earlier.descriptor.mediaType, image.descriptor.mediaType];
    // Content without a name belongs wherever its subject does, so it can have one media type only.
    if (one !== other) {
      const { digest } = image.descriptor;
      throw new ArchiveError(
        `${digest} is ${one} in one repository and ${other} in another: make two bundles`,
      );
    }
    const platforms = earlier.platforms && image.platforms;
    this.#images.set(key, { ...image, platforms, isPrivate: earlier.isPrivate || image.isPrivate });
  }

  async #complete(
    name: string,
    repository: Repository,
    root: Descriptor,
    platforms: readonly Platform[] | undefined,
    wanted = `${platformWords(platforms)} ${name}`,
  ): Promise<ContentTree> {
    const { metadata, blobs } = this.#options;
    const held = heldContent(repository, metadata, digest => blobs.open(digest));
    const lookup: ContentLookup = {
      ...held,
      manifest: async descriptor => asNamed(await held.manifest(descriptor), descriptor),
    };
    const tree = await readContentTree(root, { lookup, platforms }).catch((error: unknown) => {
      throw error instanceof OciError ? new ArchiveError(`${name}: ${error.message}`) : error;
    });
    const missing = await missingFrom(tree, repository, { metadata, blobs });
    if (missing.length > 0) {
      throw new ArchiveError(
        `${name} is incomplete; missing: ${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ', …' : ''} ` +
          `(${waysOut(repository, tree, wanted)})`,
      );
    }
    for (const { manifest } of tree.manifests) this.manifests.set(manifest.digest, manifest);
    for (const blob of tree.blobs) this.blobs.set(blob.digest, blob);
    return tree;
  }

  /** Resolves to whether everybody may read those that have no name. */
  async #addReferrers({ name, repository, isOpenToAll }: ExportImage, tree: ContentTree): Promise<boolean> {
    let areOpen = true;
    for (const tag of tree.manifests.flatMap(({ manifest }) => signatureTags(manifest.digest))) {
      const digest = (await this.#options.metadata.readTag(repository, tag))?.digest;
      const signature = `${repositoryText(repository)}:${tag}`;
      if (digest !== undefined) await this.#addRoot({ name: signature, repository, digest, isOpenToAll });
    }
    const queue = tree.manifests.map(({ manifest }) => manifest.digest);
    const seen = new Set(queue);
    for (let subject = queue.shift(); subject !== undefined; subject = queue.shift()) {
      for (const descriptor of await this.#referrers(repository, subject)) {
        if (seen.has(descriptor.digest)) continue;
        if (seen.size > MAX_REFERRERS) throw new ArchiveError(`${name} has too many referrers`);
        seen.add(descriptor.digest);
        const referrer = await this.#complete(
          `the referrer ${descriptor.digest} of ${name}`,
          repository,
          descriptor,
          undefined,
          `--referrers ${name}`,
        );
        const isPrivate = !(await isOpenToAll(digestsOf(referrer)));
        areOpen &&= !isPrivate;
        this.#addImage({ descriptor, name: undefined, platforms: undefined, isPrivate });
        queue.push(descriptor.digest);
      }
    }
    return areOpen;
  }

  async #referrers(repository: Repository, subject: Digest): Promise<Descriptor[]> {
    const found: Descriptor[] = [];
    for (let after: string | undefined; ; after = found.at(-1)?.digest) {
      const page = { limit: REFERRERS_PAGE, after };
      const { entries, more } = await this.#options.metadata.listReferrers(
        repository,
        subject,
        undefined,
        page,
      );
      found.push(...entries);
      if (!more) return found;
    }
  }
}

/** In a bundle only its descriptor says what a manifest is, so that media type counts for whether it is complete. */
function asNamed(manifest: Manifest | undefined, { mediaType }: Descriptor): Manifest | undefined {
  return manifest && { ...manifest, mediaType };
}

function digestsOf({ manifests, blobs }: ContentTree): readonly Digest[] {
  return [...manifests.map(({ manifest }) => manifest.digest), ...blobs.map(({ digest }) => digest)];
}

function sorted<T extends { readonly digest: Digest }>(contents: Iterable<T>): T[] {
  return [...contents].sort((a, b) => (a.digest < b.digest ? -1 : 1));
}

/**
 * What to do about an incomplete image; `wanted` is the reference to pull. A platform that the index does not list does
 * not exist anywhere.
 */
function waysOut({ upstream }: Repository, { unmatched }: ContentTree, wanted: string): string {
  const select = 'select platforms with --platform';
  if (unmatched.length > 0) return select;
  const get = upstream === '' ? 'push what is missing' : `fetch what is missing with entrepot pull ${wanted}`;
  return `${get}, or ${select}`;
}

function platformWords(platforms: readonly Platform[] | undefined): string {
  return platforms === undefined ? '--all-platforms' : `--platform ${platforms.map(formatPlatform).join()}`;
}
