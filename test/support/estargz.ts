// An image of one eStargz layer, for clients that pull lazily: a tar.gz whose every file is a gzip member of its own, with a
// table of contents behind them and its place in the last 51 bytes.
// https://github.com/containerd/stargz-snapshotter/blob/main/docs/estargz.md
import { createCipheriv, createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { digestOf, parseDigest } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_LAYER, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { type Content, contentOf, descriptorOf, type Image } from './content.ts';

export interface EstargzImage extends Image {
  readonly layer: Content;
  /** The name of each file, in the order of the layer. */
  readonly names: readonly string[];
  /** What is in a file. */
  contentOf(name: string): Buffer;
}

const BLOCK_BYTES = 512;
const PIECE_BYTES = 64 * 1024;
const TOC_NAME = 'stargz.index.json';
/** Says to clients that nothing has to be fetched ahead. */
const LANDMARK = '.no.prefetch.landmark';
const LANDMARK_CONTENT = Buffer.from([0xf]);
const END_OF_TAR = Buffer.alloc(2 * BLOCK_BYTES);
const PLATFORM = { os: 'linux', architecture: 'amd64' } as const;

/** `files` files of `fileBytes` random bytes each. Another seed gives other bytes. */
export function estargzImage(files: number, fileBytes: number, seed: string): EstargzImage {
  const names = Array.from({ length: files }, (_, at) => `f-${String(at).padStart(5, '0')}`);
  const bytesOfFile = (name: string) =>
    name === LANDMARK ? LANDMARK_CONTENT : randomBytesOf(`${seed} ${name}`, fileBytes);
  const { layer, diffId, tocDigest } = layerOf([LANDMARK, ...names], bytesOfFile);
  const config = contentOf(
    JSON.stringify({ ...PLATFORM, config: {}, rootfs: { type: 'layers', diff_ids: [diffId] } }),
    OCI_CONFIG,
  );
  const annotations = { 'containerd.io/snapshot/stargz/toc.digest': tocDigest };
  const manifest = contentOf(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: descriptorOf(config),
      layers: [{ ...descriptorOf(layer), annotations }],
    }),
    OCI_MANIFEST,
  );
  return { manifest, config, layers: [layer], layer, platform: PLATFORM, names, contentOf: bytesOfFile };
}

/** A part of the layer that is decompressed alone. Made anew when it is read, so that no layer is held in memory. */
interface Member {
  readonly start: number;
  readonly end: number;
  readonly make: () => Buffer;
}

function layerOf(names: readonly string[], bytesOfFile: (name: string) => Buffer) {
  const members: Member[] = [];
  const entries: object[] = [];
  const digest = createHash('sha256');
  const diffId = createHash('sha256');
  let size = 0;
  const add = (make: () => Buffer): void => {
    const bytes = make();
    digest.update(bytes);
    members.push({ start: size, end: size + bytes.length, make });
    size += bytes.length;
  };
  const addPart = (part: () => Buffer, compress = stored): void => {
    diffId.update(part());
    add(() => compress(part()));
  };
  for (const name of names) {
    const bytes = bytesOfFile(name);
    const fileDigest = digestOf(bytes);
    addPart(() => tarHeader(name, bytes.length));
    const place = { offset: size, digest: fileDigest, chunkDigest: fileDigest };
    entries.push({ name, type: 'reg', size: bytes.length, mode: 0o644, NumLink: 0, ...place });
    addPart(() => padded(bytesOfFile(name)));
  }
  const toc = Buffer.from(JSON.stringify({ version: 1, entries }, undefined, '\t'));
  const tocOffset = size;
  addPart(() => Buffer.concat([tarHeader(TOC_NAME, toc.length), padded(toc), END_OF_TAR]), gzipSync);
  add(() => footer(tocOffset));
  const slice = function* (start = 0, end = size): Iterable<Buffer> {
    for (const member of members) {
      if (member.end <= start || member.start >= end) continue;
      yield* pieces(member.make().subarray(Math.max(0, start - member.start), end - member.start));
    }
  };
  const layer: Content = {
    digest: parseDigest(`sha256:${digest.digest('hex')}`),
    size,
    mediaType: `${OCI_LAYER}+gzip`,
    slice,
  };
  return { layer, diffId: `sha256:${diffId.digest('hex')}`, tocDigest: digestOf(toc) };
}

function* pieces(bytes: Buffer): Iterable<Buffer> {
  for (let at = 0; at < bytes.length; at += PIECE_BYTES) yield bytes.subarray(at, at + PIECE_BYTES);
}

/** Random bytes do not compress: this is as small, and quick. */
function stored(bytes: Buffer): Buffer {
  return gzipSync(bytes, { level: 0 });
}

/** An empty gzip member with an extra field (RFC 1952, 2.3.1.1) that says where the table of contents begins. */
function footer(tocOffset: number): Buffer {
  const field = `${tocOffset.toString(16).padStart(16, '0')}STARGZ`;
  const subfield = Buffer.from(`SG\0\0${field}`, 'latin1');
  subfield.writeUInt16LE(field.length, 2);
  const header = Buffer.from([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, subfield.length, 0]);
  const emptyBlock = Buffer.from([1, 0, 0, 0xff, 0xff]);
  return Buffer.concat([header, subfield, emptyBlock, Buffer.alloc(8)]);
}

/** A regular file's (POSIX ustar). */
function tarHeader(name: string, size: number): Buffer {
  const header = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, at: number, digits: number) =>
    header.write(value.toString(8).padStart(digits, '0'), at);
  header.write(name, 0);
  octal(0o644, 100, 7);
  octal(0, 108, 7);
  octal(0, 116, 7);
  octal(size, 124, 11);
  octal(0, 136, 11);
  header.fill(' ', 148, 156);
  header.write('0', 156);
  header.write('ustar\x0000', 257, 'latin1');
  octal(
    header.reduce((sum, byte) => sum + byte, 0),
    148,
    6,
  );
  header[154] = 0;
  return header;
}

function padded(bytes: Buffer): Buffer {
  const over = bytes.length % BLOCK_BYTES;
  return over === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(BLOCK_BYTES - over)]);
}

function randomBytesOf(seed: string, size: number): Buffer {
  const key = createHash('sha256').update(seed).digest().subarray(0, 16);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size));
}
