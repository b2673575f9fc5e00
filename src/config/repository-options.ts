import { matchesName } from '../lib/name-pattern.ts';
import type { Repository } from '../oci/repository.ts';
import type { Config, UpstreamConfig } from './config.ts';
import type { RepositoryRule } from './schema.ts';

/** The options that may differ between the repositories of one upstream, settled for one of them. */
export interface RepositoryOptions {
  readonly pullPolicy: RepositoryRule['pullPolicy'];
  /** Infinity for `forever`. */
  readonly freshForMs: number;
  readonly staleWhileRevalidateMs: number;
  readonly openToAll: boolean;
  /** `undefined`: nothing was said. */
  readonly platforms: RepositoryRule['platforms'];
  readonly prefetch: boolean;
  readonly anonymousFallback: boolean;
}

/** What applies to `repository` (its OCI name within the upstream): the first rule that matches, then the upstream. */
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

/** Whether a repository's name may mean the image of another for one architecture. */
export function mayNameArch({ upstreams }: Pick<Config, 'upstreams'>, { upstream }: Repository): boolean {
  return upstreams.get(upstream)?.archInName === true;
}
