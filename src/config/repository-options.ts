import { matchesName } from '../lib/name-pattern.ts';
import type { Repository } from '../oci/repository.ts';
import type { Config, UpstreamConfig } from './config.ts';
import type { RepositoryRule } from './schema.ts';

/** The options of a repository that can differ from those of its upstream. */
export interface RepositoryOptions {
  /** `undefined` if not configured: then a tag's age decides. */
  readonly pullPolicy: RepositoryRule['pullPolicy'];
  /** Infinity for `forever`. */
  readonly freshForMs: number;
  /** How long after `freshForMs` a tag is served while upstream is asked in the background; 0 for never. */
  readonly staleWhileRevalidateMs: number;
  /** Whether anonymous clients may have what Entrepot's own credentials can read. */
  readonly openToAll: boolean;
  /** `undefined` if not configured. */
  readonly platforms: RepositoryRule['platforms'];
  /** Whether config and layers are fetched as soon as a manifest is requested. */
  readonly prefetch: boolean;
  /** Whether to retry anonymously if every credential fails. */
  readonly anonymousFallback: boolean;
}

/**
 * The options of `repository` (its name within the upstream): those of the first matching rule, then those of the
 * upstream.
 */
export function repositoryOptions(upstream: UpstreamConfig, repository: string): RepositoryOptions {
  const rule = upstream.repositories.find(({ match }) => matchesName(match, repository));
  const known = combined.get(upstream) ?? new Map<RepositoryRule | undefined, RepositoryOptions>();
  combined.set(upstream, known);
  const options = known.get(rule) ?? combine(upstream, rule);
  known.set(rule, options);
  return options;
}

/** By upstream and rule, since every request needs them several times. A reload makes new upstreams. */
const combined = new WeakMap<UpstreamConfig, Map<RepositoryRule | undefined, RepositoryOptions>>();

function combine(upstream: UpstreamConfig, rule: RepositoryRule | undefined): RepositoryOptions {
  return {
    pullPolicy: rule?.pullPolicy ?? upstream.pullPolicy,
    freshForMs: rule?.freshForMs ?? upstream.freshForMs,
    staleWhileRevalidateMs: rule?.staleWhileRevalidateMs ?? upstream.staleWhileRevalidateMs ?? 0,
    openToAll: rule?.openToAll ?? upstream.openToAll,
    platforms: rule?.platforms ?? upstream.platforms,
    prefetch: rule?.prefetch ?? upstream.prefetch,
    anonymousFallback: rule?.anonymousFallback ?? upstream.anonymousFallback,
  };
}

/** Whether a repository name may end in an architecture. */
export function mayNameArch({ upstreams }: Pick<Config, 'upstreams'>, { upstream }: Repository): boolean {
  return upstreams.get(upstream)?.archInName === true;
}
