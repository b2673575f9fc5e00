import { randomUUID } from 'node:crypto';
import { open, rename, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFolder } from '../lib/atomic-file.ts';
import { errorCode } from '../lib/error-code.ts';
import { installFault } from '../lib/install-fault.ts';
import { makeFolder } from '../lib/make-folder.ts';
import { PRIVATE_FILE_MODE, PRIVATE_FOLDER_MODE } from '../lib/private-folder.ts';
import { IndexUnusable } from './index-unusable.ts';
import { Database } from './sqlite/driver.ts';

/** Errors of a full disk, which is no reason to refuse: what is stored can be served. */
const FULL: ReadonlySet<string | undefined> = new Set([
  'ENOSPC',
  'EDQUOT',
  'SQLITE_FULL',
  'SQLITE_IOERR_SHMSIZE',
]);

/**
 * With less free space nothing is probed: if there is no space for shared memory, SQLite can create its file but
 * writing to it kills the process (SIGBUS).
 */
const PROBE_BYTES = 1024 * 1024;

const LOCAL = 'put storage.path on a local file system';

/** File systems that several machines can access, by the number that Linux has for them (statfs(2)). */
const NETWORK_FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0x6969, 'NFS'],
  [0x517b, 'SMB'],
  [0xfe534d42, 'SMB'],
  [0xff534d42, 'CIFS'],
  [0x01021997, '9p'],
  [0x00c36400, 'Ceph'],
  [0x5346414f, 'AFS'],
  [0x0bd00bd0, 'Lustre'],
  [0x47504653, 'GPFS'],
]);

/**
 * Why the folder `path`, which is created if necessary, cannot hold a store; `undefined` if it can. Writes, syncs and
 * renames a file there, locks it and maps shared memory with SQLite, as for the index. Otherwise a file system without
 * one of these would fail in the middle of the work, or after ten seconds of waiting for a lock.
 */
export async function storageFault(path: string): Promise<IndexUnusable | undefined> {
  const probe = join(path, `.probe-${randomUUID()}`);
  const steps: readonly (readonly [fault: string, step: () => Promise<void> | void])[] = [
    ['the folder cannot be created', () => makeFolder(path, PRIVATE_FOLDER_MODE)],
    ['files cannot be written there', () => write(probe)],
    ['files cannot be renamed there', () => rename(`${probe}.new`, probe)],
    ['the folder cannot be synced', () => syncFolder(path)],
    [`its file system does not support the locks that SQLite needs: ${LOCAL}`, () => lock(probe)],
    [`its file system does not support shared memory for SQLite: ${LOCAL}`, () => share(probe)],
  ];
  try {
    for (const [fault, step] of steps) {
      if ((await freeBytes(path)) < PROBE_BYTES) return undefined;
      const error = await failureOf(step);
      if (error === undefined) continue;
      if (FULL.has(errorCode(error)) || installFault(error) !== undefined) return undefined;
      return new IndexUnusable(`${path} (storage.path) cannot hold a store: ${fault} (${error.message})`, {
        cause: error,
      });
    }
    return undefined;
  } finally {
    await Promise.all(
      ['', '.new', '-wal', '-shm', '-journal'].map(end => rm(probe + end, { force: true }).catch(() => {})),
    );
  }
}

/** The kind of network file system that `path` is on; `undefined` for a local one, or if unknown. */
export async function networkFileSystem(path: string): Promise<string | undefined> {
  const { type } = await statfs(path);
  // A number with its highest bit set is negative on some machines.
  return NETWORK_FILE_SYSTEMS.get(type >>> 0);
}

/** Infinity if the folder does not exist yet, or its file system has no size, like /proc. */
async function freeBytes(path: string): Promise<number> {
  const found = await statfs(path).catch(() => undefined);
  return found === undefined || found.blocks === 0 ? Number.POSITIVE_INFINITY : found.bavail * found.bsize;
}

async function failureOf(step: () => Promise<void> | void): Promise<Error | undefined> {
  try {
    await step();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

/** Writes nothing, which SQLite takes for an empty database. */
async function write(probe: string): Promise<void> {
  const file = await open(`${probe}.new`, 'wx', PRIVATE_FILE_MODE);
  try {
    await file.write('x');
    await file.truncate(0);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Nobody else has the file, so a lock that is taken means that locks do not work. */
function lock(probe: string): void {
  const database = new Database(probe, { timeout: 0 });
  try {
    database.pragma('journal_mode = MEMORY');
    database.exec('BEGIN EXCLUSIVE; COMMIT');
  } finally {
    database.close();
  }
}

function share(probe: string): void {
  const database = new Database(probe, { timeout: 0 });
  try {
    // The file was synced already, and its content does not matter.
    database.pragma('synchronous = OFF');
    const mode = database.pragma('journal_mode = WAL', { simple: true });
    if (mode !== 'wal') throw new Error(`SQLite remains in mode ${String(mode)}`);
    database.exec('CREATE TABLE probe (a)');
  } finally {
    database.close();
  }
}
