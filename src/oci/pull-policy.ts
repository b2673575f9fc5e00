import { DEFAULT_TAG, InvalidReference, parseImageName, parseNormalizedReference } from './reference.ts';

/** Kubernetes' `imagePullPolicy`. */
export type ImagePullPolicy = 'Always' | 'IfNotPresent' | 'Never';

/** Never asks upstream; Always asks for each pull; IfNotPresent asks once. */
const STRICTEST_FIRST: readonly ImagePullPolicy[] = ['Never', 'Always', 'IfNotPresent'];

/** The strictest of several policies, ignoring those that are not set; `undefined` if none is set. */
export function strictestPullPolicy(
  policies: readonly (ImagePullPolicy | undefined)[],
): ImagePullPolicy | undefined {
  return STRICTEST_FIRST.find(policy => policies.includes(policy));
}

/** The delays after failed pulls of an image (Kubernetes' ImagePullBackOff), for a `KeyedBackoff`. */
export const IMAGE_PULL_BACKOFF = { firstMs: 10_000, maxMs: 300_000 } as const;

/** The part of a reference that selects a version. */
export interface ReferenceVersion {
  readonly tag?: string | undefined;
  readonly digest?: string | undefined;
}

/**
 * The policy that Kubernetes sets if none is given: Always for the tag `latest`, given or implied, even with a digest
 * after it; otherwise IfNotPresent. A text that is not a reference has no tag.
 */
export function defaultPullPolicy(image: string | ReferenceVersion): ImagePullPolicy {
  const { tag, digest } = typeof image === 'string' ? versionOf(image) : image;
  const meant = digest === undefined ? (tag ?? DEFAULT_TAG) : tag;
  return meant === DEFAULT_TAG ? 'Always' : 'IfNotPresent';
}

/** `image` as the kubelet passes it to the runtime: with `:latest` if it has neither tag nor digest. */
export function applyDefaultTag(image: string): string {
  const { tag, digest } = parseNormalizedReference(image);
  return tag === undefined && digest === undefined ? `${image}:${DEFAULT_TAG}` : image;
}

/** The kubelet's limits on image pulls, under its names. An absent member means no limit. */
export interface PullLimits {
  readonly serializeImagePulls: boolean;
  readonly maxParallelImagePulls?: number | undefined;
  readonly registryPullQPS?: number | undefined;
  readonly registryBurst?: number | undefined;
}

/** The reasons for which the kubelet would refuse these limits, each with the member; empty if valid. */
export function pullLimitProblems(
  limits: PullLimits,
): readonly { member: keyof PullLimits; message: string }[] {
  const { serializeImagePulls, maxParallelImagePulls = 1, registryPullQPS = 0, registryBurst = 0 } = limits;
  const problems: { member: keyof PullLimits; message: string }[] = [];
  if (maxParallelImagePulls < 1) {
    problems.push({ member: 'maxParallelImagePulls', message: 'must be at least 1' });
  }
  if (serializeImagePulls && maxParallelImagePulls > 1) {
    problems.push({
      member: 'maxParallelImagePulls',
      message: 'cannot be larger than 1 unless serializeImagePulls is false',
    });
  }
  if (registryPullQPS < 0) problems.push({ member: 'registryPullQPS', message: 'must not be negative' });
  if (registryBurst < 0) problems.push({ member: 'registryBurst', message: 'must not be negative' });
  return problems;
}

function versionOf(image: string): ReferenceVersion {
  try {
    return parseImageName(image);
  } catch (error) {
    if (error instanceof InvalidReference) return { tag: '' };
    throw error;
  }
}
