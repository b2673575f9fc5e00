import { readdir, stat } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { errorCode } from '../lib/error-code.ts';
import { readTextFile, UnreadableFile } from '../lib/text-file.ts';
import { MAX_SECRET_BYTES, MalformedSecret, parsePullSecretText } from './secret.ts';
import { MAX_SECRETS_PER_FILE, parseSecretManifests } from './secret-manifest.ts';
import type { SecretReading } from './secret-source.ts';

/** A file with Secrets. */
export interface SecretFile {
  readonly path: string;
  /** The name of the Secret if the file does not contain one. */
  readonly name: string;
  /** How to read its text: a manifest contains complete Secrets, the others the data of one. */
  readonly type: 'manifest' | 'kubernetes.io/dockerconfigjson' | 'kubernetes.io/dockercfg';
}

/** What was found at a path of the configuration. */
export interface FoundSecretFiles {
  /** What is at the path; `undefined` for nothing. */
  readonly kind: 'file' | 'folder' | undefined;
  readonly files: readonly SecretFile[];
  /** Folders in which a change may change what is found. */
  readonly folders: readonly string[];
}

/** By the file name under which the kubelet mounts them. Docker's own file has the same format as the first. */
const MOUNTED: ReadonlyMap<string, SecretFile['type']> = new Map([
  ['.dockerconfigjson', 'kubernetes.io/dockerconfigjson'],
  ['.dockercfg', 'kubernetes.io/dockercfg'],
  ['config.json', 'kubernetes.io/dockerconfigjson'],
]);

const MANIFEST_EXTENSIONS: ReadonlySet<string> = new Set(['.yaml', '.yml', '.json']);

/** base64 takes a third more, and a file may contain several Secrets. */
const MAX_MANIFEST_BYTES = 4 * MAX_SECRET_BYTES;

/** Coarser than the timestamps of any relevant file system. */
const SETTLED_MS = 3_000;

/**
 * The files at `path`: a manifest; the data of one mounted Secret; a folder as the kubelet mounts a Secret; or a folder
 * of manifests and of such folders, ordered by name. Empty if there is nothing.
 */
export async function findSecretFiles(path: string): Promise<FoundSecretFiles> {
  const kind = await kindOf(path);
  if (kind !== 'folder') {
    return { kind, files: kind === undefined ? [] : [fileAt(path)], folders: [dirname(path)] };
  }
  const names = await listNames(path);
  const mounted = mountedFile(path, names);
  if (mounted !== undefined) return { kind, files: [mounted], folders: [path] };
  const found = await Promise.all(names.map(name => findInFolder(join(path, name))));
  return {
    kind,
    files: found.flatMap(({ files }) => files),
    folders: [path, ...found.flatMap(({ folders }) => folders)],
  };
}

/**
 * Identifies the content of a file by its metadata: while it is the same, so is the content. `undefined` for a file
 * that does not exist, or that changed so recently that another change might not be visible.
 */
export async function readFingerprint(path: string, nowMs: number): Promise<string | undefined> {
  const found = await orGone(stat(path, { bigint: true }));
  if (found === undefined || nowMs - Number(found.ctimeMs) < SETTLED_MS) return undefined;
  return [found.dev, found.ino, found.size, found.mtimeNs, found.ctimeNs].join();
}

/** The text of a file; `undefined` if it is gone. Throws MalformedSecret if it cannot be read. */
export async function readSecretText({ path, type }: SecretFile): Promise<string | undefined> {
  try {
    return await readTextFile(path, type === 'manifest' ? MAX_MANIFEST_BYTES : MAX_SECRET_BYTES);
  } catch (cause) {
    const why = cause instanceof UnreadableFile ? cause.reason : `cannot be read: ${errorCode(cause)}`;
    throw new MalformedSecret(why, { cause });
  }
}

/** The Secrets in the text of a file. Throws MalformedSecret if it cannot be parsed as a whole. */
export function parseSecretFile({ name, type }: SecretFile, text: string): readonly SecretReading[] {
  if (type === 'manifest') return parseSecretManifests(text);
  // The kubelet replaces whole folders; an empty file is one that somebody is about to write.
  if (text === '') throw new MalformedSecret('the file is empty');
  const secret = parsePullSecretText({ name, type, text });
  return secret === undefined ? [] : [{ name, source: 'folder', result: { state: 'loaded', secret } }];
}

async function findInFolder(path: string): Promise<Omit<FoundSecretFiles, 'kind'>> {
  const kind = await kindOf(path);
  if (kind === 'folder') {
    const mounted = mountedFile(path, await listNames(path));
    return { files: mounted === undefined ? [] : [mounted], folders: [path] };
  }
  const isManifest = kind === 'file' && MANIFEST_EXTENSIONS.has(extname(path));
  return { files: isManifest ? [fileAt(path)] : [], folders: [] };
}

function mountedFile(folder: string, names: readonly string[]): SecretFile | undefined {
  const [name] = [...MOUNTED.keys()].filter(key => key.startsWith('.') && names.includes(key));
  return name === undefined ? undefined : fileAt(join(folder, name));
}

function fileAt(path: string): SecretFile {
  const type = MOUNTED.get(basename(path)) ?? 'manifest';
  return { path, type, name: basename(type === 'manifest' ? path : dirname(path)) };
}

/**
 * `..data` and the folders that it points to belong to the kubelet. A folder with more entries is not one of Secrets.
 */
async function listNames(folder: string): Promise<readonly string[]> {
  const names = await orGone(readdir(folder));
  return (names ?? [])
    .filter(name => !name.startsWith('..'))
    .sort()
    .slice(0, MAX_SECRETS_PER_FILE);
}

async function kindOf(path: string): Promise<FoundSecretFiles['kind']> {
  const found = await orGone(stat(path));
  if (found === undefined) return undefined;
  return found.isDirectory() ? 'folder' : 'file';
}

/** `undefined` if it does not exist, or has just gone. */
async function orGone<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errorCode(error) ?? '')) return undefined;
    throw error;
  }
}
