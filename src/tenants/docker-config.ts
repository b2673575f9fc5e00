import { foldName } from '../lib/json.ts';
import { InvalidJson, JsonMembers, parseOrderedJson, type OrderedJson } from './ordered-json.ts';

/** The entry of a registry in a Docker config file. All members may be empty. */
export interface DockerConfigEntry {
  readonly username: string;
  readonly password: string;
  readonly email: string;
}

/** Entries by registry key as written. */
export type DockerConfig = ReadonlyMap<string, DockerConfigEntry>;

/** The text is not what the kubelet accepts. The message never shows the content, which may be a password. */
export class InvalidDockerConfig extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'InvalidDockerConfig';
  }
}

/** Kubernetes' types of pull secrets, each with its data key. */
const PULL_SECRETS: ReadonlyMap<string, { dataKey: string; parse: (text: string) => DockerConfig }> = new Map(
  [
    ['kubernetes.io/dockerconfigjson', { dataKey: '.dockerconfigjson', parse: parseDockerConfigJson }],
    ['kubernetes.io/dockercfg', { dataKey: '.dockercfg', parse: parseDockercfg }],
  ],
);

const BASE64_PADDED = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const BASE64_UNPADDED = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2,3})?$/;

/** The data key of a Secret of this type; `undefined` if the type is not for pulls. */
export function pullSecretDataKey(type: string): string | undefined {
  return PULL_SECRETS.get(type)?.dataKey;
}

/**
 * The Docker config in a Kubernetes Secret, whose `data` is already decoded from base64. `undefined` for a Secret that
 * is not a pull secret: another type, the right key with the wrong type, or an empty value.
 */
export function parsePullSecret(type: string, data: ReadonlyMap<string, string>): DockerConfig | undefined {
  const kind = PULL_SECRETS.get(type);
  const text = kind && data.get(kind.dataKey);
  return kind && text ? kind.parse(text) : undefined;
}

/**
 * Parses a `config.json` as the kubelet (a Go program) does: member names are case-insensitive, the last duplicate wins
 * but several `auths` are merged, `null` counts as absent, and one bad entry makes the file invalid. Credential helpers
 * and stores are ignored.
 */
export function parseDockerConfigJson(text: string): DockerConfig {
  let auths = new Map<string, DockerConfigEntry>();
  for (const [name, value] of membersOf(parseText(text), 'the document')) {
    const field = foldName(name);
    if (field === 'auths') {
      if (value === null) auths = new Map();
      // In place: copying the map for each duplicate would take quadratic time.
      else for (const [key, entry] of entriesOf(value)) auths.set(key, entry);
    } else if (field === 'httpheaders') {
      for (const [header, headerValue] of membersOf(value, 'HttpHeaders')) {
        readString(headerValue, '', `HttpHeaders ${JSON.stringify(header)}`);
      }
    }
  }
  return auths;
}

/** Parses the older `.dockercfg`, which has registry keys at its top level. */
export function parseDockercfg(text: string): DockerConfig {
  return entriesOf(parseText(text));
}

/** Parses one value of `auths`. */
export function parseDockerConfigEntry(text: string): DockerConfigEntry {
  return readEntry(parseText(text), 'the entry');
}

/**
 * Parses the `auth` of an entry: base64 of `user:password`, split at the first colon. If the text ends in `=`, padding
 * must be correct, otherwise there must be none; line breaks are skipped; the URL-safe alphabet is refused.
 */
export function decodeAuth(auth: string): { username: string; password: string } {
  const isPadded = auth.trim().endsWith('=');
  const compact = auth.replaceAll(/[\r\n]/g, '');
  if (!(isPadded ? BASE64_PADDED : BASE64_UNPADDED).test(compact)) {
    throw new InvalidDockerConfig('auth is not base64');
  }
  const decoded = Buffer.from(compact, 'base64').toString('utf8');
  const colon = decoded.indexOf(':');
  if (colon === -1) throw new InvalidDockerConfig('auth is not base64 of user:password');
  return { username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}

function entriesOf(value: OrderedJson): DockerConfig {
  const entries = membersOf(value, 'auths');
  return new Map(entries.map(([key, entry]) => [key, readEntry(entry, JSON.stringify(key))]));
}

function readEntry(value: OrderedJson, where: string): DockerConfigEntry {
  let entry = { username: '', password: '', email: '', auth: '' };
  for (const [name, member] of membersOf(value, where)) {
    const field = foldName(name);
    if (field === 'username' || field === 'password' || field === 'email' || field === 'auth') {
      entry = { ...entry, [field]: readString(member, entry[field], `${field} of ${where}`) };
    }
  }
  const { auth, ...plain } = entry;
  return auth === '' ? plain : { ...plain, ...decodeAuth(auth) };
}

/** The members of an object; `null` counts as an empty one, as in Go. */
function membersOf(value: OrderedJson, where: string): JsonMembers['entries'] {
  if (value === null) return [];
  if (!(value instanceof JsonMembers)) throw new InvalidDockerConfig(`${where} is not an object`);
  return value.entries;
}

/** A string; for `null`, the value of an earlier duplicate. */
function readString(value: OrderedJson, earlier: string, where: string): string {
  if (value === null) return earlier;
  if (typeof value !== 'string') throw new InvalidDockerConfig(`${where} is not a string`);
  return value;
}

function parseText(text: string): OrderedJson {
  try {
    return parseOrderedJson(text);
  } catch (cause) {
    if (cause instanceof InvalidJson) throw new InvalidDockerConfig(cause.message, cause);
    throw cause;
  }
}
