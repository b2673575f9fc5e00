import { matchesName } from '../lib/name-pattern.ts';
import type { Platform } from '../oci/platform.ts';
import { type ImagePullPolicy, strictestPullPolicy } from '../oci/pull-policy.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Tenant } from '../tenants/tenant.ts';

/** Whether every one of `tenants` may pull from a mirrored repository. */
export function mayPullFrom(tenants: readonly Tenant[], repository: Repository): boolean {
  return tenants.every(({ options: { upstreams, repositories } }) => {
    const isUpstreamAllowed = upstreams === undefined || upstreams.includes(repository.upstream);
    const text = repositoryText(repository);
    return (
      isUpstreamAllowed &&
      (repositories === undefined || repositories.some(pattern => matchesName(pattern, text)))
    );
  });
}

/** The combined rules of the tenants: the strictest pull policy, and the platforms of all. */
export function tagRules(tenants: readonly Tenant[]): {
  readonly pullPolicy: ImagePullPolicy | undefined;
  readonly forceAlways: boolean;
  readonly platforms: readonly Platform[] | undefined;
} {
  const platforms = tenants.flatMap(({ options }) => options.platforms ?? []);
  return {
    pullPolicy: strictestPullPolicy(tenants.map(({ options }) => options.pullPolicy)),
    forceAlways: tenants.some(({ options }) => options.forceAlways === true),
    platforms: platforms.length === 0 ? undefined : platforms,
  };
}
