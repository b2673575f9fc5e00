import type { Deed, RecordDeed } from '../http/front.ts';
import { repositoryText } from '../oci/repository.ts';
import type { Audit } from '../ops/audit.ts';

/** Writes each request to the audit log: who, what, and with which result; `undefined` without an audit log. */
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
