/**
 * archive/: images as OCI image layouts in a tar, to be carried to sites without a network; backups. May import blobs/,
 * metadata/, oci/ and lib/.
 *
 * The main idea: an archive is somebody else's claim. Nothing of it is published before every name, size and digest was
 * checked and every image is complete; everything that a refused one brought is removed again.
 */
import { type Descriptor } from '../oci/descriptor.ts';
import { type Digest, digestAlgorithm, digestHex, isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import {
  MAX_INDEX_ENTRIES,
  MAX_MANIFEST_BYTES,
  parseManifest,
  requireUniqueMembers,
} from '../oci/manifest.ts';
import { OCI_INDEX } from '../oci/media-types.ts';
import { formatPlatform, parsePlatform, type Platform } from '../oci/platform.ts';
import { parseJsonObject } from '../lib/json.ts';
import { ArchiveError } from './archive-error.ts';

/** OCI image-spec, image-layout.md: what every layout contains besides its blobs. */
export const LAYOUT_FILE = 'oci-layout';
export const LAYOUT_INDEX_FILE = 'index.json';
/** What `docker load` reads if Docker does not use the containerd image store. */
export const DOCKER_FILE = 'manifest.json';

/** A layer in a Docker archive without a layout: a file, or a link to the layer of another image. */
const DOCKER_LAYER_PATH = /^[0-9a-f]{64}\/layer\.tar$/;

const LAYOUT_VERSION = '1.0.0';

/** All manifests of an archive are in memory; those of a thousand images for ten platforms have 20 MiB. */
export const MAX_MANIFESTS_BYTES = 64 * 1024 * 1024;

/**
 * The annotations with the name of a manifest (image-layout.md, "index.json"). containerd's own wins if both are
 * present.
 */
const REFERENCE_NAME = 'org.opencontainers.image.ref.name';
const CONTAINERD_NAME = 'io.containerd.image.name';
/** Our annotation of a bundle, on its index. */
const BUNDLE_VERSION = 'io.entrepot.bundle.version';
const BUNDLE_HAVE = 'io.entrepot.bundle.have';
/**
 * Our annotations of an image, on its descriptor: which platforms of an index are included, and that not everybody may
 * read it.
 */
const BUNDLE_PLATFORMS = 'io.entrepot.bundle.platforms';
const BUNDLE_PRIVATE = 'io.entrepot.bundle.private';

const OUR_VERSION = '1';

/** A manifest that the index of a layout names. */
export interface BundleImage {
  readonly descriptor: Descriptor;
  /**
   * A full image name; `undefined` for an artifact that belongs to an image, such as a signature, and for unnamed ones.
   */
  readonly name: string | undefined;
  /** The platforms for which children of an index are included; `undefined` for all. */
  readonly platforms: readonly Platform[] | undefined;
  /** Whether its repository was not known to be public where it was exported. */
  readonly isPrivate: boolean;
}

/** The index of a layout. */
export interface BundleIndex {
  readonly images: readonly BundleImage[];
  /** The seal of the have-list whose blobs are left out; `undefined` if none are. */
  readonly have: string | undefined;
}

/** The path of a blob in a layout. */
export function blobPath(digest: Digest): string {
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}`;
}

/** The digest in the path of a blob; `undefined` for any other file. */
export function digestOfPath(path: string): Digest | undefined {
  const [, algorithm, hex] = /^blobs\/([^/]+)\/([^/]+)$/.exec(path) ?? [];
  const digest = `${algorithm}:${hex}`;
  return isDigest(digest) ? digest : undefined;
}

/** Whether a file of this name occurs only in a Docker archive. */
export function isDockerFile(path: string): boolean {
  return path === DOCKER_FILE || DOCKER_LAYER_PATH.test(path);
}

/** A Docker archive without an image layout has no manifests: they would have to be invented, with other digests. */
export function dockerArchiveError(): ArchiveError {
  return new ArchiveError(
    'it is a Docker archive without an OCI image layout, as Docker before version 25 and podman save write it: ' +
      'convert it with skopeo copy docker-archive:FILE oci-archive:NEW:NAME',
  );
}

/** The content of `oci-layout`. */
export function layoutBytes(): Uint8Array {
  return Buffer.from(JSON.stringify({ imageLayoutVersion: LAYOUT_VERSION }));
}

/** Throws ArchiveError for an unknown version of the layout. */
export function checkLayout(bytes: Uint8Array): void {
  const version = parseJsonObject(bytes)?.['imageLayoutVersion'];
  if (version !== LAYOUT_VERSION) {
    throw new ArchiveError(
      `its ${LAYOUT_FILE} has version ${JSON.stringify(version)}, not ${LAYOUT_VERSION}`,
    );
  }
}

/** The content of `index.json`: equal for the same images in any order. */
export function indexBytes({ images, have }: BundleIndex): Uint8Array {
  if (images.length > MAX_INDEX_ENTRIES) {
    throw new ArchiveError(`a bundle may contain at most ${MAX_INDEX_ENTRIES} images, not ${images.length}`);
  }
  const manifests = images.map(entryOf).sort((a, b) => compareText(a.key, b.key));
  const annotations = {
    ...(have === undefined ? {} : { [BUNDLE_HAVE]: have }),
    [BUNDLE_VERSION]: OUR_VERSION,
  };
  const index = {
    schemaVersion: 2,
    mediaType: OCI_INDEX,
    manifests: manifests.map(({ entry }) => entry),
    annotations,
  };
  const bytes = Buffer.from(JSON.stringify(index));
  if (bytes.byteLength > MAX_MANIFEST_BYTES) throw new ArchiveError('the names of its images are too long');
  return bytes;
}

/** Parses `index.json`, ours or another program's; throws ArchiveError. */
export function parseBundleIndex(bytes: Uint8Array): BundleIndex {
  try {
    const { manifests, annotations } = parseManifest(bytes, OCI_INDEX);
    requireUniqueMembers(bytes);
    const version = annotations[BUNDLE_VERSION];
    if (version !== undefined && version !== OUR_VERSION) {
      throw new ArchiveError(`it was written by a newer version of Entrepot (bundle version ${version})`);
    }
    return {
      images: manifests.map(descriptor => ({
        descriptor,
        name: nameOf(descriptor),
        platforms: descriptor.annotations?.[BUNDLE_PLATFORMS]?.split(',').map(parsePlatform),
        isPrivate: descriptor.annotations?.[BUNDLE_PRIVATE] === 'true',
      })),
      have: annotations[BUNDLE_HAVE],
    };
  } catch (error) {
    if (!(error instanceof OciError)) throw error;
    throw new ArchiveError(`its ${LAYOUT_INDEX_FILE} cannot be read: ${error.message}`, { cause: error });
  }
}

function entryOf({ descriptor, name, platforms, isPrivate }: BundleImage): { key: string; entry: object } {
  const { mediaType, digest, size, artifactType } = descriptor;
  const annotations = {
    ...(name === undefined ? {} : { [CONTAINERD_NAME]: name }),
    ...(platforms === undefined
      ? {}
      : { [BUNDLE_PLATFORMS]: [...new Set(platforms.map(formatPlatform))].sort(compareText).join(',') }),
    ...(isPrivate ? { [BUNDLE_PRIVATE]: 'true' } : {}),
    ...(name === undefined ? {} : { [REFERENCE_NAME]: name }),
  };
  const entry = {
    mediaType,
    digest,
    size,
    ...(artifactType === undefined ? {} : { artifactType }),
    ...(Object.keys(annotations).length === 0 ? {} : { annotations }),
  };
  return { key: `${name ?? '~'} ${digest}`, entry };
}

/** A name without a slash is only a tag, as skopeo and Docker write it, and does not name the image. */
function nameOf({ annotations = {} }: Descriptor): string | undefined {
  const name = annotations[CONTAINERD_NAME] ?? annotations[REFERENCE_NAME];
  return name?.includes('/') ? name : undefined;
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
