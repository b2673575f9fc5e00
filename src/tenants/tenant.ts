/**
 * tenants/: who. May import oci/ and lib/.
 *
 * A tenant is like a Kubernetes namespace: a name, ordered pull Secrets and options. The main idea: a client with a
 * credential from a tenant's Secrets acts as that tenant, and what the tenant may pull from upstreams is what its
 * Secrets give access to. So nothing has to be configured twice. This file declares what other folders see.
 */
import type { Credential } from '../oci/credential.ts';
import type { Platform } from '../oci/platform.ts';
import type { PassedOver, SecretOrigin } from './secret-source.ts';

/** A credential that may be tried upstream for an image. */
export interface HeldCredential {
  /** `undefined` for an anonymous attempt, which the runtime makes of an entry without a user name. */
  readonly credential: Credential | undefined;
  /** The name of the Secret or plugin, or the path of the node's file. */
  readonly secret: string;
  readonly source: SecretOrigin;
  /** The key that matched: host, port and path, perhaps with globs. */
  readonly matchedKey: string;
}

/** A place in a tenant with a credential that can identify a client. */
export interface Holder {
  readonly tenant: Tenant;
  readonly secret: string;
  /** Its key there, such as `docker.io` or `registry.example:5000/team-a`: what it is for. */
  readonly key: string;
  /** Whether this registry issued it to this tenant. It then has no other holder, wherever copies are. */
  readonly issued: boolean;
  /** Whether it was issued for pulling only. */
  readonly readOnly: boolean;
}

/** The state of a Secret. */
export interface SecretState {
  /** Unique within its tenant and origin. */
  readonly name: string;
  readonly source: SecretOrigin;
  readonly state: 'loaded' | 'malformed' | 'missing' | 'unread';
  /** What is wrong, without showing secrets. If `loadedAtMs` is set, the last good version still counts. */
  readonly reason?: string;
  /** When the content that counts was read. Epoch ms. */
  readonly loadedAtMs?: number;
  readonly lastUsedAtMs?: number;
  readonly lastRefusedAtMs?: number;
}

/** The options of a tenant. An absent one means the default for everybody. */
export interface TenantOptions {
  /** Kubernetes' pull policy for every image of the tenant; the stricter of this and the repository's applies. */
  readonly pullPolicy?: 'Always' | 'IfNotPresent' | 'Never' | undefined;
  /** Every pull by tag proves its right upstream, like Kubernetes' AlwaysPullImages. */
  readonly forceAlways?: boolean | undefined;
  /** How many bytes the tenant's own repositories may store in total. */
  readonly quotaBytes?: number | undefined;
  /** The only upstreams from which it may pull. */
  readonly upstreams?: readonly string[] | undefined;
  /** The only repositories that it may pull, with their upstream: patterns as in `upstreams.*.repositories`. */
  readonly repositories?: readonly string[] | undefined;
  /** The platforms that prefetch, pre-pull and bundles take for it. */
  readonly platforms?: readonly Platform[] | undefined;
  /** Whether it may push to its own repositories; by default it may. */
  readonly push?: boolean | undefined;
  /** How many simultaneous transfers from upstream; further ones queue. */
  readonly maxTransfers?: number | undefined;
}

/** A tenant of the configuration, which exists whatever the sources say. */
export interface ConfiguredTenant {
  readonly name: string;
  readonly options: TenantOptions;
}

/** A tenant as other folders see it. */
export interface Tenant {
  readonly name: string;
  readonly options: TenantOptions;
  /** In order of precedence. */
  readonly secrets: readonly SecretState[];
  /** Why the tenant is suspended: its namespace was created again, and has to be adopted. `undefined` if it is not. */
  readonly suspended: string | undefined;
  /** Whether the tokens of its namespace's ServiceAccounts may push; otherwise they are for pulling only. */
  readonly accountsMayPush: boolean;
  /**
   * The credentials that the kubelet would try for `image` (`docker.io/library/nginx`), in its order: Secrets, node,
   * plugins. Credentials issued by this registry are left out, since they are not meant for upstreams. Throws
   * TenantBroken.
   */
  lookup(image: string): Promise<readonly HeldCredential[]>;
}

