// Where the stores of tests have their blobs: with TEST_STORAGE=s3 in a bucket of the fake S3, with TEST_STORAGE=ceph in
// one of Ceph, which the whole run shares, and otherwise in their folders. With TEST_INDEX=postgres their indexes are in a
// PostgreSQL that the whole run shares.
import { createHash } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, join, relative } from 'node:path';
import { absentAsUndefined } from '../../src/lib/error-code.ts';
import { Ceph } from './ceph.ts';
import { FakeS3 } from './fake-s3.ts';
import { inConfig, Postgres } from './postgres.ts';

const STORAGE = process.env['TEST_STORAGE'] ?? '';
const INDEX = process.env['TEST_INDEX'] ?? '';
/** Say how Ceph and PostgreSQL are reached, to the processes of the tests. */
const CEPH = 'TEST_CEPH';
const POSTGRES = 'TEST_POSTGRES';
/** Servers of all tests that run beside each other, and their commands. */
const POSTGRES_CONNECTIONS = '500';

let fake: Promise<FakeS3> | undefined;

/** The `storage` of a configuration for the store at `path`, which has a prefix of its own; `folder`: of the configuration. */
export async function storageOf(path: string, folder: string): Promise<object> {
  const prefix = prefixOf(path);
  if (STORAGE === 'ceph') return { s3: { ...JSON.parse(process.env[CEPH] ?? '{}'), prefix } };
  if (STORAGE !== 's3') return {};
  return { s3: await (await (fake ??= FakeS3.start())).config(folder, prefix) };
}

/** The `index` of a configuration for the store at `path`, which has a schema of its own. */
export function indexOf(path: string): object {
  if (INDEX !== 'postgres') return {};
  return { postgres: { ...JSON.parse(process.env[POSTGRES] ?? '{}'), schema: `store_${nameOf(path)}` } };
}

/** A blob in the folder or bucket of a store, whether or not the index knows of it. */
export interface KeptBlob {
  /** What its name says. */
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  /** Of its object, as in the index; null if it is a file. */
  readonly key: string | null;
  read(): Promise<Uint8Array>;
  /** Rejects if it is gone. */
  overwrite(bytes: Buffer): Promise<void>;
}

/** The blobs of the store at `path`, unless they are in Ceph. */
export async function keptBlobs(path: string): Promise<readonly KeptBlob[]> {
  if (STORAGE !== 's3') return filesOf(join(path, 'blobs'));
  const { objects } = await (fake ??= FakeS3.start());
  const prefix = prefixOf(path);
  return [...objects].flatMap(([name, { bytes }]) => {
    const key = name.slice(prefix.length);
    const [folder, algorithm, hex] = key.split('/');
    if (!name.startsWith(prefix) || folder !== 'blobs') return [];
    return {
      digest: `${algorithm}:${hex}`,
      size: bytes.length,
      key,
      read: async () => bytes,
      overwrite: async other => {
        if (!objects.has(name)) throw new Error(`no ${name}`);
        objects.set(name, { bytes: other, modifiedAtMs: Date.now() });
      },
    };
  });
}

async function filesOf(folder: string): Promise<readonly KeptBlob[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  const files = entries.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name));
  const blobs = files.map(async file => {
    const found = await absentAsUndefined(stat(file));
    if (found === undefined) return [];
    return {
      digest: `${relative(folder, file).split('/')[0]}:${basename(file)}`,
      size: found.size,
      key: null,
      read: () => readFile(file),
      overwrite: (bytes: Buffer) => writeFile(file, bytes, { flag: 'r+' }),
    };
  });
  return (await Promise.all(blobs)).flat();
}

function prefixOf(path: string): string {
  return `${nameOf(path)}/`;
}

function nameOf(path: string): string {
  return createHash('sha256').update(path).digest('hex').slice(0, 16);
}

/** Vitest's global setup. */
export async function setup(): Promise<() => Promise<void>> {
  const ceph = STORAGE === 'ceph' ? await Ceph.start() : undefined;
  if (ceph !== undefined) process.env[CEPH] = JSON.stringify(ceph.config(''));
  const parameters = { max_connections: POSTGRES_CONNECTIONS };
  const postgres = INDEX === 'postgres' ? await Postgres.start({ parameters }) : undefined;
  if (postgres !== undefined) process.env[POSTGRES] = JSON.stringify(inConfig(postgres.settings()));
  return async () => {
    await ceph?.stop();
    await postgres?.remove();
  };
}
