import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** What the configuration says of a tag: upstream-wide, per repository, per tenant, the strictest already chosen. */
export interface PullPolicy {
  /** Kubernetes' names and meaning; `undefined` is Kubernetes' defaulting. */
  readonly pullPolicy: 'Always' | 'IfNotPresent' | 'Never' | undefined;
  /** How old what upstream said of a tag may be under the defaulting, ms; Infinity never asks again. */
  readonly freshForMs: number;
  /** So long after that it is still served at once, and asked about behind the answer. */
  readonly staleWhileRevalidateMs?: number;
}

/** What a requester hears who wants what is not held, where upstream may not be asked. */
export function notHeld(
  code: 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN',
  repository: Repository,
  reference: string | undefined,
): OciError {
  const name = repositoryText(repository);
  const what = reference === undefined ? name : `${reference} of ${name}`;
  return new OciError(code, {
    message: `${what} is not held here, and upstream may not be asked for it (offline, or pullPolicy: Never)`,
    detail: reference === undefined ? { name } : { name, reference },
  });
}

/**
 * The policy for a tag of a repository; for what is asked by digest when `tag` is undefined. A requester may be held to
 * a stricter one of its own (`Right.pullPolicy`).
 */
export type PullPolicyOf = (
  repository: Repository,
  tag: string | undefined,
  right: Pick<Right, 'pullPolicy'>,
) => PullPolicy;

/**
 * `serve` what is held; `serve-and-ask`: serve it, and ask upstream behind the answer; `ask` before answering;
 * `never`: only what is held, if it is, and upstream is not asked.
 */
export type Freshness = 'serve' | 'serve-and-ask' | 'ask' | 'never';

/** Kubernetes pulls this tag always, unless told otherwise: it is meant to move. */
const MOVING_TAG = 'latest';

/** What to do about `tag`, of which upstream spoke `ageMs` ago; `undefined` when nothing of it is held. */
export function freshnessOf(tag: string, ageMs: number | undefined, policy: PullPolicy): Freshness {
  const pullPolicy = policy.pullPolicy ?? (tag === MOVING_TAG ? 'Always' : undefined);
  if (pullPolicy === 'Never') return 'never';
  if (ageMs === undefined || pullPolicy === 'Always') return 'ask';
  if (pullPolicy === 'IfNotPresent') return 'serve';
  // A clock that was set back makes an age that nobody can judge.
  if (ageMs < 0) return 'ask';
  if (ageMs < policy.freshForMs) return 'serve';
  return ageMs < policy.freshForMs + (policy.staleWhileRevalidateMs ?? 0) ? 'serve-and-ask' : 'ask';
}
