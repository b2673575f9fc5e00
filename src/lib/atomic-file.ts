import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { lstat, open, readlink, rename, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { absentAsUndefined } from './error-code.ts';
import { openPipe } from './named-pipe.ts';

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

/** Bundles and lists of what is held may tell of private content; whoever may read them is for their owner to say. */
const PRIVATE_MODE = 0o600;

type Chunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/**
 * Writes what the user wants at `path`. A file, or the one behind a link, is replaced in one step: a reader sees the old
 * content or the new, also after a power loss, and what fails leaves the old; it is its owner's alone. A device or a named pipe is written into,
 * and stays what it is.
 */
export async function writeFileAtomic(
  path: string,
  chunks: Chunks,
  signal: AbortSignal = new AbortController().signal,
): Promise<void> {
  const there = await absentAsUndefined(stat(path));
  if (there === undefined || there.isFile()) await replaceFile(await behindLinks(path), chunks, signal);
  else if (there.isFIFO()) await pipeline(chunks, await openPipe(path, signal), { signal });
  else await pipeline(chunks, createWriteStream(path), { signal });
}

/** What a path means, also where nothing is there yet. The path is known to lead somewhere in the end. */
async function behindLinks(path: string): Promise<string> {
  const there = await absentAsUndefined(lstat(path));
  return there?.isSymbolicLink() ? behindLinks(resolve(dirname(path), await readlink(path))) : path;
}

async function replaceFile(path: string, chunks: Chunks, signal: AbortSignal): Promise<void> {
  // Of one's own: of two that write at once, the last to end wins, with a whole file.
  const partial = `${path}.${randomUUID()}.partial`;
  try {
    await pipeline(chunks, createWriteStream(partial, { mode: PRIVATE_MODE }), { signal });
    await sync(partial);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}
