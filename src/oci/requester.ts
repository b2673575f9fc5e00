import type { MemoryHolder } from '../lib/memory-budget.ts';
import type { Credential } from './credential.ts';
import type { Platform } from './platform.ts';
import type { ImagePullPolicy } from './pull-policy.ts';

/** Who is asking, as far as it was proved. */
export interface Requester {
  /** The tenant's name; `undefined` is anonymous. */
  readonly tenant: string | undefined;
  /** Safe to log and to count by; `anonymous` for nobody in particular. */
  readonly id: string;
  /** `Credential.id` of what was presented; for a Kubernetes service account, `account:` and its UID. */
  readonly credentialId?: string | undefined;
  /** No tenant holds the credential: one account upstream is as good as another, and anybody may have many. */
  readonly isUnknown?: true;
  /** Transfers from upstream at a time; more of them queue. */
  readonly maxTransfers?: number | undefined;
}

export const ANONYMOUS: Requester = { tenant: undefined, id: 'anonymous' };

/**
 * How a requester's memory is counted: a tenant's logins share what it may have. Of those whom nobody here knows, each
 * network that they ask from has a share, and all together one.
 */
export function memoryHolder(
  { tenant, id, credentialId, isUnknown }: Requester,
  source: string,
): MemoryHolder {
  if (tenant !== undefined) return { name: `tenant ${tenant}` };
  const isKnown = credentialId !== undefined && isUnknown !== true;
  return isKnown ? { name: id } : { name: `source ${source}`, group: 'unknown' };
}

/**
 * Credentials that are tried upstream for one question. The kubelet tries all that match; a pod has a few, while a
 * keyring of many would make one request of a client's a storm of log-ins upstream. What upstream has refused a moment
 * ago is not tried again and does not count.
 */
export const MAX_ATTEMPTS = 20;

/**
 * What `access` settled for one request on one repository before it reaches `mirror` or `hosted`.
 * For a mirrored repository it says with which credentials upstream may be asked on the requester's behalf,
 * and whether what is held may be served without asking.
 */
export interface Right {
  readonly requester: Requester;
  /** In the order they are tried upstream; `undefined` is an anonymous attempt. Never empty for a mirrored repository. */
  readonly credentials: readonly (Credential | undefined)[];
  /** A Grant (or a public repository) covers this requester now: what is held is served without asking upstream. */
  readonly proved: boolean;
  /** Not proved, but an expired Grant still counts while upstream cannot be reached. */
  readonly provedIfUnreachable: boolean;
  /**
   * Without either, the requester may read what was imported into the repository for one of these, and nothing else:
   * '' is what was imported for everybody.
   */
  readonly preloadedFor?: readonly string[] | undefined;
  /** What the requester's own rules say of tags; the strictest of this and the repository's counts. */
  readonly pullPolicy?: ImagePullPolicy | undefined;
  /** Of an index the requester is fetched these ahead, instead of what the repository says. */
  readonly platforms?: readonly Platform[] | undefined;
  /** Set where upstream is also asked with Entrepot's own login for this requester. */
  readonly own?: OwnLoginRight | undefined;
  /**
   * Entrepot's own login is among `credentials` because the repository is public, and for no other reason: what it can read
   * and the public no longer can is not for this requester.
   */
  readonly isLent?: true;
  /** Each pull of a tag proves the right upstream, and none is answered without (Kubernetes' AlwaysPullImages). */
  readonly forceAlways?: boolean;
}

/** What Entrepot's own login opens to a requester. */
export interface OwnLoginRight {
  /**
   * Whether what it proved before is enough for the requester to have what is held while the login proves nothing: as
   * while upstream cannot be reached.
   */
  covers(): Promise<boolean>;
}

/** Told to `access` after each upstream answer that says something about a right. An upstream error says nothing. */
export interface Proof {
  readonly upstream: string;
  readonly repository: string;
  /** As in `credentialId`. */
  readonly credentialId: string;
  /** `granted`: a manifest or blob request succeeded. `ended`: 401, 403 or 404 for the repository. */
  readonly outcome: 'granted' | 'ended';
}
