import { parseGoDuration, stringifyLikeGo } from './go-encoding.ts';
import { ImagePattern, parseImageTarget } from './image-pattern.ts';
import { InvalidJson, JsonMembers, type OrderedJson, parseOrderedJson } from './ordered-json.ts';

// The kubelet's exec plugins for registry credentials (kubelet.config.k8s.io, CredentialProviderConfig): the rules for
// requests, responses and caching. CredentialPlugins runs them.

const API_GROUP = 'credentialprovider.kubelet.k8s.io';
const API_VERSIONS: ReadonlySet<unknown> = new Set(
  ['v1', 'v1beta1', 'v1alpha1'].map(v => `${API_GROUP}/${v}`),
);
const CONFIG_API_VERSIONS: ReadonlySet<unknown> = new Set(
  ['v1', 'v1beta1', 'v1alpha1'].map(version => `kubelet.config.k8s.io/${version}`),
);

/** A plugin of a CredentialProviderConfig. */
export interface CredentialProvider {
  /** The file name of its program in the plugin folder. */
  readonly name: string;
  readonly apiVersion: string;
  readonly matchImages: readonly string[];
  /** For responses without a cache duration. */
  readonly defaultCacheMs: number;
  readonly args: readonly string[];
  readonly env: readonly { readonly name: string; readonly value: string }[];
}

/** The response of a plugin. */
export interface CredentialProviderResponse {
  readonly apiVersion: string;
  /** `Image`, `Registry` or `Global`; with any other value the response is not used. */
  readonly cacheKeyType: string;
  /** `undefined` for the plugin's default, 0 for no caching. */
  readonly cacheMs: number | undefined;
  /** By image pattern, which is a key of a Keyring. */
  readonly auth: ReadonlyMap<string, { readonly username: string; readonly password: string }>;
}

/**
 * The configuration or a response is not what the kubelet accepts. The message never shows values, which may be
 * passwords.
 */
export class InvalidCredentialProvider extends Error {
  override readonly name = 'InvalidCredentialProvider';
}

/** Whether a plugin with these patterns is run for `image` (a repository without tag and digest). */
export function matchesImage(matchImages: readonly string[], image: string): boolean {
  const target = parseImageTarget(image);
  return target !== undefined && matchImages.some(pattern => ImagePattern.parse(pattern)?.matches(target));
}

/** The standard input of a plugin. */
export function encodeRequest(apiVersion: string, image: string): string {
  return `${stringifyLikeGo({ kind: 'CredentialProviderRequest', apiVersion, image })}\n`;
}

/** Parses the standard output of a plugin, strictly: no unknown or duplicate members, and names are case-sensitive. */
export function decodeResponse(text: string): CredentialProviderResponse {
  const members = strictMembers(parseJson(text), 'the response', [
    'kind',
    'apiVersion',
    'cacheKeyType',
    'cacheDuration',
    'auth',
  ]);
  const apiVersion = textOf(members, 'apiVersion');
  if (textOf(members, 'kind') !== 'CredentialProviderResponse' || !API_VERSIONS.has(apiVersion)) {
    throw new InvalidCredentialProvider(`the response is not a CredentialProviderResponse of ${API_GROUP}`);
  }
  const duration = members.get('cacheDuration') ?? null;
  const cacheMs = typeof duration === 'string' ? parseGoDuration(duration) : undefined;
  if (duration !== null && cacheMs === undefined) {
    throw new InvalidCredentialProvider('cacheDuration is not a duration');
  }
  const auth = [...strictMembers(members.get('auth') ?? null, 'auth')].map(([pattern, value]) => {
    const entry = strictMembers(value, 'an entry of auth', ['username', 'password']);
    return [pattern, { username: textOf(entry, 'username'), password: textOf(entry, 'password') }] as const;
  });
  return { apiVersion, cacheKeyType: textOf(members, 'cacheKeyType'), cacheMs, auth: new Map(auth) };
}

/** The keys under which a response for `image` may be cached, in the order in which they are looked up. */
export function cacheKeys(image: string): { Image: string; Registry: string; Global: string } {
  return { Image: image, Registry: image.split('/', 1)[0] ?? '', Global: 'global' };
}

/**
 * How to use a response for `image`: `undefined` if it is discarded because of an unknown `cacheKeyType`; otherwise the
 * cache key and for how many milliseconds, if it is cached.
 */
export function cachingOf(
  response: Pick<CredentialProviderResponse, 'cacheKeyType' | 'cacheMs'>,
  image: string,
  defaultCacheMs: number,
): { readonly key: string | undefined; readonly cacheMs: number } | undefined {
  const key = Object.entries(cacheKeys(image)).find(([type]) => type === response.cacheKeyType)?.[1];
  if (key === undefined) return undefined;
  const cacheMs = response.cacheMs ?? defaultCacheMs;
  return { key: cacheMs === 0 ? undefined : key, cacheMs };
}