/** A namespace or added tenant that is refused because its name means something else here. */
export interface RefusedTenant {
  readonly name: string;
  /** What the name means, and what can be done about it. */
  readonly reason: string;
}

/** A Secret of the tenant was never readable, so its rights upstream are unknown. The message says why. */
export class TenantBroken extends Error {
  override readonly name = 'TenantBroken';
  /** What the tenant itself may know: its Secrets and what is wrong in them, not from where they are read. */
  readonly told: string;

  constructor(message: string, told: string = message) {
    super(message);
    this.told = told;
  }
}

/** What has changed. */
export interface TenantsChange {
  /** Credentials that no tenant has any more: their Grants end. */
  readonly goneCredentialIds: readonly string[];
  /** Tenants whose Secrets have changed: their remembered failures end. */
  readonly tenants: readonly string[];
}

/** All tenants. */
export interface Tenants {
  /** Whether there is no tenant, so that nobody can log in. */
  readonly isEmpty: boolean;
  /** In ASCII order. */
  list(): readonly Tenant[];
  find(name: string): Tenant | undefined;
  /** In ASCII order. */
  readonly refused: readonly RefusedTenant[];
  /**
   * Whether a tenant had the name before it came to mean something else. The repositories below it are that tenant's,
   * so nobody may have them before the tenant is removed.
   */
  isDisputed(name: string): boolean;
  /**
   * Every place of a credential, by `Credential.id`. Empty for an unknown credential, for an empty user name or
   * password, and for the credentials of a suspended tenant. One lookup in memory for any number of tenants.
   */
  holders(credentialId: string): readonly Holder[];
  /**
   * Whether a tenant or the node has it now. Credentials of plugins are held by nobody, since they expire by
   * themselves.
   */
  isHeld(credentialId: string): boolean;
  /** Whether this registry issued it at any time: it is then never tried upstream. */
  wasIssued(credentialId: string): boolean;
  /** The node's files, which all tenants share. */
  readonly node: readonly SecretState[];
  /** When the Secrets that count were last seen, while some of them are from before this start. Epoch ms. */
  readonly recalledAtMs: number | undefined;
  /** Which sources of Secrets cannot be followed now, for people: their last known state counts. */
  readonly problems: readonly string[];
  /** What the sources are still waiting for; until then it is not known who a client is. */
  readonly waitingFor: string | undefined;
  /** Objects that the sources skip because they are too large; a limited number. */
  readonly passedOver: readonly PassedOver[];
  /**
   * The credentials of the node and of plugins for `image`, which any tenant may use, and others if the configuration
   * says so.
   */
  lookupShared(image: string): Promise<readonly HeldCredential[]>;
  /**
   * Records for `SecretState` that upstream accepted or refused a credential, or that a client logged in with one for
   * this registry.
   */
  noteOutcome(credentialId: string, outcome: 'used' | 'refused'): void;
  /** When a credential was last used. Epoch ms. */
  lastUsedAtMs(credentialId: string): number | undefined;
  /**
   * Reads the store again. Changes by other processes are noticed within a second without this. If it cannot be read, this
   * rejects, and is repeated until it can.
   */
  reload(): Promise<void>;
  /**
   * Takes the tenants of a new configuration, in which names may have other meanings. A name that was refused to a
   * namespace or an added tenant stays refused until a restart.
   */
  configure(configured: readonly ConfiguredTenant[]): void;
  /** Takes changes by other processes until now. Costs one query of a few rows. */
  catchUp(): Promise<void>;
  /** Returns a function that stops listening. */
  onChange(listener: (change: TenantsChange) => void): () => void;
  close(): Promise<void>;
}
