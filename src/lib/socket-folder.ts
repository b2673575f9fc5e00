import { randomBytes } from 'node:crypto';
import { type FileHandle, chmod, mkdir, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { absentAsUndefined, errorCode } from './error-code.ts';
import { PRIVATE_FILE_MODE, PRIVATE_FOLDER_MODE } from './private-folder.ts';

/**
 * A folder of Unix sockets: each process that serves a store listens on one of its own, so there can be several, and one
 * that takes over from another needs nothing of the other's.
 *
 *     <folder>/<16 hex digits>.sock    mode 0600, in a folder with mode 0700
 */

/** The name of the folder within a store. */
export const SOCKET_FOLDER = 'sockets';

const NAME = /^[0-9a-f]{16}\.sock$/;
const NAME_BYTES = 8;

/** The maximum length of a socket's address (`sun_path`), without its terminator: 108 bytes on Linux, 104 elsewhere. */
const MAX_PATH_BYTES = process.platform === 'linux' ? 107 : 103;

/** Between its creation and listening a socket answers nobody, for a moment; an older one has no process. */
const STALE_AFTER_MS = 10_000;

/** Every killed process leaves one, which is checked once. */
const MAX_LOOKED_AT = 1000;

const OTHERS_WRITE = 0o022;

export interface FolderSocket {
  /** Stops listening and removes the socket. */
  close(): Promise<void>;
}

/**
 * Makes `server` listen on a new socket in `folder`, which is created if necessary. Removes sockets whose process is
 * gone. Rejects, and does not listen, if the file system has no sockets, or if the path is too long and there is no /proc.
 */
export async function listenInFolder(server: Server, folder: string): Promise<FolderSocket> {
  await mkdir(folder, { recursive: true, mode: PRIVATE_FOLDER_MODE });
  const name = `${randomBytes(NAME_BYTES).toString('hex')}.sock`;
  const reach = await Reach.open(folder);
  try {
    await removeStale(folder, reach);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ path: reach.path(name) }, () => {
        server.removeListener('error', reject);
        // Of a connection that could not be accepted.
        server.on('error', () => {});
        resolve();
      });
    });
    await chmod(join(folder, name), PRIVATE_FILE_MODE);
  } catch (error) {
    server.close();
    await reach.close();
    throw error;
  }
  return {
    async close() {
      await new Promise<void>(resolve => void server.close(() => resolve()));
      await rm(join(folder, name), { force: true });
      await reach.close();
    },
  };
}

/**
 * Calls `use` with the path of each socket in `folder` on which somebody listens, newest first, until it returns
 * something; and with the user to whom the sockets belong, unless others could have put some there. `undefined` if
 * `use` returns nothing, or the folder does not exist.
 */
export async function askInFolder<T>(
  folder: string,
  use: (path: string, uid: number | undefined) => Promise<T | undefined>,
): Promise<T | undefined> {
  // By a handle, so that it stays the same folder even if it is renamed.
  const reach = await absentAsUndefined(Reach.open(folder, { byHandle: process.platform === 'linux' }));
  if (reach === undefined) return undefined;
  try {
    for (const { name } of await socketNames(reach.base)) {
      const path = reach.path(name);
      const answer = (await isAnswering(path)) ? await use(path, reach.uid) : undefined;
      if (answer !== undefined) return answer;
    }
    return undefined;
  } finally {
    await reach.close();
  }
}

/** Listening sockets of this network namespace, one per line: `00000000: refs 00000000 flags type state inode path`. */
const LISTENING = /^[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ 00010000 0001 01 +\d+ (\/.+)$/;

/**
 * The folders named SOCKET_FOLDER with sockets on which somebody listens on this machine, whoever that is. Empty on
 * systems that do not tell, which are all but Linux. Sockets that are reached by a short path are not included.
 */
export async function socketFoldersHere(): Promise<readonly string[]> {
  const lines = (await absentAsUndefined(readFile('/proc/net/unix', 'utf8')))?.split('\n') ?? [];
  const folders = lines.flatMap(line => {
    const [, path = ''] = LISTENING.exec(line) ?? [];
    const isOurs = NAME.test(basename(path)) && basename(dirname(path)) === SOCKET_FOLDER;
    return isOurs && !path.startsWith('/proc/') ? [dirname(path)] : [];
  });
  return [...new Set(folders)];
}

async function removeStale(folder: string, reach: Reach): Promise<void> {
  for (const { name, madeAtMs } of await socketNames(folder)) {
    if (Date.now() - madeAtMs < STALE_AFTER_MS || (await isAnswering(reach.path(name)))) continue;
    await rm(join(folder, name), { force: true });
  }
}

/** Newest first. */
async function socketNames(folder: string): Promise<{ readonly name: string; readonly madeAtMs: number }[]> {
  const names = ((await absentAsUndefined(readdir(folder))) ?? []).filter(name => NAME.test(name));
  const found = await Promise.all(
    names.slice(0, MAX_LOOKED_AT).map(async name => {
      const there = await absentAsUndefined(stat(join(folder, name)));
      return there?.isSocket() ? [{ name, madeAtMs: there.mtimeMs }] : [];
    }),
  );
  return found.flat().sort((one, other) => other.madeAtMs - one.madeAtMs);
}

function isAnswering(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // After any other error somebody may be listening.
    socket.once('error', error => resolve(!['ECONNREFUSED', 'ENOENT'].includes(errorCode(error) ?? '')));
  });
}

/** How to address the sockets of a folder: by a short path if the real one is too long. */
class Reach {
  readonly base: string;
  /** The only user who can put sockets there. */
  readonly uid: number | undefined;
  readonly #handle: FileHandle;

  private constructor(base: string, uid: number | undefined, handle: FileHandle) {
    this.base = base;
    this.uid = uid;
    this.#handle = handle;
  }

  /** `byHandle`: by a path to this very folder, even if its own path is short enough. */
  static async open(folder: string, { byHandle = false } = {}): Promise<Reach> {
    const longest = join(folder, `${'0'.repeat(2 * NAME_BYTES)}.sock`);
    const isShort = Buffer.byteLength(longest) <= MAX_PATH_BYTES;
    if (!isShort && process.platform !== 'linux') {
      throw new Error(`${longest} is longer than the ${MAX_PATH_BYTES} bytes of a socket address`);
    }
    const handle = await open(folder, 'r');
    const { uid, mode } = await handle.stat();
    const base = isShort && !byHandle ? folder : `/proc/self/fd/${handle.fd}`;
    return new Reach(base, (mode & OTHERS_WRITE) === 0 ? uid : undefined, handle);
  }

  path(name: string): string {
    return join(this.base, name);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}
