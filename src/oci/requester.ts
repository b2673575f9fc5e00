import type { Presence } from '../lib/lease.ts';
import type { MemoryHolder } from '../lib/memory-budget.ts';
import type { Credential } from './credential.ts';
import type { Platform } from './platform.ts';
import type { ImagePullPolicy } from './pull-policy.ts';
import type { ReadAhead } from './pull-read.ts';

/** Who sent a request, as far as that is proved. */
export interface Requester {
  /** The name of the tenant; `undefined` for anonymous requests and unknown credentials. */
  readonly tenant: string | undefined;
  /** Safe to log, and to count by; `anonymous` if the request has no credential. */
  readonly id: string;
  /** `Credential.id` of what was presented; for a Kubernetes ServiceAccount, `account:` and its UID. */
  readonly credentialId?: string | undefined;
  /** Set if no tenant has the credential. Anybody can have any number of such accounts upstream. */
  readonly isUnknown?: true;
  /** The address that it connects from, which others share; `undefined` if that is of no importance. */
  readonly remote?: string | undefined;
  /** How many transfers from upstream it may have at a time; further ones queue. */
  readonly maxTransfers?: number | undefined;
}

/** A requester without credentials, from no particular address. */
export const ANONYMOUS: Requester = { tenant: undefined, id: 'anonymous' };

/**
 * The share of memory that a requester's bodies count against. All logins of a tenant share one. Requesters without a
 * tenant have one per network that they connect from, within one for all of them.
 */
export function memoryHolder(
  { tenant, id, credentialId, isUnknown }: Requester,
  remote: string,
): MemoryHolder {
  if (tenant !== undefined) return { name: `tenant ${tenant}` };
  const isKnown = credentialId !== undefined && isUnknown !== true;
  return isKnown ? { name: id } : { name: `network ${networkOf(remote)}`, group: 'unknown' };
}

/** What one customer of a provider gets: an IPv4 address as it is, or of an IPv6 address the /64. */
export function networkOf(address: string): string {
  if (!address.includes(':')) return address;
  const [plain = ''] = address.split('%', 1);
  const [head = '', tail] = plain.split('::', 2);
  const left = head === '' ? [] : head.split(':');
  if (tail === undefined) return left.slice(0, NETWORK_GROUPS).join(':');
  const right = tail === '' ? [] : tail.split(':');
  const zeros = Array.from({ length: Math.max(0, IPV6_GROUPS - left.length - right.length) }, () => '0');
  return [...left, ...zeros, ...right].slice(0, NETWORK_GROUPS).join(':');
}

const IPV6_GROUPS = 8;
const NETWORK_GROUPS = 4;

/**
 * How many credentials are tried upstream for one request. The kubelet tries all that match; a pod has a few, but with
 * a large keyring one request would cause a flood of logins upstream. Credentials that upstream refused a moment ago
 * are skipped and not counted.
 */
export const MAX_ATTEMPTS = 20;

/**
 * What `access` decided about one request on one repository, before it reaches `mirror` or `hosted`. For a mirrored
 * repository: with which credentials upstream may be asked on the requester's behalf, and whether stored content may be
 * served without asking.
 */
export interface Right {
  readonly requester: Requester;
  /**
   * In the order in which they are tried upstream; `undefined` is an anonymous attempt. Never empty for a mirrored
   * repository.
   */
  readonly credentials: readonly (Credential | undefined)[];
  /**
   * A valid Grant covers the requester, or the repository is public: stored content is served without asking upstream.
   */
  readonly proved: boolean;
  /** If not `proved`: an expired Grant is still valid while upstream cannot be reached. */
  readonly provedIfUnreachable: boolean;
  /**
   * If neither holds, the requester may read only what was imported into the repository for one of these grantees; ''
   * is everybody.
   */
  readonly preloadedFor?: readonly string[] | undefined;
  /** The pull policy of the requester; the stricter of this and the repository's applies. */
  readonly pullPolicy?: ImagePullPolicy | undefined;
  /** Platforms to prefetch of an index, instead of those configured for the repository. */
  readonly platforms?: readonly Platform[] | undefined;
  /** Set if upstream is also asked with Entrepot's own credentials for this requester. */
  readonly own?: OwnLoginRight | undefined;
  /**
   * Entrepot's own credentials are among `credentials` only because the repository is public. What they can read and
   * the public cannot is not for this requester.
   */
  readonly isLent?: true;
  /** What the index said of the target of the request; absent if it was not asked. */
  readonly ahead?: ReadAhead | undefined;
  /** Every pull of a tag proves the right upstream, and none is served without (Kubernetes' AlwaysPullImages). */
  readonly forceAlways?: boolean;
}

/** What Entrepot's own credentials give to a requester. */
export interface OwnLoginRight {
  /**
   * Whether earlier proofs of these credentials let the requester have stored content while upstream refuses them, as
   * while upstream cannot be reached.
   */
  covers(): Promise<boolean>;
}

/** Reported to `access` after each upstream response that proves or ends a right. An upstream failure does neither. */
export interface Proof {
  readonly upstream: string;
  readonly repository: string;
  /** As in `credentialId`. */
  readonly credentialId: string;
  /** `granted`: a manifest or blob request succeeded. `ended`: 401, 403 or 404 for the repository. */
  readonly outcome: 'granted' | 'ended';
  /** In which upstream was asked: others may have seen an end of the right since. Default: the current one. */
  readonly during?: Presence | undefined;
  /** Of a proof: how long ago upstream was asked, ms. Default: no end that others have seen counts against it. */
  readonly agoMs?: (() => number) | undefined;
}
