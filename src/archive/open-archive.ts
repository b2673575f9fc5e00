import { createReadStream, type Stats } from 'node:fs';
import { lstat, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import * as zlib from 'node:zlib';
import { errorCode } from '../lib/error-code.ts';
import { fileTrouble } from '../lib/file-trouble.ts';
import { readPipe } from '../lib/named-pipe.ts';
import { ArchiveError } from './archive-error.ts';
import { dockerArchiveError, LAYOUT_INDEX_FILE, isDockerFile, LAYOUT_FILE } from './layout.ts';
import { readTar } from './tar.ts';

/** A file of an image layout. The body must be read to its end, or the iteration ended. */
export interface ArchiveEntry {
  /** Relative, normalized, with slashes: safe to compare and to print. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly body: AsyncIterable<Uint8Array>;
}

/** Some thousands are usual. Their names are remembered, to detect duplicates. */
const MAX_ENTRIES = 250_000;
/** The longest name in a layout, of a sha512 blob, has 141 characters. */
const MAX_NAME_LENGTH = 1024;
/**
 * The maximum ratio of decompressed to compressed size. Layers hardly shrink a second time; tars of uncompressed layers
 * shrink to a third; a decompression bomb is some thousand times larger.
 */
const MAX_EXPANSION = 200;
/** The ratio is checked only beyond this size: a small archive may begin with many zeros. */
const EXPANSION_ALLOWANCE_BYTES = 64 * 1024 * 1024;
/** How much is read from the disk at a time. */
const READ_BYTES = 1024 * 1024;
const MAGIC_BYTES = 4;

/** The files of a layout in the folder or tar `path`. `signal` ends waiting for a named pipe without data. */
export async function* openArchive(
  path: string,
  signal: AbortSignal = new AbortController().signal,
): AsyncGenerator<ArchiveEntry, void> {
  const found = await stat(path).catch((error: unknown) => {
    throw new ArchiveError(`it cannot be read: ${fileTrouble(error)}`, { cause: error });
  });
  if (found.isDirectory()) yield* readFolder(path);
  else if (found.isFIFO()) yield* readArchive(readPipe(path, signal));
  else yield* readArchive(createReadStream(path, { highWaterMark: READ_BYTES }));
}

/**
 * The files of a tar, optionally compressed with gzip or zstd. Throws ArchiveError if it contains anything but files
 * and folders with plain names.
 */
export async function* readArchive(source: AsyncIterable<Uint8Array>): AsyncGenerator<ArchiveEntry, void> {
  const names = new Set<string>();
  let count = 0;
  for await (const { name: raw, type, size, body } of readTar(decompressed(source))) {
    count += 1;
    if (count > MAX_ENTRIES) throw new ArchiveError(`it has more than ${MAX_ENTRIES} files`);
    if (type === 'directory') {
      plainName(raw.replace(/\/+$/, ''));
      continue;
    }
    const name = plainName(raw);
    if (type !== 'file' && type !== 'contiguous-file') {
      if (type === 'symlink' && isDockerFile(name)) throw dockerArchiveError();
      throw new ArchiveError(`${quote(name)} is a ${type}; an image layout may contain only files`);
    }
    if (names.has(name)) throw new ArchiveError(`${quote(name)} occurs twice`);
    names.add(name);
    yield { name, size, body };
  }
}

async function* readFolder(folder: string): AsyncGenerator<ArchiveEntry, void> {
  for (const name of [LAYOUT_FILE, LAYOUT_INDEX_FILE]) yield* readFile(folder, name);
  for (const algorithm of await namesIn(folder, 'blobs')) {
    for (const hex of await namesIn(folder, `blobs/${algorithm}`)) {
      yield* readFile(folder, `blobs/${algorithm}/${hex}`);
    }
  }
}

async function* readFile(folder: string, name: string): AsyncGenerator<ArchiveEntry, void> {
  const path = join(folder, name);
  const found = await lookUp(path, name);
  if (found === undefined) return;
  if (!found.isFile())
    throw new ArchiveError(`${quote(name)} is not a file; an image layout may contain only files`);
  yield { name, size: found.size, body: bytesOf(path) };
}

/** Opened when it is read: an earlier error would have no handler. */
async function* bytesOf(path: string): AsyncGenerator<Uint8Array, void> {
  yield* createReadStream(path, { highWaterMark: READ_BYTES });
}

/** The names in a folder of the layout; none if it does not exist. Links are refused, since they could lead outside. */
async function namesIn(folder: string, name: string): Promise<string[]> {
  const path = join(folder, name);
  const found = await lookUp(path, name);
  if (found?.isSymbolicLink()) {
    throw new ArchiveError(`${quote(name)} is a link; an image layout may contain only folders and files`);
  }
  if (found?.isDirectory() !== true) return [];
  const names = await readdir(path).catch((error: unknown) => {
    throw unreadable(name, error);
  });
  return names.sort();
}

/** What is at `path`, itself and not what a link leads to; `undefined` if nothing is. */
async function lookUp(path: string, name: string): Promise<Stats | undefined> {
  try {
    return await lstat(path);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw unreadable(name, error);
  }
}

function unreadable(name: string, error: unknown): ArchiveError {
  return new ArchiveError(`${quote(name)} cannot be read: ${fileTrouble(error)}`, { cause: error });
}

/**
 * Checks a file name: a plain path below the root of the layout. It is never used as a path here, but other programs
 * may unpack what we accept.
 */
function plainName(raw: string): string {
  const name = raw.replace(/^(?:\.\/)+/, '');
  if (name.length > MAX_NAME_LENGTH) throw new ArchiveError('a file in it has a name that is too long');
  const isPlain =
    !/[\\\p{Cc}]/u.test(name) &&
    (name === '' ||
      name === '.' ||
      name.split('/').every(part => part !== '' && part !== '.' && part !== '..'));
  if (!isPlain) throw new ArchiveError(`${quote(raw)} is not a valid file name in an image layout`);
  return name;
}

async function* decompressed(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  const iterator = source[Symbol.asyncIterator]();
  let start = Buffer.alloc(0);
  while (start.length < MAGIC_BYTES) {
    const { done, value } = await iterator.next();
    if (done) break;
    start = Buffer.concat([start, value]);
  }
  const whole = rejoined(start, iterator);
  const decompressor = decompressorFor(start);
  if (decompressor === undefined) yield* whole;
  else yield* inflated(whole, decompressor);
}

async function* rejoined(
  start: Uint8Array,
  rest: AsyncIterator<Uint8Array>,
): AsyncGenerator<Uint8Array, void> {
  try {
    yield start;
    for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value;
  } finally {
    await rest.return?.();
  }
}

function decompressorFor(start: Buffer): Transform | undefined {
  const magic = start.subarray(0, MAGIC_BYTES).toString('hex');
  if (magic.startsWith('1f8b')) return zlib.createGunzip({ chunkSize: READ_BYTES });
  if (magic !== '28b52ffd') return undefined;
  const create: unknown = Reflect.get(zlib, 'createZstdDecompress');
  if (typeof create !== 'function') {
    throw new ArchiveError(
      `it is compressed with zstd, which Node ${process.versions.node} cannot read: ` +
        'use Node 22.15 or newer, or pipe it through `zstd -dc`',
    );
  }
  return create({ chunkSize: READ_BYTES });
}

async function* inflated(
  source: AsyncIterable<Uint8Array>,
  decompressor: Transform,
): AsyncGenerator<Uint8Array, void> {
  let inBytes = 0;
  let outBytes = 0;
  const counted = async function* () {
    for await (const chunk of source) {
      inBytes += chunk.byteLength;
      yield chunk;
    }
  };
  // A failure also ends the decompressor, which reports it.
  const pumping = pipeline(counted, decompressor).catch(() => {});
  try {
    for await (const chunk of decompressor) {
      outBytes += chunk.byteLength;
      if (outBytes > EXPANSION_ALLOWANCE_BYTES && outBytes > inBytes * MAX_EXPANSION) {
        throw new ArchiveError(`it expands to more than ${MAX_EXPANSION} times its size`);
      }
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ArchiveError) throw error;
    throw new ArchiveError(
      `it cannot be decompressed: ${error instanceof Error ? error.message : String(error)}`,
    );
  } finally {
    decompressor.destroy();
    await pumping;
  }
}

function quote(name: string): string {
  return JSON.stringify(name.slice(0, 200));
}
