// Codecs are generic over what they hold; zod's types can't follow a renamed key or an unwrapped list.
/* oxlint-disable typescript/no-unsafe-type-assertion */
import { isIP } from 'node:net';
import { z } from 'zod';
import { isCron } from '../lib/cron.ts';
import {
  DISK_SHARE_FORM,
  type DiskShare,
  DURATION_FORM,
  formatDiskShare,
  formatDuration,
  formatSize,
  INTERVAL_FORM,
  parseDiskShare,
  parseDuration,
  parseInterval,
  parseRate,
  parseSize,
  RATE_FORM,
  SIZE_FORM,
} from '../lib/units.ts';
import { parseUrl } from '../lib/url.ts';
import { MIN_COUNTED_BYTES } from '../oci/counted-bytes.ts';
import { formatPlatform, parsePlatform, type Platform } from '../oci/platform.ts';
import { parseRegistryUrl } from '../oci/registry-url.ts';

// A configuration is parsed once or twice in a process, which is less work than to compile its parsers.
z.config({ jitless: true });

/**
 * The types of values in the configuration file, which `schema.ts` combines. All are codecs, so a parsed value can be
 * written as a person would. The message of every check completes the sentence "expected …".
 */
export { z };

/** An address to listen on. Port 0 takes a free one. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

const HOST = String.raw`(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*|\[[0-9a-f:]+\])`;
const REGISTRY_HOST = new RegExp(`^${HOST}(?::[0-9]{1,5})?$`);
const ADDRESS = /^(\[[0-9a-fA-F:.]+\]|[^:[\]\s/]+):([0-9]{1,5})$/;
const MAX_PORT = 65_535;

const ADDRESS_FORM = 'an address such as 127.0.0.1:5000, 0.0.0.0:5000 or [::]:5000';

/** A host and port, `[::1]:5000` for IPv6. */
export const address = textCodec<Address>(
  ADDRESS_FORM,
  parseAddress,
  formatAddress,
  value => isMap(value) && 'host' in value,
);

/** The same, of one machine: where others connect to. */
export const reachableAddress = textCodec<Address>(
  'an address such as 10.0.7.12:5003, replica-1.example:5003 or [2001:db8::7]:5003',
  parseAddress,
  formatAddress,
  value => isMap(value) && 'host' in value,
);

/** `90s`, `24h`: milliseconds. */
export const duration = textCodec(DURATION_FORM, parseDuration, formatDuration);

/** As `duration`, but more than 0. */
export const interval = textCodec(INTERVAL_FORM, parseInterval, formatDuration);

/** As `interval`, of at most `maxMs`. */
export function durationUpTo(maxMs: number) {
  const parse = (value: string): number => {
    const ms = parseInterval(value);
    if (ms > maxMs) throw new RangeError(value);
    return ms;
  };
  return textCodec(`${INTERVAL_FORM}, of at most ${formatDuration(maxMs)}`, parse, formatDuration);
}

/** As `duration`, or `forever`: Infinity. */
export const durationOrForever = textCodec(
  `${DURATION_FORM}, or forever`,
  value => (value === 'forever' ? Number.POSITIVE_INFINITY : parseDuration(value)),
  ms => (ms === Number.POSITIVE_INFINITY ? 'forever' : formatDuration(ms)),
);

/** `never`, `now`, or as `duration`. */
export const nowOrAfter = textCodec(
  `never, now, or ${DURATION_FORM}`,
  value => (value === 'never' || value === 'now' ? value : parseDuration(value)),
  when => (typeof when === 'number' ? formatDuration(when) : when),
  when => typeof when === 'number' || when === 'never' || when === 'now',
);

/** `200GiB`: bytes. */
export const size = textCodec(SIZE_FORM, parseSize, formatSize);

/** As `size`, for a quota: a smaller one would allow nothing. */
export const quota = textCodec(
  `${SIZE_FORM}, of at least ${formatSize(MIN_COUNTED_BYTES)}, which is the least that a blob or manifest counts, or 0B to allow no pushes`,
  value => {
    const bytes = parseSize(value);
    if (bytes > 0 && bytes < MIN_COUNTED_BYTES) throw new RangeError(value);
    return bytes;
  },
  formatSize,
);

/** `5GiB`, `5%`. */
export const diskShare = textCodec<DiskShare>(DISK_SHARE_FORM, parseDiskShare, formatDiskShare, isMap);

/** `16MiB`: bytes per second. */
export const rate = textCodec(RATE_FORM, parseRate, formatSize);

/** `linux/amd64`, `linux/arm/v7`, `windows/amd64:10.0.20348`. */
export const platform = textCodec<Platform>(
  'a platform such as linux/amd64, linux/arm/v7 or windows/amd64:10.0.20348',
  parsePlatform,
  formatPlatform,
  value => isMap(value) && 'architecture' in value,
);

