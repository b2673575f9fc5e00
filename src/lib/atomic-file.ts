import { createWriteStream } from 'node:fs';
import { open, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { absentAsUndefined } from './error-code.ts';

/** Makes names that were added to or removed from a folder survive a power loss. */
export async function syncFolder(path: string): Promise<void> {
  await sync(path);
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

type Chunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/**
 * Writes what the user wants at `path`. A file, or the one behind a link, is replaced in one step: a reader sees the old
 * content or the new, also after a power loss, and what fails leaves the old. A device or a named pipe is written into,
 * and stays what it is.
 */
export async function writeFileAtomic(path: string, chunks: Chunks, signal?: AbortSignal): Promise<void> {
  const there = await absentAsUndefined(stat(path));
  if (there === undefined) await replaceFile(path, chunks, signal);
  else if (there.isFile()) await replaceFile(await realpath(path), chunks, signal);
  else await pipeline(chunks, createWriteStream(path), { signal });
}

async function replaceFile(path: string, chunks: Chunks, signal: AbortSignal | undefined): Promise<void> {
  const partial = `${path}.partial`;
  try {
    await pipeline(chunks, createWriteStream(partial), { signal });
    await sync(partial);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}
