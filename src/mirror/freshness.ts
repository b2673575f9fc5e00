import { isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { defaultPullPolicy, type ImagePullPolicy } from '../oci/pull-policy.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** How fresh a stored tag must be: the options of upstream, repository and tenant combined. */
export interface PullRule {
  /** The strictest policy that applies; `undefined` for Kubernetes' default. */
  readonly pullPolicy: ImagePullPolicy | undefined;
  /** With the default policy: for how long a tag is served without asking upstream, ms; Infinity for ever. */
  readonly freshForMs: number;
  /** For how long after that it is served at once, and checked in the background. */
  readonly staleWhileRevalidateMs?: number;
}

/** How long upstream may take before stored content is served instead. */
export const STALE_AFTER_MS = 5_000;

/** The error for content that is not stored if upstream may not be asked. */
export function notHeld(
  code: 'MANIFEST_UNKNOWN' | 'BLOB_UNKNOWN' | 'NAME_UNKNOWN',
  repository: Repository,
  reference: string | undefined,
): OciError {
  const name = repositoryText(repository);
  return new OciError(code, {
    message: `${whatOf(code, name, reference)} is not stored here, and upstream may not be asked for it (offline, or pullPolicy: Never)`,
    detail: reference === undefined ? { name } : { name, reference },
  });
}

/** The image by the name that `entrepot pull` takes. */
function whatOf(code: string, name: string, reference: string | undefined): string {
  if (reference === undefined) return name;
  if (code === 'BLOB_UNKNOWN') return `the blob ${reference} of ${name}`;
  return `${name}${isDigest(reference) ? '@' : ':'}${reference}`;
}

/** Returns the rule for a repository. The requester may have a stricter policy of its own (`Right.pullPolicy`). */
export type PullRuleOf = (repository: Repository, right: Pick<Right, 'pullPolicy'>) => PullRule;

/**
 * `serve`: serve what is stored. `serve-and-ask`: serve it, and ask upstream in the background. `ask`: ask upstream
 * first. `never`: serve what is stored, if anything, and do not ask upstream.
 */
export type Freshness = 'serve' | 'serve-and-ask' | 'ask' | 'never';

/** What to do about `tag`, which upstream last confirmed `ageMs` ago; `undefined` if it is not stored. */
export function freshnessOf(tag: string, ageMs: number | undefined, rule: PullRule): Freshness {
  const policy = rule.pullPolicy ?? defaultPullPolicy({ tag });
  if (policy === 'Never') return 'never';
  if (ageMs === undefined || policy === 'Always') return 'ask';
  // An explicit IfNotPresent never expires; the default does after `freshForMs`.
  if (rule.pullPolicy !== undefined) return 'serve';
  // The clock was set back, so the age is unknown.
  if (ageMs < 0) return 'ask';
  if (ageMs < rule.freshForMs) return 'serve';
  return ageMs < rule.freshForMs + (rule.staleWhileRevalidateMs ?? 0) ? 'serve-and-ask' : 'ask';
}