/** A schedule for `parseCron`: `0 3 * * *` is every night at three. */
export const schedule = text('a schedule such as 0 3 * * * (minute, hour, day, month, weekday)', isCron);

/** A registry as in image names: a host in lower case, with the port unless it is the default. */
export const registryHost = text(
  'a registry host such as ghcr.io or registry.example:5000, in lower case and without https://',
  value => REGISTRY_HOST.test(value),
);

/** Scheme, host and port, without a slash at the end. User names and passwords would end up in logs. */
export const serverUrl = textCodec<string>(
  'an http:// or https:// URL of a host and port, without path, user name or password',
  parseServerUrl,
  url => url,
  value => typeof value === 'string',
);

/** As `serverUrl`, for another registry, optionally with a path (see `parseRegistryUrl`). */
export const registryUrl = textCodec<string>(
  'an http:// or https:// URL of a registry, without user name or password; a path must include /v2, as in ' +
    'https://registry.example/v2/proxy-hub',
  value => parseRegistryUrl(value).text,
  url => url,
  value => typeof value === 'string',
);

/** Where something is sent by POST. A user name or password in it would end up in logs; so might a query, which some need. */
export const endpointUrl = text(
  'an http:// or https:// URL without user name, password or fragment',
  isEndpointUrl,
);

/** It is part of the name of a Lease, and a label of metrics. */
export const endpointName = text(
  'a name of up to 64 lower-case letters, digits, dots, hyphens and underscores',
  value => /^[a-z0-9][a-z0-9._-]{0,63}$/.test(value),
);

/** Addresses in CIDR notation, or one address. */
export const addressRange = text('an address range such as 10.0.0.0/8 or fd00::/8', isAddressRange);

/** A path on disk; relative ones were made absolute before. */
export const path = text('a path', value => value !== '');

export const word = text('a text', value => value !== '');

/** For HTTP Basic, which separates it from the password by a colon. */
export const loginName = text('a user name of up to 64 letters, digits and ._@-', value =>
  /^[A-Za-z0-9._@-]{1,64}$/.test(value),
);

/** The path of a URL, as Kubernetes compares it. */
export const urlPath = text('a path such as /entrepot/admin', value => /^(?:\/[\w.~-]+)+$/.test(value));

/** As S3 restricts it: it may be part of a host name. */
export const bucketName = text(
  'the name of a bucket: 3 to 63 lower-case letters, digits, hyphens and dots',
  value => /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/.test(value),
);

/** Of the keys of objects: characters that need no encoding anywhere. */
export const keyPrefix = text(
  'a prefix of letters, digits and !-_.*()/, of up to 500 characters, not beginning with a slash and without . or .. ' +
    'between slashes',
  value =>
    /^(?:[\w!.*()-][\w!.*()/-]{0,499})?$/.test(value) &&
    value
      .split('/')
      .every((part, at, all) => (part !== '' || at === all.length - 1) && !/^\.\.?$/.test(part)),
);

/** The first component of a repository's name (OCI distribution spec, "Pulling manifests", `<name>`). */
export const repositoryPrefix = text('one component of a repository name, such as tools or team-a', value =>
  /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/.test(value),
);

/** A repository name in which `*` matches anything but `/`, and `**` matches anything. */
export const repositoryPattern = text('a repository name or pattern such as library/* or my-org/**', value =>
  /^[a-z0-9*][a-z0-9._*/-]*$/.test(value),
);

/** As `repositoryPattern`, beginning with the upstream. */
export const imagePattern = text(
  'an image or pattern such as docker.io/library/* or ghcr.io/my-org/**',
  value => /^[a-z0-9*][a-z0-9._*:-]*\/[a-z0-9._*/-]+$/.test(value),
);

/** Everything but a password and options, which have keys of their own. */
export const postgresUrl = text(
  'a URL such as postgresql://entrepot@db.registry.example:5432/entrepot, without a password',
  isPostgresUrl,
);

/** Quoted, PostgreSQL would take any name; these can be used without quotes, too. */
export const schemaName = text('a name of lower-case letters, digits and _, such as entrepot', value =>
  /^(?!pg_)[a-z_][a-z0-9_]{0,62}$/.test(value),
);

export const flag = z.boolean({ error: 'expected true or false' });

/** A whole number of at least `minimum`. `or` is the word that may stand in its place, for the error. */
export function count(minimum: number, maximum = Number.MAX_SAFE_INTEGER, or?: string) {
  const atMost = maximum === Number.MAX_SAFE_INTEGER ? '' : ` and at most ${maximum}`;
  const orWord = or === undefined ? '' : `, or ${or}`;
  const error = `expected a whole number of at least ${minimum}${atMost}${orWord}`;
  return z.int({ error }).min(minimum, { error }).max(maximum, { error });
}

