import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { absentAsUndefined, errorCode } from '../../lib/error-code.ts';
import { isJsonObject, parseJsonObject } from '../../lib/json.ts';
import type { Log } from '../../lib/log.ts';
import type { DockerConfig } from '../docker-config.ts';
import type { SecretReading } from '../secret-source.ts';
import type { ClusterIssuer } from './cluster-issuer.ts';
import type { Namespace } from './kube-objects.ts';

/** A namespace as it was last seen. */
export interface SeenNamespace extends Namespace {
  readonly secrets: readonly SecretReading[];
  /** UIDs. */
  readonly accounts: readonly string[];
}

export interface SeenClusterOptions {
  /** Created if it does not exist. */
  readonly folder: string;
  readonly log: Log;
  /** Default: the system's clock. */
  readonly nowMs?: () => number;
}

/** The saved state, and when the cluster was last followed. Epoch ms. */
export interface RecalledCluster {
  readonly followedAtMs: number;
  readonly namespaces: ReadonlyMap<string, SeenNamespace>;
  readonly issuer: ClusterIssuer | undefined;
}

const ALGORITHM = 'aes-256-gcm';
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** In place of a hash, for what is not as it should be. */
const UNSAVED = '';

/** Names that no namespace can have. */
const KEY_FILE = '.key';
const ISSUER_FILE = '.issuer';
const NAMESPACE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Twice the largest Secret: a namespace is encrypted in one go, which blocks the event loop meanwhile. */
const MAX_SEALED_BYTES = 2 * 2 ** 20;

const PRIVATE_FILE = { mode: 0o600 } as const;

/**
 * Saves the last known state of a cluster, for a start while it is unreachable: a file for each namespace, and one for
 * the issuer of its tokens. They are encrypted (AES-256-GCM, each bound to its name) with a key in a file of its own; a
 * copy without that file contains no usable credentials, but whoever can read the whole folder can read them. The
 * modification time of one file records when the cluster was last followed. Nothing is synced: a file that a power
 * failure damages cannot be decrypted, and counts as absent.
 */
export class SeenCluster {
  readonly #folder: string;
  readonly #log: Log;
  readonly #nowMs: () => number;
  readonly #key: Buffer;
  /** A hash of each file's text as saved. */
  readonly #kept = new Map<string, string>();
  /** Texts to be written, and files to be removed (`undefined`), by name. */
  readonly #pending = new Map<string, string | undefined>();
  #writing: Promise<void> | undefined;
  #hasFailed = false;

  private constructor(key: Buffer, { folder, log, nowMs = Date.now }: SeenClusterOptions) {
    this.#folder = folder;
    this.#log = log;
    this.#nowMs = nowMs;
    this.#key = key;
  }

  static async open(options: SeenClusterOptions): Promise<SeenCluster> {
    await mkdir(options.folder, { recursive: true, mode: 0o700 });
    return new SeenCluster(await readKey(join(options.folder, KEY_FILE)), options);
  }

