import type { Config } from '../config/config.ts';
import { RepositoryResolver } from '../oci/repository-resolver.ts';

/** The meaning of names by `config`; `isTenant` tells which other names own hosted repositories. */
export function repositoryResolverOf(
  config: Config,
  isTenant: (name: string) => boolean,
): RepositoryResolver {
  return new RepositoryResolver({
    upstreams: [...config.upstreams.values()],
    serverNames: config.server.serverNames,
    hostedPrefixes: { has: prefix => config.hosted.prefixes.includes(prefix) || isTenant(prefix) },
    defaultUpstream: config.defaultUpstream,
  });
}
