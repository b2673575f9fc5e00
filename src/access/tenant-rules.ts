import { matchesName } from '../lib/name-pattern.ts';
import { type ImagePullPolicy, strictestPullPolicy } from '../oci/pull-policy.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Tenant } from '../tenants/tenant.ts';

/** Whether every one of `tenants` may pull from a mirrored repository at all. */
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

/** What the tenants together say of tags: the strictest of them. */
export function tagRules(tenants: readonly Tenant[]): {
  readonly pullPolicy: ImagePullPolicy | undefined;
  readonly forceAlways: boolean;
} {
  return {
    pullPolicy: strictestPullPolicy(tenants.map(({ options }) => options.pullPolicy)),
    forceAlways: tenants.some(({ options }) => options.forceAlways === true),
  };
}
