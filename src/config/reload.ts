import { isDeepStrictEqual } from 'node:util';
import type { Config } from './config.ts';
import { ConfigError } from './problems.ts';
import { ruleProblems } from './rules.ts';
import { parsedFileOf, writtenConfig } from './show.ts';
import { isTree } from './tree.ts';

/**
 * The result of reading the configuration again. Keys are those of the file: `upstreams.docker.io`, `storage.maxBytes`.
 */
export interface Reload {
  /** The new configuration in force, with every change that a running server can apply. */
  readonly config: Config;
  /** The keys that it changes. */
  readonly changed: readonly string[];
  /** The keys that differ in the file but keep their old values until a restart. */
  readonly needsRestart: readonly string[];
}

/** The new configuration is in force, but not all parts use it yet. The next reload tries again. */
export class PartlyReloaded extends Error {
  override readonly name = 'PartlyReloaded';
}

/** The keys that a running server applies; all others are read once, at startup. `reloaded` implements this. */
const RELOADABLE: ReadonlySet<string> = new Set([
  'upstreams',
  'tenants',
  'hosted',
  'pulls',
  'upkeep',
  'prepull',
  'notifications',
  'runtimeHandlers',
  'storage.maxBytes',
  'storage.maxLocalBytes',
  'storage.minFree',
  'log.level',
  'verifyFor',
  'staleGrantFor',
  'imagePullCredentialsVerificationPolicy',
  'preloadedImagesVerificationAllowlist',
]);

/** Sections whose changes are reported for each of their keys. */
const BY_KEY: ReadonlySet<string> = new Set(['server', 'storage', 'log', 'audit', 'upstreams']);

/**
 * What a server with `config` does when it reloads `next`. Throws ConfigError if the keys that it would apply are not
 * valid together with those that stay, such as anonymous pushes to a server that is reachable from outside until a
 * restart.
 */
export function planReload(config: Config, next: Config): Reload {
  const merged = reloaded(config, next);
  const problems = ruleProblems(parsedFileOf(merged), new Set());
  if (problems.length > 0) {
    throw new ConfigError(problems.map(problem => ({ ...problem, source: 'until a restart' })));
  }
  const keys = differences(config, next);
  return {
    config: merged,
    changed: keys.filter(isReloadable),
    needsRestart: keys.filter(key => !isReloadable(key)),
  };
}

function reloaded(config: Config, next: Config): Config {
  return {
    ...config,
    origin: { ...config.origin, sourceOf: next.origin.sourceOf },
    upstreams: next.upstreams,
    tenants: next.tenants,
    hosted: next.hosted,
    pulls: next.pulls,
    upkeep: next.upkeep,
    prepull: next.prepull,
    notifications: next.notifications,
    runtimeHandlers: next.runtimeHandlers,
    storage: { ...next.storage, path: config.storage.path, s3: config.storage.s3 },
    log: { ...next.log, format: config.log.format },
    verifyForMs: next.verifyForMs,
    staleGrantForMs: next.staleGrantForMs,
    imagePullCredentialsVerificationPolicy: next.imagePullCredentialsVerificationPolicy,
    preloadedImagesVerificationAllowlist: next.preloadedImagesVerificationAllowlist,
  };
}

const SECTIONS = ['hosted', 'pulls', 'upkeep', 'storage', 'log'] as const;

/**
 * Changes `config` to `next`, in place: parts that hold `config`, or one of its sections, and read a key when they need
 * it, see the new value from then on.
 */
export function putInForce(config: Config, next: Config): void {
  const sections = SECTIONS.map(name => [name, config[name]] as const);
  for (const [name, section] of sections) become(section, next[name]);
  Object.assign(config, next, Object.fromEntries(sections));
}

function become(section: object, next: object): void {
  if (section === next) return;
  for (const key of Object.keys(section)) Reflect.deleteProperty(section, key);
  Object.assign(section, next);
}

function isReloadable(key: string): boolean {
  return RELOADABLE.has(key) || RELOADABLE.has(key.split('.', 1)[0] ?? '');
}

/**
 * The keys of the file that differ; an upstream, the notifications and the logins of administrators also if what is read for
 * them differs: a password, a CA, a header.
 */
function differences(config: Config, next: Config): readonly string[] {
  const written = differingKeys(writtenConfig(config), writtenConfig(next));
  const read = [...next.upstreams]
    .filter(([name, upstream]) => !isDeepStrictEqual(upstream, config.upstreams.get(name)))
    .map(([name]) => `upstreams.${name}`);
  const isOtherEndpoint = !isDeepStrictEqual(config.notifications, next.notifications);
  if (isOtherEndpoint) read.push('notifications');
  if (!isDeepStrictEqual(config.admins, next.admins)) read.push('server.admins');
  return [...new Set([...written, ...read])];
}

function differingKeys(before: object, after: object, section = ''): readonly string[] {
  const keys = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...keys].flatMap(key => {
    const [one, other]: readonly unknown[] = [Reflect.get(before, key), Reflect.get(after, key)];
    if (isDeepStrictEqual(one, other)) return [];
    return section === '' && BY_KEY.has(key) && isTree(one) && isTree(other)
      ? differingKeys(one, other, `${key}.`)
      : [`${section}${key}`];
  });
}
