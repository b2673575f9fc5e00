import { matchesName } from '../lib/name-pattern.ts';
import type { Repository } from '../oci/repository.ts';
import type { Config, UpstreamConfig } from './config.ts';
import type { RepositoryRule } from './schema.ts';

/** The options of a repository that can differ from those of its upstream. */
export interface RepositoryOptions {
  readonly pullPolicy: RepositoryRule['pullPolicy'];
  /** Infinity for `forever`. */
  readonly freshForMs: number;
  readonly staleWhileRevalidateMs: number;
  readonly openToAll: boolean;
  /** `undefined` if not configured. */
  readonly platforms: RepositoryRule['platforms'];
  readonly prefetch: boolean;
  readonly anonymousFallback: boolean;
}

/**
 * The options of `repository` (its name within the upstream): those of the first matching rule, then those of the
 * upstream.
 */
export function repositoryOptions(upstream: UpstreamConfig, repository: string): RepositoryOptions {
  const rule = upstream.repositories.find(({ match }) => matchesName(match, repository));
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
