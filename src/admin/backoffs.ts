import type { RememberedFailure } from '../mirror/negative-cache.ts';
import type { BackoffDocument, BackoffsDocument } from './documents/backoffs.ts';
import { type PageAsk, pageOfSorted, sortedBy } from './paging.ts';
import { timeOf } from './status.ts';

/** As much of a credential's id as tells it from others. */
const SHOWN_ID = 12;

/** The beginning of a credential's id, by which `explain` names it, too. */
export function shownCredential(credentialId: string): string {
  return credentialId.slice(0, SHOWN_ID);
}

/** A page of remembered failures. */
export function backoffsDocument(failures: readonly RememberedFailure[], ask: PageAsk): BackoffsDocument {
  return pageOfSorted(sortedBy(failures.map(backoffOf), keyOf), keyOf, ask);
}

function keyOf({ id }: BackoffDocument): string {
  return id;
}

function backoffOf({ key, failure, atMs, untilMs }: RememberedFailure): BackoffDocument {
  const { upstream, repository, reference } = key;
  const credential = shownCredential(key.credentialId);
  return {
    id: `${upstream} ${repository} ${reference} ${credential}`,
    upstream,
    repository,
    reference,
    credential,
    kind: failure.kind,
    reason: failure.message,
    since: timeOf(atMs),
    until: timeOf(untilMs),
  };
}