/** All members that the kubelet knows: with any other it does not start. */
const CONFIG_MEMBERS = ['kind', 'apiVersion', 'providers'];
const PROVIDER_MEMBERS = [
  'name',
  'apiVersion',
  'matchImages',
  'defaultCacheDuration',
  'args',
  'env',
  'tokenAttributes',
];
const VARIABLE_MEMBERS = ['name', 'value'];

/**
 * The plugins of a CredentialProviderConfig that was parsed from YAML or JSON; throws with all problems in one message.
 */
export function parseProviderConfig(document: unknown): readonly CredentialProvider[] {
  const config = asObject(document);
  const problems = unknownMembers(config, CONFIG_MEMBERS, '');
  const { apiVersion, kind, providers } = config;
  if (kind !== 'CredentialProviderConfig') problems.push('kind is not CredentialProviderConfig');
  if (!CONFIG_API_VERSIONS.has(apiVersion)) problems.push('apiVersion is not kubelet.config.k8s.io/v1');
  if (!Array.isArray(providers) || providers.length === 0) problems.push('providers is empty');
  const names = new Set<string>();
  const parsed = asList(providers).map((value, index) => {
    const provider = readProvider(value, `providers[${index}]`, problems);
    if (names.has(provider.name)) problems.push(`providers[${index}].name occurs twice`);
    names.add(provider.name);
    return provider;
  });
  if (problems.length > 0) throw new InvalidCredentialProvider(problems.join('; '));
  return parsed;
}

function readProvider(value: unknown, where: string, problems: string[]): CredentialProvider {
  const provider = asObject(value);
  const { name, apiVersion, matchImages, defaultCacheDuration, args, env, tokenAttributes } = provider;
  const check = (isRight: boolean, problem: string) => {
    if (!isRight) problems.push(`${where}.${problem}`);
  };
  const cacheMs =
    typeof defaultCacheDuration === 'string' ? parseGoDuration(defaultCacheDuration) : undefined;
  const patterns = asList(matchImages).map(String);
  const variables = asList(env).map(asObject);
  check(typeof name === 'string' && /^(?!\.{1,2}$)[^/\s]+$/.test(name), 'name is not a file name');
  check(API_VERSIONS.has(apiVersion), `apiVersion is not one of ${[...API_VERSIONS].join(', ')}`);
  check(patterns.length > 0, 'matchImages is empty');
  check(
    patterns.every(pattern => ImagePattern.parse(pattern) !== undefined),
    'matchImages has an invalid image pattern',
  );
  check(cacheMs !== undefined && cacheMs >= 0, 'defaultCacheDuration is not a duration such as 10m');
  check(
    variables.every(entry => typeof entry['name'] === 'string' && typeof entry['value'] === 'string'),
    'env has an entry that is not a name and a value',
  );
  problems.push(
    ...unknownMembers(provider, PROVIDER_MEMBERS, `${where}.`),
    ...variables.flatMap((entry, index) =>
      unknownMembers(entry, VARIABLE_MEMBERS, `${where}.env[${index}].`),
    ),
  );
  check(tokenAttributes === undefined, 'tokenAttributes requires pod tokens, which only a kubelet has');
  return {
    name: String(name),
    apiVersion: String(apiVersion),
    matchImages: patterns,
    defaultCacheMs: cacheMs ?? 0,
    args: asList(args).map(String),
    env: variables.map(entry => ({ name: String(entry['name']), value: String(entry['value']) })),
  };
}

/** A problem for each member of an object that is not in `known`. */
function unknownMembers(
  object: Readonly<Record<string, unknown>>,
  known: readonly string[],
  where: string,
): string[] {
  const unknown = Object.keys(object).filter(member => !known.includes(member));
  return unknown.map(member => `${where}${member} is unknown`);
}

/**
 * The members of an object; throws if one occurs twice or, if `known` is given, is not in it. `null` counts as an empty
 * object.
 */
function strictMembers(
  value: OrderedJson,
  where: string,
  known?: readonly string[],
): ReadonlyMap<string, OrderedJson> {
  if (value === null) return new Map();
  if (!(value instanceof JsonMembers)) throw new InvalidCredentialProvider(`${where} is not an object`);
  const members = new Map(value.entries);
  if (members.size !== value.entries.length) {
    throw new InvalidCredentialProvider(`${where} has a duplicate member`);
  }
  if (known !== undefined && [...members.keys()].some(name => !known.includes(name))) {
    throw new InvalidCredentialProvider(`${where} has a member other than ${known.join(', ')}`);
  }
  return members;
}

function textOf(members: ReadonlyMap<string, OrderedJson>, name: string): string {
  const value = members.get(name) ?? '';
  if (typeof value !== 'string') throw new InvalidCredentialProvider(`${name} is not a string`);
  return value;
}

function parseJson(text: string): OrderedJson {
  try {
    return parseOrderedJson(text);
  } catch (cause) {
    if (cause instanceof InvalidJson) throw new InvalidCredentialProvider(cause.message, { cause });
    throw cause;
  }
}

function asObject(value: unknown): Readonly<Record<string, unknown>> {
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
  return isObject ? { ...value } : {};
}

function asList(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}
