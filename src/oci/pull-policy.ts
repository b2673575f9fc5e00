import { DEFAULT_TAG, InvalidReference, parseImageName, parseNormalizedReference } from './reference.ts';

/** Kubernetes' `imagePullPolicy`. */
export type ImagePullPolicy = 'Always' | 'IfNotPresent' | 'Never';

/** From the strictest: to ask nobody, to ask each time, to ask once. */
const STRICTEST_FIRST: readonly ImagePullPolicy[] = ['Never', 'Always', 'IfNotPresent'];

/** Of several that apply the strictest, leaving out those that are not set. */
export function strictestPullPolicy(
  policies: readonly (ImagePullPolicy | undefined)[],
): ImagePullPolicy | undefined {
  return STRICTEST_FIRST.find(policy => policies.includes(policy));
}

/** The waits after failed pulls of one image (Kubernetes, ImagePullBackOff), for a `KeyedBackoff`. */
export const IMAGE_PULL_BACKOFF = { firstMs: 10_000, maxMs: 300_000 } as const;

/** What a reference says of the version wanted. */
export interface ReferenceVersion {
  readonly tag?: string | undefined;
  readonly digest?: string | undefined;
}

/**
 * The policy that Kubernetes fills in where none is given. Only the tag is looked at: `latest`, written or meant, is
 * pulled always, even with a digest behind it. A text that is no reference has no tag.
 */
export function defaultPullPolicy(image: string | ReferenceVersion): ImagePullPolicy {
  const { tag, digest } = typeof image === 'string' ? versionOf(image) : image;
  const meant = digest === undefined ? (tag ?? DEFAULT_TAG) : tag;
  return meant === DEFAULT_TAG ? 'Always' : 'IfNotPresent';
}

/** `image` as the kubelet hands it to the runtime: `:latest` behind it if it has neither tag nor digest. */
export function applyDefaultTag(image: string): string {
  const { tag, digest } = parseNormalizedReference(image);
  return tag === undefined && digest === undefined ? `${image}:${DEFAULT_TAG}` : image;
}

/** The kubelet's limits of image pulls, under its names. Absent members have no limit. */
export interface PullLimits {
  readonly serializeImagePulls: boolean;
  readonly maxParallelImagePulls?: number | undefined;
  readonly registryPullQPS?: number | undefined;
  readonly registryBurst?: number | undefined;
}

/** What the kubelet would refuse to start with, each said of one member; empty if it would start. */
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
