import { randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { chmod, lstat, open, readdir, readlink, rename, rm, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { absentAsUndefined, errorCode } from './error-code.ts';
import { fileTrouble } from './file-trouble.ts';
import { openPipe } from './named-pipe.ts';

/** Syncs a folder, so that added and removed names survive a power failure. */
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

/** Bundles and lists may reveal private content: their owner has to decide who may read them. */
const PRIVATE_MODE = 0o600;

export interface AtomicWriteOptions {
  readonly signal?: AbortSignal | undefined;
  /** The permissions of a regular file, whatever the umask. Default: only its owner may read it. */
  readonly mode?: number | undefined;
}

type Chunks = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/**
 * Writes a file at `path`. A regular file, or the target of a link, is replaced in one step: readers see the old
 * content or the new, even after a power failure, and a failed write leaves the old. A device or a named pipe is written
 * to instead.
 */
export async function writeFileAtomic(
  path: string,
  chunks: Chunks,
  { signal = new AbortController().signal, mode = PRIVATE_MODE }: AtomicWriteOptions = {},
): Promise<void> {
  const source = new Source(chunks);
  try {
    const there = await absentAsUndefined(stat(path));
    if (there?.isDirectory() === true)
      throw unwritable(path, 'it is a folder', { code: 'EISDIR', syscall: 'open' });
    const isRegular = there === undefined || there.isFile();
    if (isRegular) await replaceFile(await behindLinks(path), source, { signal, mode });
    else if (there.isFIFO()) await pipeline(source, await openPipe(path, signal), { signal });
    else await pipeline(source, createWriteStream(path), { signal });
  } catch (error) {
    const isOurs = error !== source.failure && isOfFile(error);
    throw isOurs ? unwritable(path, fileTrouble(error), error) : error;
  }
}

/** The chunks, with the error that ended them: it may be one of another file, which they are read from. */
class Source {
  failure: unknown;
  readonly #chunks: Chunks;

  constructor(chunks: Chunks) {
    this.#chunks = chunks;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void> {
    try {
      for await (const chunk of this.#chunks) yield chunk;
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }
}

/**
 * For an error that names no file, as of a write to an open one, or the incomplete file instead of the one that the
 * user has named.
 */
function isOfFile(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && !(error instanceof Unwritable);
}

class Unwritable extends Error {
  override readonly name = 'Unwritable';
}

function unwritable(
  path: string,
  why: string,
  { code, syscall, errno }: Pick<NodeJS.ErrnoException, 'code' | 'syscall' | 'errno'>,
): Error {
  return Object.assign(new Unwritable(`${path} cannot be written: ${why}`), { code, syscall, errno });
}

/** The path behind symbolic links, even if nothing exists there yet. */
async function behindLinks(path: string): Promise<string> {
  const there = await absentAsUndefined(lstat(path));
  return there?.isSymbolicLink() ? behindLinks(resolve(dirname(path), await readlink(path))) : path;
}

async function replaceFile(
  path: string,
  chunks: Chunks,
  { signal, mode }: { readonly signal: AbortSignal; readonly mode: number },
): Promise<void> {
  // A name of its own: of two concurrent writers the last one wins, with a complete file.
  const partial = partialName(path);
  await removeAbandoned(path);
  writing.add(partial);
  try {
    // Opened first: a stream that is still opening its file when it is destroyed would create it after its removal.
    const file = await open(partial, 'w', PRIVATE_MODE);
    await pipeline(chunks, file.createWriteStream(), { signal });
    if (mode !== PRIVATE_MODE) await chmod(partial, mode);
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

/** Files that this process is writing. */
const writing = new Set<string>();

/**
 * The name of an incomplete file, `NAME.<host>.<pid>.<random>.partial`, by which a later process recognizes what was
 * left.
 */
export function partialName(path: string): string {
  return `${path}.${hostname()}.${process.pid}.${randomUUID().slice(0, 8)}.partial`;
}

/** Whether the writer is alive cannot be seen from another machine or container; no writer pauses for this long. */
const ABANDONED_AFTER_MS = 24 * 3_600_000;

/**
 * Removes what killed processes left of `path`, including SQLite's files beside it: their writer is gone, or has not
 * written for `afterMs` (a day).
 */
export async function removeAbandoned(path: string, afterMs: number = ABANDONED_AFTER_MS): Promise<void> {
  const folder = dirname(path);
  const prefix = `${basename(path)}.`;
  const names = await absentAsUndefined(readdir(folder));
  if (names === undefined) {
    throw unwritable(path, `there is no folder ${folder}`, { code: 'ENOENT', syscall: 'scandir' });
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
        : Date.now() - ((await absentAsUndefined(stat(partial)))?.mtimeMs ?? 0) > afterMs;
    if (isOver) await rm(partial, { force: true });
  }
}

/** Whether there is such a process, other than this one, which knows its own files. */
function isAlive(pid: number): boolean {
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errorCode(error) !== 'ESRCH';
  }
}
