import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { errorCode } from '../lib/error-code.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { FolderWatch } from './folder-watch.ts';
import { MalformedSecret } from './secret.ts';
import {
  findSecretFiles,
  type FoundSecretFiles,
  parseSecretFile,
  readFingerprint,
  readSecretText,
  type SecretFile,
} from './secret-files.ts';
import type { SecretReading, SecretSink, SecretSource } from './secret-source.ts';

/** Where the Secrets of a tenant are. */
export interface SecretPaths {
  readonly name: string;
  /** Files and folders, in order of precedence. */
  readonly secrets: readonly string[];
}

/** How many tenants are read concurrently: enough to keep the disk busy, few enough to leave threads to others. */
const TENANTS_AT_ONCE = 8;

/** A Secret in a file; for what is missing, `path` is that of the configuration. */
type FileReading = SecretReading & { readonly path: string };

/** A file as it was last read, so that unchanged files are not parsed again. */
interface KnownFile {
  /** As returned by `readFingerprint` before it was read; `undefined` if it must be read again. */
  readonly fingerprint: string | undefined;
  readonly hash: string;
  readonly readings: readonly FileReading[];
}

/** What was last found at a path. */
interface KnownPath {
  readonly secrets: readonly FileReading[];
  readonly folders: readonly string[];
  readonly files: ReadonlyMap<string, KnownFile>;
}

const NOTHING_KNOWN: KnownPath = { secrets: [], folders: [], files: new Map() };

/** Secrets in files and folders: manifests, and Secrets as the kubelet mounts them. Follows all changes. */
export class FileSecretSource implements SecretSource {
  #tenants: readonly SecretPaths[];
  readonly #watch: FolderWatch;
  readonly #paths = new Map<string, KnownPath>();
  #sink: SecretSink | undefined;

  /** `clock`: as in `FolderWatch`. */
  constructor(tenants: readonly SecretPaths[], log: Log, clock?: Clock) {
    this.#tenants = tenants.filter(({ secrets }) => secrets.length > 0);
    this.#watch = new FolderWatch(changed => this.#read(changed), log, clock);
  }

  async start(sink: SecretSink): Promise<void> {
    this.#sink = sink;
    if (this.#tenants.length > 0) await this.#watch.start();
  }

  /** Follows these tenants from now on, instead of any others. Resolves when all were read. */
  async follow(tenants: readonly SecretPaths[]): Promise<void> {
    const before = this.#tenants;
    this.#tenants = tenants.filter(({ secrets }) => secrets.length > 0);
    const names = new Set(this.#tenants.map(({ name }) => name));
    for (const { name } of before) if (!names.has(name)) this.#sink?.remove(name);
    const paths = new Set(this.#tenants.flatMap(({ secrets }) => secrets));
    for (const path of this.#paths.keys()) if (!paths.has(path)) this.#paths.delete(path);
    await this.#watch.again();
  }

  async close(): Promise<void> {
    await this.#watch.close();
  }

  async #read(changed: ReadonlySet<string> | undefined): Promise<Iterable<string>> {
    const tenants = this.#tenants;
    const concerned = tenants.filter(
      ({ secrets }) => changed === undefined || secrets.some(path => this.#isIn(changed, path)),
    );
    for (let at = 0; at < concerned.length; at += TENANTS_AT_ONCE) {
      await Promise.all(concerned.slice(at, at + TENANTS_AT_ONCE).map(tenant => this.#readTenant(tenant)));
      // `follow` has replaced the tenants meanwhile, and reads all of the new ones.
      if (this.#tenants !== tenants) break;
    }
    return [...this.#paths.values()].flatMap(({ folders }) => folders);
  }

  #isIn(changed: ReadonlySet<string>, path: string): boolean {
    return this.#paths.get(path)?.folders.some(folder => changed.has(folder)) ?? false;
  }

  async #readTenant({ name, secrets: paths }: SecretPaths): Promise<void> {
    const tenants = this.#tenants;
    const secrets = await Promise.all(
      paths.map(async path => {
        const read = await readPath(path, this.#paths.get(path) ?? NOTHING_KNOWN);
        this.#paths.set(path, read);
        return read.secrets;
      }),
    );
    if (this.#tenants === tenants) this.#sink?.put(name, { secrets: secrets.flat() });
  }
}

/** The Secrets at a path of the configuration that cannot be used, and why, without repeating the path. */
export async function unusableSecrets(path: string): Promise<readonly string[]> {
  const { secrets } = await readPath(path, NOTHING_KNOWN);
  return secrets.flatMap(({ name, path: file, result }) => {
    if (result.state === 'loaded') return [];
    const reason = file === path ? result.reason : `${result.reason} (${file})`;
    // What is missing has no name but the path's.
    return [result.state === 'missing' ? reason : `the Secret ${name} is ${result.state}: ${reason}`];
  });
}

async function readPath(path: string, known: KnownPath): Promise<KnownPath> {
  try {
    const { kind, files, folders } = await findSecretFiles(path);
    const read = await Promise.all(
      files.map(async file => ({ file, ...(await readFile(file, known.files.get(file.path))) })),
    );
    const secrets = read.flatMap(({ readings }) => readings);
    return {
      secrets: secrets.length > 0 ? secrets : [nothingAt(path, kind)],
      folders,
      files: new Map(
        read.flatMap(({ file, known: now }) => (now === undefined ? [] : [[file.path, now] as const])),
      ),
    };
  } catch (error) {
    const reason = `cannot be read: ${errorCode(error) ?? String(error)}`;
    return { ...known, secrets: malformed(known.secrets, path, reason) };
  }
}

/** The current content of a file, and what to remember about it; neither if it is gone. */
async function readFile(
  file: SecretFile,
  known: KnownFile | undefined,
): Promise<{ readonly readings: readonly FileReading[]; readonly known: KnownFile | undefined }> {
  try {
    const fingerprint = await readFingerprint(file.path, Date.now());
    if (known !== undefined && known.fingerprint === fingerprint && fingerprint !== undefined) {
      return { readings: known.readings, known };
    }
    const text = await readSecretText(file);
    if (text === undefined) return { readings: [], known: undefined };
    const hash = createHash('sha256').update(text).digest('base64');
    if (known?.hash === hash) return { readings: known.readings, known: { ...known, fingerprint } };
    const readings = parseSecretFile(file, text).map(reading => ({ ...reading, path: file.path }));
    return { readings, known: { fingerprint, hash, readings } };
  } catch (error) {
    if (!(error instanceof MalformedSecret)) throw error;
    return { readings: malformed(known?.readings ?? [], file.path, error.message), known };
  }
}

/** The readings of a path that can no longer be read: the Secrets that it contained are malformed now. */
function malformed(known: readonly FileReading[], path: string, reason: string): readonly FileReading[] {
  const readings: readonly Pick<FileReading, 'name' | 'source' | 'path'>[] =
    known.length > 0 ? known : [{ name: basename(path), source: 'file', path }];
  return readings.map(({ name, source, path: file }) => ({
    name,
    source,
    path: file,
    result: { state: 'malformed', reason },
  }));
}

function nothingAt(path: string, kind: FoundSecretFiles['kind']): FileReading {
  const reason = kind === undefined ? 'the file does not exist' : `the ${kind} contains no pull secret`;
  return { name: basename(path), source: 'file', path, result: { state: 'missing', reason } };
}
