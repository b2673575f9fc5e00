import { foldName } from '../lib/json.ts';
import { InvalidJson, JsonMembers, parseOrderedJson, type OrderedJson } from './ordered-json.ts';

/** What a docker config file says for one registry. All may be empty. */
export interface DockerConfigEntry {
  readonly username: string;
  readonly password: string;
  readonly email: string;
}

/** Registry keys as written, each with what stands there. */
export type DockerConfig = ReadonlyMap<string, DockerConfigEntry>;

/** The text is not what the kubelet would accept. Never shows what the text holds, as that may be a password. */
export class InvalidDockerConfig extends Error {
  constructor(message: string, cause?: unknown) {
    super(message, { cause });
    this.name = 'InvalidDockerConfig';
  }
}

/** Kubernetes' types of pull secrets, each with the one data key that counts. */
const PULL_SECRETS: ReadonlyMap<string, { dataKey: string; parse: (text: string) => DockerConfig }> = new Map(
  [
    ['kubernetes.io/dockerconfigjson', { dataKey: '.dockerconfigjson', parse: parseDockerConfigJson }],
    ['kubernetes.io/dockercfg', { dataKey: '.dockercfg', parse: parseDockercfg }],
  ],
);

const BASE64_PADDED = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;
const BASE64_UNPADDED = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2,3})?$/;

/** The one data key that counts in a Secret of this type; `undefined` if the type is none for pulls. */
export function pullSecretDataKey(type: string): string | undefined {
  return PULL_SECRETS.get(type)?.dataKey;
}

/**
 * The docker config in a Kubernetes Secret, whose `data` is already decoded from base64. `undefined` for a Secret that
 * is none for pulls: another type, the right key under the wrong type, or an empty value.
 */
export function parsePullSecret(type: string, data: ReadonlyMap<string, string>): DockerConfig | undefined {
  const kind = PULL_SECRETS.get(type);
  const text = kind && data.get(kind.dataKey);
  return kind && text ? kind.parse(text) : undefined;
}

/**
 * A `config.json`, as the kubelet (a Go program) reads it: member names in any case, the last duplicate wins but
 * several `auths` add up, `null` is nothing, and one bad entry spoils the file. Helpers and stores are ignored.
 */
export function parseDockerConfigJson(text: string): DockerConfig {
  let auths = new Map<string, DockerConfigEntry>();
  for (const [name, value] of membersOf(parseText(text), 'the document')) {
    const field = foldName(name);
    if (field === 'auths') {
      if (value === null) auths = new Map();
      // Into the one that there is: copying it for each duplicate would take time by the square.
      else for (const [key, entry] of entriesOf(value)) auths.set(key, entry);
    } else if (field === 'httpheaders') {
      for (const [header, headerValue] of membersOf(value, 'HttpHeaders')) {
        readString(headerValue, '', `HttpHeaders ${JSON.stringify(header)}`);
      }
    }
  }
  return auths;
}

/** The older `.dockercfg`: registry keys without the level of `auths`. */
export function parseDockercfg(text: string): DockerConfig {
  return entriesOf(parseText(text));
}

/** One value of `auths`. */
export function parseDockerConfigEntry(text: string): DockerConfigEntry {
  return readEntry(parseText(text), 'the entry');
}

/**
 * The `auth` of an entry: base64 of `user:password`, split at the first colon. Padding is demanded or forbidden by
 * whether the text ends in `=`; line breaks are skipped; the URL-safe alphabet is refused.
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

/** The members of an object, where Go reads `null` as an empty one. */
function membersOf(value: OrderedJson, where: string): JsonMembers['entries'] {
  if (value === null) return [];
  if (!(value instanceof JsonMembers)) throw new InvalidDockerConfig(`${where} is not an object`);
  return value.entries;
}

/** A string; `null` leaves what an earlier duplicate said. */
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
