import { formatDuration } from '../lib/units.ts';
import { isDigest } from './digest.ts';
import { type Repository, repositoryText } from './repository.ts';

// The words for why a pull fails or is not quite what was asked for, which clients print. None tells a client what it may not
// know; log, `entrepot explain` and the page say more. Quotas and rights to hosted repositories have theirs where they are
// decided.

/** Of everything that upstream refuses or does not have, so that nobody can tell one from the other. */
export const HIDDEN = 'upstream has no such content, or this client may not read it';

/** Upstream has failed too recently; `reason` says how. */
export function notAskedAgain(waitMs: number, reason: string): string {
  return `upstream is not asked again for ${formatDuration(Math.ceil(waitMs / 1000) * 1000)}: ${reason}`;
}

/** A rule of the tenant, for itself. */
export function notAllowed(tenant: string): string {
  return `${tenant} is not allowed to pull it (upstreams and repositories of the tenant)`;
}

/** What is pushed there, or deleted. */
export function readOnlyMirrorOf(repository: Repository): string {
  return `${repositoryText(repository)} is a mirror of ${repository.upstream}: it can only be pulled`;
}

/** Of stored content that is served all the same. */
export function notConfirmed(repository: Repository, reference: string): string {
  const image = `${repositoryText(repository)}${isDigest(reference) ? '@' : ':'}${reference}`;
  return `upstream could not confirm ${image}, so this is what was stored of it before`;
}

/** What kept upstream from answering at all. `forbidden`: the guard refused an address that upstream has named. */
export type Obstacle = 'offline' | 'unreachable' | 'forbidden' | 'timeout' | 'broken';

/** By what kept it from answering. Which address, and what exactly was wrong with it, is for operators. */
export function noAnswerFrom(upstream: string, obstacle: Obstacle): string {
  return {
    offline: `this registry is offline and does not contact ${upstream}`,
    unreachable: `${upstream} cannot be reached`,
    forbidden: `${upstream} named a host that this registry does not contact`,
    timeout: `${upstream} did not answer in time`,
    broken: `the connection to ${upstream} broke off`,
  }[obstacle];
}

/** Upstream has refused this registry's own credentials, not the client's. */
export function ownLoginRefusedBy(upstream: string): string {
  return `upstream refused Entrepot's credentials for ${upstream}`;
}
