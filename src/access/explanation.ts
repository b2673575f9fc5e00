/** Why a tenant, or who comes without a login, may have a repository or not, in the order in which it is decided: for people. */
export interface Explanation {
  /** With its upstream. */
  readonly repository: string;
  /** `null`: anybody, without a login. */
  readonly tenant: string | null;
  /** What is tried upstream, in this order; empty for what lives here. */
  readonly attempts: readonly ExplainedAttempt[];
  /** What counts whatever the tenant presents: that it is public; that something of it was imported, which alone is open. */
  readonly grants: readonly ExplainedGrant[];
  /** What would happen, and why; one sentence each. */
  readonly conclusions: readonly string[];
}

/** What a running server answers: null for a tenant that it does not know. */
export type ExplainAnswer = { readonly explanation: Explanation | null } | { readonly problem: string };

export interface ExplainedAttempt {
  /** `undefined` is an attempt without credentials. */
  readonly credentialId: string | undefined;
  readonly username: string | undefined;
  /** The Secret's name, the node's file, the plugin, the configuration's own, or `none`. */
  readonly secret: string;
  readonly source: string;
  /** The key that matched. */
  readonly matchedKey: string | undefined;
  readonly grant: ExplainedGrant | undefined;
}

export interface ExplainedGrant {
  /** `credential`: upstream took this one. `public`: it asked for none. `imported`: an operator's word, for all or for this tenant. */
  readonly of: 'credential' | 'public' | 'imported for all' | 'imported for this tenant';
  /** Epoch ms. */
  readonly verifiedAtMs: number;
  /** `counts`: what is held is served. `stale`: only while upstream cannot be reached. `over`: not at all. */
  readonly state: 'counts' | 'stale' | 'over';
}
