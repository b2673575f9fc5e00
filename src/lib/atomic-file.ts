import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { lstat, open, readdir, readlink, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { absentAsUndefined, errorCode } from './error-code.ts';
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
  const partial = partialName(path);
  await removeAbandoned(path);
  writing.add(partial);
  try {
    await pipeline(chunks, createWriteStream(partial, { mode: PRIVATE_MODE }), { signal });
    await sync(partial);
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  } finally {
    writing.delete(partial);
  }
  await syncFolder(dirname(path));
}

/** Files that this process writes now. */
const writing = new Set<string>();

/** Who writes a file that is not whole yet: by `NAME.<host>.<pid>.<random>.partial` a later process knows what was left. */
export function partialName(path: string): string {
  return `${path}.${hostname()}.${process.pid}.${randomUUID().slice(0, 8)}.partial`;
}

/** On another machine, or in another container, nobody can see whether the writer lives; so long none stands still. */
const ABANDONED_AFTER_MS = 24 * 3_600_000;

/**
 * Removes what a killed process left of `path`, with what SQLite keeps beside a file of its own: its writer is gone, or has
 * not written for a day.
 */
export async function removeAbandoned(path: string): Promise<void> {
  const folder = dirname(path);
  const prefix = `${basename(path)}.`;
  const names = await absentAsUndefined(readdir(folder));
  if (names === undefined) {
    const text = `${path} cannot be written: there is no folder ${folder}`;
    throw Object.assign(new Error(text), { code: 'ENOENT', syscall: 'scandir' });
  }
  for (const name of names) {
    const [, host, pid] = name.startsWith(prefix)
      ? (/^(.+)\.(\d+)\.[0-9a-f]{8}\.partial(?:-wal|-shm|-journal)?$/.exec(name.slice(prefix.length)) ?? [])
      : [];
    const partial = join(folder, name);
    if (host === undefined || writing.has(partial)) continue;
    const isOver =
      host === hostname()
        ? !isAlive(Number(pid))
        : Date.now() - ((await absentAsUndefined(stat(partial)))?.mtimeMs ?? 0) > ABANDONED_AFTER_MS;
    if (isOver) await rm(partial, { force: true });
  }
}

/** A process of that number, other than this one: what this one writes it knows by itself. */
function isAlive(pid: number): boolean {
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) !== 'ESRCH';
  }
}
