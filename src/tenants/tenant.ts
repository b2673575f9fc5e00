/**
 * tenants/: who. May import oci/ and lib/.
 *
 * A tenant is a Kubernetes namespace in spirit: a name, ordered pull Secrets and options. The one idea: whoever holds
 * a credential that stands in a tenant's Secrets is that tenant, and what the tenant may have upstream is what its
 * Secrets open there. So nothing here is configured twice: the cluster's own Secrets say it all.
 *
 * This file is what the rest of the house sees.
 */
import type { Credential } from '../oci/credential.ts';
import type { Platform } from '../oci/platform.ts';
import type { PassedOver } from './secret-source.ts';

/** A credential that may be tried upstream for an image. */
export interface HeldCredential {
  /** `undefined`: an attempt without credentials, as the runtime makes of an entry without a user name. */
  readonly credential: Credential | undefined;
  /** The Secret's name, the node file's path, or the plugin's name. */
  readonly secret: string;
  readonly source: SecretOrigin;
  /** The index key that matched: host, port and path, perhaps with globs. */
  readonly matchedKey: string;
}

/** One place in a tenant where a credential stands that may identify a client. */
export interface Holder {
  readonly tenant: Tenant;
  readonly secret: string;
  /** The index key it stands under, such as `docker.io` or `registry.example:5000/team-a`: what it is good for. */
  readonly key: string;
  /** This registry issued it to this tenant; then it has no other holders than this tenant, wherever copies lie. */
  readonly issued: boolean;
  /** Issued for pulling only. */
  readonly readOnly: boolean;
}

export type SecretOrigin = 'file' | 'folder' | 'kubernetes' | 'node' | 'issued' | 'plugin';

/** What became of one Secret. */
export interface SecretState {
  /** Unique within its tenant and origin. */
  readonly name: string;
  readonly source: SecretOrigin;
  readonly state: 'loaded' | 'malformed' | 'missing' | 'unread';
  /** What is wrong, in words that show no secret. With `loadedAtMs` set, the last good one still counts. */
  readonly reason?: string;
  /** When what counts now was read. Epoch ms. */
  readonly loadedAtMs?: number;
  readonly lastUsedAtMs?: number;
  readonly lastRefusedAtMs?: number;
}

/** What the configuration says of a tenant. Absent: as everybody. */
export interface TenantOptions {
  readonly pullPolicy?: 'Always' | 'IfNotPresent' | 'Never' | undefined;
  /** Every pull by tag proves its right upstream, like Kubernetes' AlwaysPullImages. */
  readonly forceAlways?: boolean | undefined;
  /** How much the tenant's own repositories may hold together, bytes. */
  readonly quotaBytes?: number | undefined;
  /** The only upstreams it may pull from. */
  readonly upstreams?: readonly string[] | undefined;
  /** The only repositories it may pull, with their upstream: patterns as in `upstreams.*.repositories`. */
  readonly repositories?: readonly string[] | undefined;
  /** What prefetch, pre-pull and bundles take for it. */
  readonly platforms?: readonly Platform[] | undefined;
  /** Whether it may push to its own repositories at all; by default it may. */
  readonly push?: boolean | undefined;
  /** Transfers from upstream at a time; more of them queue. */
  readonly maxTransfers?: number | undefined;
}

/** A tenant of the configuration, which is there whatever the sources say. */
export interface ConfiguredTenant {
  readonly name: string;
  readonly options: TenantOptions;
}

export interface Tenant {
  readonly name: string;
  readonly options: TenantOptions;
  /** In the order in which they count. */
  readonly secrets: readonly SecretState[];
  /** Why nothing of this tenant counts: its namespace was created anew, and waits to be adopted. */
  readonly suspended: string | undefined;
  /** The tokens of its namespace's ServiceAccounts may push; otherwise they are for pulling. */
  readonly accountsMayPush: boolean;
  /**
   * What the kubelet would try for `image` (`docker.io/library/nginx`), in its order: the Secrets, the node, the
   * plugins. Credentials that this registry issued are left out: they are nobody else's business. Throws TenantBroken.
   */
  lookup(image: string): Promise<readonly HeldCredential[]>;
}

/** Who would be a tenant, but for the name: it means something else here. */
export interface RefusedTenant {
  readonly name: string;
  /** What the name means, and what can be done about it. */
  readonly reason: string;
}

/** A Secret of the tenant was never readable, so what it may have upstream cannot be told. The message says why. */
export class TenantBroken extends Error {
  override readonly name = 'TenantBroken';
}

/** What changed. */
export interface TenantsChange {
  /** Credentials that no tenant holds any more: the Grants that they made end. */
  readonly goneCredentialIds: readonly string[];
  /** Tenants whose secrets differ now: their remembered failures end. */
  readonly tenants: readonly string[];
}

export interface Tenants {
  /** Nobody can log in. */
  readonly isEmpty: boolean;
  /** In ASCII order. */
  list(): readonly Tenant[];
  find(name: string): Tenant | undefined;
  /** In ASCII order. */
  readonly refused: readonly RefusedTenant[];
  /**
   * The name was a tenant's before it came to mean something else. What lies below it here is that tenant's, so that
   * nobody may have it before the tenant is removed.
   */
  isDisputed(name: string): boolean;
  /**
   * Everywhere a credential stands, by `Credential.id`: an empty list for what nobody holds, for an empty user name or
   * password, and for what a suspended tenant holds. One look-up in memory, whatever the number of tenants.
   */
  holders(credentialId: string): readonly Holder[];
  /** Whether a tenant or the node has it now. What plugins give is held by nobody: it ends by itself. */
  isHeld(credentialId: string): boolean;
  /** This registry issued it, and be it long ago: such a one is tried nowhere else. */
  wasIssued(credentialId: string): boolean;
  /** The node's files, which all tenants share. */
  readonly node: readonly SecretState[];
  /** When what counts was seen, as long as some of it is of before this start. Epoch ms. */
  readonly recalledAtMs: number | undefined;
  /** What of the sources of Secrets cannot be followed now: what was read last counts. */
  readonly problems: readonly string[];
  /** What the sources' start waits for, while it goes on: until then, who a tenant is cannot be told. */
  readonly waitingFor: string | undefined;
  /** What of the sources is not read, since it is too large; a bounded number of them. */
  readonly passedOver: readonly PassedOver[];
  /** What the node and the plugins have for `image`: any tenant may use it, and who else the configuration says. */
  lookupShared(image: string): Promise<readonly HeldCredential[]>;
  /**
   * Notes for `SecretState` that upstream took a credential or refused it, or that a client came with one that was made
   * for this registry.
   */
  noteOutcome(credentialId: string, outcome: 'used' | 'refused'): void;
  /** When a credential was used last. Epoch ms. */
  lastUsedAtMs(credentialId: string): number | undefined;
  /** Reads again what the store says. What other processes change there is seen within a second by itself. */
  reload(): Promise<void>;
  /**
   * Takes the tenants of a new configuration, which may also use names otherwise. A name that was refused to a namespace
   * or an added tenant stays refused until a restart.
   */
  configure(configured: readonly ConfiguredTenant[]): void;
  /** Sees at once what other processes have changed there until now. Costs one look at a few rows. */
  catchUp(): Promise<void>;
  /** Returns the way to stop listening. */
  onChange(listener: (change: TenantsChange) => void): () => void;
  close(): Promise<void>;
}