  /** Everything that was saved and can be decrypted. */
  async recall(): Promise<RecalledCluster> {
    const { mtimeMs } = await stat(join(this.#folder, KEY_FILE));
    const namespaces = new Map<string, SeenNamespace>();
    for (const name of await readdir(this.#folder)) {
      const seen = NAMESPACE.test(name) ? parseNamespace(await this.#read(name)) : undefined;
      if (seen !== undefined) namespaces.set(name, seen);
    }
    return { followedAtMs: mtimeMs, namespaces, issuer: parseIssuer(await this.#read(ISSUER_FILE)) };
  }

  /** The names of all saved namespaces. */
  get names(): readonly string[] {
    return [...this.#kept.keys()].filter(name => NAMESPACE.test(name));
  }

  keep(name: string, { secrets, ...rest }: SeenNamespace): void {
    if (!NAMESPACE.test(name)) return;
    if (sizeOf(secrets) > MAX_SEALED_BYTES) this.forget(name);
    else this.#write(name, JSON.stringify({ ...rest, secrets: secrets.map(writtenReading) }));
  }

  forget(name: string): void {
    if (this.#kept.delete(name) || this.#pending.has(name)) this.#put(name, undefined);
  }

  keepIssuer(issuer: ClusterIssuer): void {
    this.#write(ISSUER_FILE, JSON.stringify(issuer));
  }

  /** Records that the cluster is being followed, so that the saved state is current. */
  async noteFollowed(): Promise<void> {
    const now = new Date(this.#nowMs());
    await utimes(join(this.#folder, KEY_FILE), now, now).catch((error: unknown) => this.#noteFailure(error));
  }

  /** Resolves when everything is written. */
  async flush(): Promise<void> {
    await this.#writing;
  }

  #write(name: string, text: string): void {
    const hash = createHash('sha256').update(text).digest('base64');
    if (this.#kept.get(name) === hash) return;
    this.#kept.set(name, hash);
    this.#put(name, text);
  }

  #put(name: string, text: string | undefined): void {
    this.#pending.set(name, text);
    this.#writing ??= this.#writeAll().finally(() => (this.#writing = undefined));
  }

  async #writeAll(): Promise<void> {
    for (;;) {
      const [next] = this.#pending;
      if (next === undefined) return;
      const [name, text] = next;
      this.#pending.delete(name);
      const path = join(this.#folder, name);
      try {
        if (text === undefined) await rm(path, { force: true });
        else await replace(path, this.#seal(name, text));
      } catch (error) {
        // Written by the next `keep`, removed by `forget`. Until then rather nothing than a Secret of before.
        this.#kept.set(name, UNSAVED);
        await rm(path, { force: true }).catch(() => {});
        this.#noteFailure(error);
      }
    }
  }

  /** A failure, such as a full disk, is only logged. */
  #noteFailure(error: unknown): void {
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    this.#log.warn({ err: error }, 'the cluster state cannot be saved for a restart while it is unreachable');
  }

  async #read(name: string): Promise<string | undefined> {
    const sealed = await absentAsUndefined(readFile(join(this.#folder, name)));
    const text = sealed && this.#open(name, sealed);
    if (text !== undefined) this.#kept.set(name, createHash('sha256').update(text).digest('base64'));
    return text;
  }

  #seal(name: string, text: string): Buffer {
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv(ALGORITHM, this.#key, nonce);
    cipher.setAAD(Buffer.from(name));
    const body = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
    return Buffer.concat([nonce, cipher.getAuthTag(), body]);
  }

  /** `undefined` if it was encrypted with another key or for another name, or is incomplete. */
  #open(name: string, sealed: Buffer): string | undefined {
    if (sealed.length < NONCE_BYTES + TAG_BYTES) return undefined;
    const options = { authTagLength: TAG_BYTES };
    const decipher = createDecipheriv(ALGORITHM, this.#key, sealed.subarray(0, NONCE_BYTES), options);
    decipher.setAAD(Buffer.from(name));
    decipher.setAuthTag(sealed.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
    try {
      const body = decipher.update(sealed.subarray(NONCE_BYTES + TAG_BYTES));
      return Buffer.concat([body, decipher.final()]).toString('utf8');
    } catch {
      return undefined;
    }
  }
}

/** The key of the folder, created if there is none. If two processes create one, both use the first. */
async function readKey(path: string): Promise<Buffer> {
  try {
    await writeFile(path, randomBytes(KEY_BYTES), { ...PRIVATE_FILE, flag: 'wx' });
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
  }
  const key = await readFile(path);
  if (key.length === KEY_BYTES) return key;
  // A power failure has left it empty: nothing can be decrypted with it.
  await replace(path, randomBytes(KEY_BYTES));
  return readFile(path);
}

async function replace(path: string, content: Buffer): Promise<void> {
  const partial = `${path}.${process.pid}.partial`;
  await writeFile(partial, content, PRIVATE_FILE);
  await rename(partial, path);
}

/** JSON cannot represent the map in a config, so it becomes a list. */
function writtenReading({ result, ...reading }: SecretReading): object {
  if (result.state !== 'loaded') return { ...reading, result };
  const { secret } = result;
  return { ...reading, result: { ...result, secret: { ...secret, config: [...secret.config] } } };
}

function readReading({ result, ...reading }: WrittenReading): SecretReading {
  if (result.state !== 'loaded') return { ...reading, result };
  const { secret } = result;
  return { ...reading, result: { ...result, secret: { ...secret, config: new Map(secret.config) } } };
}

/** The result of `writtenReading`. */
type WrittenReading = Omit<SecretReading, 'result'> & {
  readonly result:
    | Exclude<SecretReading['result'], { readonly state: 'loaded' }>
    | {
        readonly state: 'loaded';
        readonly secret: { readonly name: string; readonly config: [string, ConfigEntry][] };
      };
};

type ConfigEntry = DockerConfig extends ReadonlyMap<string, infer Entry> ? Entry : never;

/** Decrypted successfully, so it is what was written here. */
function parseNamespace(text: string | undefined): SeenNamespace | undefined {
  if (text === undefined) return undefined;
  const written: Omit<SeenNamespace, 'secrets'> & { readonly secrets: readonly WrittenReading[] } =
    JSON.parse(text);
  return { ...written, secrets: written.secrets.map(readReading) };
}

function parseIssuer(text: string | undefined): ClusterIssuer | undefined {
  const { issuer, keys } = parseJsonObject(text ?? '') ?? {};
  if (typeof issuer !== 'string' || !Array.isArray(keys)) return undefined;
  return { issuer, keys: keys.filter(isJsonObject) };
}

function sizeOf(secrets: readonly SecretReading[]): number {
  let bytes = 0;
  for (const { result } of secrets) {
    if (result.state !== 'loaded') continue;
    for (const [key, { username, password, email }] of result.secret.config) {
      bytes += key.length + username.length + password.length + email.length;
    }
  }
  return bytes;
}
