import type { Deed, RecordDeed } from '../http/front.ts';
import { repositoryText } from '../oci/repository.ts';
import type { Audit } from '../ops/audit.ts';

/** What the audit log says of a deed: who, what, and what came of it. */
export function deedsTo(audit: Audit | undefined): RecordDeed | undefined {
  return audit && (deed => audit.record(lineOf(deed)));
}

function lineOf({ requester, repository, ...rest }: Deed): object {
  return {
    tenant: requester?.tenant,
    requester: requester?.id,
    credentialId: requester?.credentialId,
    repository: repository && repositoryText(repository),
    ...rest,
  };
}