export function oneOf<const Values extends readonly [string, ...string[]]>(...values: Values) {
  return z.enum(values, { error: `expected ${values.join(', ').replace(/, ([^,]*)$/, ' or $1')}` });
}

/** A list, or a single value instead of a list with one entry. */
export function listOf<Item extends z.ZodType>(item: Item) {
  type Value = z.output<Item>;
  return z.codec(z.union([item, z.array(item)]), z.custom<readonly Value[]>(), {
    decode: value => (Array.isArray(value) ? value : [value]) as Value[],
    encode: list => [...list] as never,
  });
}

/** A map, or a single value instead of a map with only the entry `key`. */
export function aloneOr<Alone extends z.ZodType, Whole extends z.ZodType>(
  key: keyof z.output<Whole> & string,
  alone: Alone,
  whole: Whole,
) {
  type Value = z.output<Whole>;
  const isWhole = (value: unknown) => isMap(value) && key in value;
  return z.codec(z.union([alone, whole]), z.custom<Value>(), {
    decode: value => (isWhole(value) ? value : { [key]: value }) as Value,
    encode: value =>
      (Object.keys(value as object).length === 1 ? Reflect.get(value as object, key) : value) as never,
  });
}

type Renamed<Value, Names> = {
  [Key in keyof Value as Key extends keyof Names ? Names[Key] & string : Key]: Value[Key];
};

/**
 * A map with exactly these keys. `names` renames keys of the result: durations end in `Ms`, sizes in `Bytes`, lists are
 * plural.
 */
export function section<
  Shape extends z.ZodRawShape,
  const Names extends { [Key in keyof Shape]?: string } = {},
>(shape: Shape, names?: Names) {
  type Out = Renamed<z.output<z.ZodObject<Shape>>, Names>;
  const forth = new Map(Object.entries(names ?? {}) as [string, string][]);
  const back = new Map([...forth].map(([key, name]) => [name, key]));
  return z.codec(z.strictObject(shape), z.custom<Out>(isMap), {
    decode: value => rename(value, forth) as Out,
    encode: value => rename(value as object, back) as z.output<z.ZodObject<Shape>>,
  });
}

/** `host:port` of an address, as written in the file and in URLs. */
export function formatAddress({ host, port }: Address): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}

function isMap(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function rename(value: object, names: ReadonlyMap<string, string>): object {
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [names.get(key) ?? key, entry]));
}

function text(form: string, isRight: (value: string) => boolean) {
  const error = `expected ${form}`;
  return z.string({ error }).refine(isRight, { error });
}

/** `isValue` lets a union recognize its branch when a parsed value is written. */
function textCodec<Value>(
  form: string,
  parse: (text: string) => Value,
  format: (value: Value) => string,
  isValue: (value: unknown) => boolean = value => typeof value === 'number',
) {
  const error = `expected ${form}`;
  return z.codec(z.string({ error }), z.custom<Value>(isValue), {
    decode: (value, payload) => {
      try {
        return parse(value);
      } catch {
        payload.issues.push({ code: 'custom', input: value, message: error });
        return z.NEVER;
      }
    },
    encode: format,
  });
}

function parseAddress(value: string): Address {
  const match = ADDRESS.exec(value);
  const host = match?.[1]?.replace(/^\[|\]$/g, '') ?? '';
  const port = Number(match?.[2]);
  const isBracketed = match?.[1]?.startsWith('[') === true;
  if (match === null || port > MAX_PORT || (isBracketed && isIP(host) !== 6)) {
    throw new RangeError(value);
  }
  return { host, port };
}

function parseServerUrl(value: string): string {
  const { protocol, username, password, pathname, search, hash, origin } = new URL(value);
  const isBare = username === '' && password === '' && pathname === '/' && search === '' && hash === '';
  if (!isBare || (protocol !== 'http:' && protocol !== 'https:')) {
    throw new RangeError(value);
  }
  return origin;
}

function isEndpointUrl(value: string): boolean {
  const url = parseUrl(value);
  const isHttp = url?.protocol === 'http:' || url?.protocol === 'https:';
  return isHttp && url.username === '' && url.password === '' && url.hash === '';
}

function isAddressRange(value: string): boolean {
  const [host = '', bits, ...rest] = value.split('/');
  const version = isIP(host);
  const mostBits = version === 6 ? 128 : 32;
  return (
    version !== 0 &&
    rest.length === 0 &&
    (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= mostBits))
  );
}

function isPostgresUrl(value: string): boolean {
  const url = URL.canParse(value) ? new URL(value) : undefined;
  return (
    url !== undefined &&
    /^postgres(?:ql)?:$/.test(url.protocol) &&
    url.hostname !== '' &&
    url.password === '' &&
    /^\/[^/]+$/.test(url.pathname) &&
    url.search === '' &&
    url.hash === ''
  );
}
