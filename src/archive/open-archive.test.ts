import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import * as zlib from 'node:zlib';
import { expect, test } from 'vitest';
import { bytesOf, imageOf, randomBlob } from '../../test/support/content.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { filesOf, layoutFiles, tarOf } from './archive.fixture.ts';
import { openArchive } from './open-archive.ts';

const canReadZstd = 'createZstdDecompress' in zlib;
const BLOCK_BYTES = 128 * 1024;

/** A frame of zstd that holds `bytes` as they are (RFC 8878 §3.1.1), as this Node may have no compressor either. */
function zstdOf(bytes: Buffer): Buffer {
  // The magic number, a frame without size or checksum, a window of 1 MiB.
  const parts: Buffer[] = [Buffer.from('28b52ffd0050', 'hex')];
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
    const block = bytes.subarray(at, at + BLOCK_BYTES);
    const header = Buffer.alloc(3);
    header.writeUIntLE(block.length * 8 + Number(at + BLOCK_BYTES >= bytes.length), 0, 3);
    parts.push(header, block);
  }
  return Buffer.concat(parts);
}

const image = imageOf([randomBlob(300_000, 'layer')]);
const compressed = async () => zstdOf(await tarOf(layoutFiles(image, 'docker.io/library/app:v1')));

test('an archive can be read from a named pipe, and the signal ends waiting for an empty one', async () => {
  const folder = await makeTempFolder('pipe');
  try {
    const path = join(folder, 'pipe');
    execFileSync('mkfifo', [path]);
    const namesIn = async (signal?: AbortSignal) => {
      const names: string[] = [];
      for await (const { name, body } of openArchive(path, signal)) {
        await buffer(body);
        names.push(name);
      }
      return names;
    };
    const files = layoutFiles(image, 'docker.io/library/app:v1');
    const [names] = await Promise.all([namesIn(), writeFile(path, await tarOf(files))]);
    expect(names).toEqual(files.map(({ name }) => name));
    const stopping = new AbortController();
    setImmediate(() => stopping.abort());
    await expect(namesIn(stopping.signal)).rejects.toThrow('aborted');
  } finally {
    await removeFolder(folder);
  }
});

test('what the system cannot look up in a folder is not taken for absent', async () => {
  const folder = await makeTempFolder('deep');
  try {
    let path = folder;
    // As long as a path may be, so that it can be opened, and nothing in it.
    while (path.length < 4_090) path = join(path, 'x'.repeat(Math.min(255, 4_094 - path.length)));
    await mkdir(path, { recursive: true });
    await expect(openArchive(path).next()).rejects.toThrow(/"oci-layout" cannot be read: ENAMETOOLONG/);
  } finally {
    await removeFolder(folder);
  }
});

test.each([
  ['a short text', Buffer.from('kind: Pod\n')],
  ['a long text', Buffer.from('kind: Pod\n'.repeat(1000))],
])('%s is not taken for a damaged tar', async (_, text) => {
  await expect(filesOf(text)).rejects.toThrow('it is not a tar archive');
});

const itIsRead = async (archive: Buffer): Promise<void> => {
  const files = await filesOf(archive);
  expect(files.get(`blobs/sha256/${image.manifest.digest.slice(7)}`)).toEqual(bytesOf(image.manifest));
  // Node 22 leaves it to the tar to notice that something is missing.
  await expect(filesOf(archive.subarray(0, 200_000))).rejects.toThrow(/cannot be decompressed|truncated/);
};
const itIsRefused = async (archive: Buffer): Promise<void> => {
  await expect(filesOf(archive)).rejects.toThrow(/Node 22\.15 or newer, or pipe it through `zstd -dc`/);
};

// oxlint-disable-next-line vitest/expect-expect -- either check asserts
test.each([
  canReadZstd
    ? { outcome: 'read, and refused when it ends early', check: itIsRead }
    : { outcome: 'refused with the way out, as this Node cannot read it', check: itIsRefused },
])('an archive that zstd has compressed is $outcome', async ({ check }) => {
  await check(await compressed());
});
