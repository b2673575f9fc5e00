import type { DockerConfig, DockerConfigEntry } from './docker-config.ts';
import { ImagePattern, type ImageTarget, parseImageLocation, parseImageTarget } from './image-pattern.ts';

/** A Docker config and its origin: a Secret, the node, a credential provider. */
export interface KeyringConfig<Source> {
  readonly source: Source;
  readonly config: DockerConfig;
}

/** A credential that applies to an image. It may be empty: the kubelet tries such credentials, too. */
export interface KeyringEntry<Source> extends DockerConfigEntry {
  readonly source: Source;
  /** The key as matched: without scheme, user info, query, and `/v1/` or `/v2/`. */
  readonly key: string;
}

/** The key under which images of Docker Hub are looked up if no other key matches. */
const DEFAULT_REGISTRY_KEY = 'index.docker.io';

/**
 * Finds the credentials that the kubelet would try for an image, in its order. Immutable. The parts are searched in
 * turn (a pod's Secrets, the node, the plugins); within a part, the keys of all configs are sorted together.
 */
export class Keyring<Source> {
  readonly #parts: readonly KeyringPart<Source>[];

  constructor(parts: readonly (readonly KeyringConfig<Source>[])[]) {
    this.#parts = parts.map(configs => new KeyringPart(configs));
  }

  /** `image` is a normalized repository without tag and digest: `docker.io/library/nginx`. */
  lookup(image: string): readonly KeyringEntry<Source>[] {
    return this.#parts.flatMap(part => part.lookup(image));
  }

  /** All credentials of the keyring, for whatever image. */
  entries(): readonly KeyringEntry<Source>[] {
    return this.#parts.flatMap(part => part.entries());
  }
}

/** The entries of one key. */
interface KeyringSlot<Source> {
  readonly pattern: ImagePattern;
  readonly entries: readonly KeyringEntry<Source>[];
  /** The position in the order of trying. */
  readonly rank: number;
}

class KeyringPart<Source> {
  readonly #byKey: ReadonlyMap<string, readonly KeyringEntry<Source>[]>;
  /** By host if it has no globs, otherwise by shape, so that few patterns have to be compared. */
  readonly #byHost = new Map<string, KeyringSlot<Source>[]>();
  readonly #byShape = new Map<string, KeyringSlot<Source>[]>();

  constructor(configs: readonly KeyringConfig<Source>[]) {
    this.#byKey = collectByKey(configs);
    for (const [rank, [key, entries]] of [...this.#byKey].entries()) {
      const pattern = ImagePattern.parse(key);
      if (pattern === undefined) continue;
      const slot = { pattern, entries, rank };
      if (pattern.literalHost === undefined) append(this.#byShape, pattern.shape, slot);
      else append(this.#byHost, pattern.literalHost, slot);
    }
  }

  lookup(image: string): readonly KeyringEntry<Source>[] {
    const target = parseImageTarget(image);
    const matching = target === undefined ? [] : this.#match(target);
    if (matching.length > 0) return matching.flatMap(({ entries }) => entries);
    return isDefaultRegistryImage(image) ? (this.#byKey.get(DEFAULT_REGISTRY_KEY) ?? []) : [];
  }

  entries(): readonly KeyringEntry<Source>[] {
    return [...this.#byKey.values()].flat();
  }

  #match(target: ImageTarget): readonly KeyringSlot<Source>[] {
    const literal = this.#byHost.get(target.literalHost) ?? [];
    const globs = this.#byShape.get(target.shape) ?? [];
    const matching = [...literal, ...globs].filter(({ pattern }) => pattern.matches(target));
    return matching.sort((a, b) => a.rank - b.rank);
  }
}

/**
 * Entries by key. Keys are in descending order as strings, so that of two with a common prefix the longer comes first.
 * If one config has several spellings of a key, they are ordered by spelling.
 */
function collectByKey<Source>(
  configs: readonly KeyringConfig<Source>[],
): ReadonlyMap<string, readonly KeyringEntry<Source>[]> {
  const byKey = new Map<string, KeyringEntry<Source>[]>();
  for (const { source, config } of configs) {
    for (const [rawKey, entry] of [...config].sort(([a], [b]) => compareText(a, b))) {
      const key = indexKey(rawKey);
      if (key !== undefined) append(byKey, key, { ...entry, source, key });
    }
  }
  return new Map([...byKey].sort(([a], [b]) => compareText(b, a)));
}

/** `https://index.docker.io/v1/` → `index.docker.io`; `undefined` if it is not a URL. */
function indexKey(rawKey: string): string | undefined {
  const location = parseImageLocation(rawKey.replace(/^https?:\/\//, ''));
  if (location === undefined) return undefined;
  const path = /^\/v[12]\//.test(location.path) ? location.path.slice('/v1'.length) : location.path;
  return path === '/' ? location.host : location.host + path;
}

/** Whether Docker would look for `image` at Docker Hub. */
function isDefaultRegistryImage(image: string): boolean {
  const slash = image.indexOf('/');
  if (slash === -1) return image !== '';
  const first = image.slice(0, slash);
  if (first === '') return false;
  return first === 'docker.io' || first === DEFAULT_REGISTRY_KEY || !/[.:]/.test(first);
}

function append<Value>(map: Map<string, Value[]>, key: string, value: Value): void {
  const values = map.get(key);
  if (values === undefined) map.set(key, [value]);
  else values.push(value);
}

function compareText(a: string, b: string): number {
  if (a === b) return 0;
  return a < b ? -1 : 1;
}
