// Registry content made from seeds: the same arguments give the same bytes, and no blob is held in memory.
import { createCipheriv, createHash } from 'node:crypto';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { type Digest, digestOf, parseDigest } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import type { Platform } from '../../src/oci/platform.ts';

/** What a registry can serve: a blob, a manifest or an index. */
export interface Content {
  readonly digest: Digest;
  readonly size: number;
  readonly mediaType: string;
  /** The bytes from `start` up to but not including `end`, in pieces of at most 64 KiB. */
  slice(start?: number, end?: number): Iterable<Buffer>;
}

export interface Image {
  readonly manifest: Content;
  readonly config: Content;
  readonly layers: readonly Content[];
  readonly platform: Platform;
}

export interface ImageIndex {
  readonly manifest: Content;
  readonly images: readonly Image[];
}

export interface ImageOptions {
  /** Default linux/amd64. */
  readonly platform?: Platform;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly artifactType?: string;
  readonly subject?: Content;
  /** Default OCI's. */
  readonly mediaType?: string;
  /** Omits the member `mediaType`, so that the bytes can be read as more than one type. */
  readonly isUntyped?: boolean;
}

const PIECE_BYTES = 64 * 1024;
const ZEROS = Buffer.alloc(PIECE_BYTES);
const AES_BLOCK_BYTES = 16;
const AMD64: Platform = { os: 'linux', architecture: 'amd64' };

/** `size` bytes that look random and cannot be compressed. Another seed gives other bytes. */
export function randomBlob(
  size: number,
  seed: string | number,
  mediaType: string = `${OCI_LAYER}+gzip`,
): Content {
  const key = createHash('sha256').update(`blob ${seed}`).digest().subarray(0, AES_BLOCK_BYTES);
  const slice = (start = 0, end = size) => keystream(key, start, Math.min(end, size));
  const hash = createHash('sha256');
  for (const piece of slice()) hash.update(piece);
  return { digest: parseDigest(`sha256:${hash.digest('hex')}`), size, mediaType, slice };
}

/** Content with exactly these bytes. */
export function contentOf(bytes: Uint8Array | string, mediaType: string): Content {
  const held = typeof bytes === 'string' ? Buffer.from(bytes) : Buffer.from(bytes);
  return {
    digest: digestOf(held),
    size: held.length,
    mediaType,
    *slice(start = 0, end = held.length) {
      for (let at = start; at < Math.min(end, held.length); at += PIECE_BYTES) {
        yield held.subarray(at, Math.min(at + PIECE_BYTES, end, held.length));
      }
    },
  };
}

/** An image of these layers, with a config that names its platform. */
export function imageOf(layers: readonly Content[], options: ImageOptions = {}): Image {
  const platform = options.platform ?? AMD64;
  const config = contentOf(
    JSON.stringify({
      ...platform,
      config: {},
      rootfs: { type: 'layers', diff_ids: layers.map(layer => layer.digest) },
    }),
    OCI_CONFIG,
  );
  const mediaType = options.mediaType ?? OCI_MANIFEST;
  const manifest = jsonContent(mediaType, {
    schemaVersion: 2,
    ...(options.isUntyped === true ? {} : { mediaType }),
    ...(options.artifactType === undefined ? {} : { artifactType: options.artifactType }),
    config: descriptorOf(config),
    layers: layers.map(layer => descriptorOf(layer)),
    ...(options.subject === undefined ? {} : { subject: descriptorOf(options.subject) }),
    ...(options.annotations === undefined ? {} : { annotations: options.annotations }),
  });
  return { manifest, config, layers, platform };
}

/** An index of these images, in this order. */
export function indexOf(images: readonly Image[], mediaType: string = OCI_INDEX): ImageIndex {
  const manifests = images.map(image => ({ ...descriptorOf(image.manifest), platform: image.platform }));
  return { manifest: indexOfEntries(manifests, mediaType), images };
}

/** An index of these entries, with or without platforms, in this order. */
export function indexOfEntries(manifests: readonly Descriptor[], mediaType: string = OCI_INDEX): Content {
  return jsonContent(mediaType, { schemaVersion: 2, mediaType, manifests });
}

/** The same bytes under another media type. */
export function readAs(content: Content, mediaType: string): Content {
  return { ...content, mediaType };
}

export function descriptorOf(content: Content): Descriptor {
  return { mediaType: content.mediaType, digest: content.digest, size: content.size };
}

/** All bytes at once: for content that is small. */
export function bytesOf(content: Content): Buffer {
  return Buffer.concat(Array.from(content.slice()));
}

/** With spaces that no program here would write, so that parsing and serializing changes the bytes. */
function jsonContent(mediaType: string, value: unknown): Content {
  return contentOf(`${JSON.stringify(value, null, 3)}\n`, mediaType);
}

/** AES in counter mode gives random access at a gigabyte a second. */
function* keystream(key: Buffer, start: number, end: number): Iterable<Buffer> {
  const counter = Buffer.alloc(AES_BLOCK_BYTES);
  counter.writeBigUInt64BE(BigInt(Math.floor(start / AES_BLOCK_BYTES)), 8);
  const cipher = createCipheriv('aes-128-ctr', key, counter);
  cipher.update(ZEROS.subarray(0, start % AES_BLOCK_BYTES));
  for (let at = start; at < end; at += PIECE_BYTES) {
    yield cipher.update(ZEROS.subarray(0, Math.min(PIECE_BYTES, end - at)));
  }
}
