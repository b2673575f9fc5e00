import { isDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { defaultPullPolicy, type ImagePullPolicy } from '../oci/pull-policy.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';

/** How fresh what is held has to be: all that is configured upstream-wide, per repository and per tenant, as one. */
export interface PullRule {
  /** The strictest that applies; `undefined` is Kubernetes' defaulting. */
  readonly pullPolicy: ImagePullPolicy | undefined;
  /** How old what upstream said of a tag may be under the defaulting, ms; Infinity never asks again. */
  readonly freshForMs: number;
  /** So long after that it is still served at once, and asked about behind the answer. */
  readonly staleWhileRevalidateMs?: number;
}

/** So long upstream may take to say what is asked before what is held is served instead. */
export const STALE_AFTER_MS = 5_000;

/** What a requester hears who wants what is not held, where upstream may not be asked. */
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

/** An image by the name with which `entrepot pull` fetches it. */
function whatOf(code: string, name: string, reference: string | undefined): string {
  if (reference === undefined) return name;
  if (code === 'BLOB_UNKNOWN') return `the blob ${reference} of ${name}`;
  return `${name}${isDigest(reference) ? '@' : ':'}${reference}`;
}

/** The rule for a repository. A requester may be held to a stricter policy of its own (`Right.pullPolicy`). */
export type PullRuleOf = (repository: Repository, right: Pick<Right, 'pullPolicy'>) => PullRule;

/**
 * `serve` what is held; `serve-and-ask`: serve it, and ask upstream behind the answer; `ask` before answering;
 * `never`: only what is held, if it is, and upstream is not asked.
 */
export type Freshness = 'serve' | 'serve-and-ask' | 'ask' | 'never';

/** What to do about `tag`, of which upstream spoke `ageMs` ago; `undefined` when nothing of it is held. */
export function freshnessOf(tag: string, ageMs: number | undefined, rule: PullRule): Freshness {
  const policy = rule.pullPolicy ?? defaultPullPolicy({ tag });
  if (policy === 'Never') return 'never';
  if (ageMs === undefined || policy === 'Always') return 'ask';
  // Asked for by name it means to the letter what the defaulting means for a while.
  if (rule.pullPolicy !== undefined) return 'serve';
  // A clock that was set back makes an age that nobody can judge.
  if (ageMs < 0) return 'ask';
  if (ageMs < rule.freshForMs) return 'serve';
  return ageMs < rule.freshForMs + (rule.staleWhileRevalidateMs ?? 0) ? 'serve-and-ask' : 'ask';
}
