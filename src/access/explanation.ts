import type { ExplainedGrant } from '../grants/grants.ts';

/**
 * For `entrepot explain`: whether a tenant, or an anonymous client, may have a repository, and why, in the order in
 * which it is decided.
 */
export interface Explanation {
  /** With its upstream. */
  readonly repository: string;
  /** `null` for an anonymous client. */
  readonly tenant: string | null;
  /** Credentials in the order in which they are tried upstream; empty for a hosted repository. */
  readonly attempts: readonly ExplainedAttempt[];
  /**
   * Grants that do not depend on the client's credential: the repository is public, or something in it was imported.
   */
  readonly grants: readonly ExplainedGrant[];
  /** What would happen and why, one sentence each. */
  readonly conclusions: readonly string[];
}

/** A credential that is tried upstream, and where it is from. */
export interface ExplainedAttempt {
  /** `undefined` for an anonymous attempt. */
  readonly credentialId: string | undefined;
  readonly username: string | undefined;
  /** The name of the Secret, the node's file, the plugin, the configuration's own credential, or `none`. */
  readonly secret: string;
  readonly source: string;
  /** The key in the Secret that matched. */
  readonly matchedKey: string | undefined;
  readonly grant: ExplainedGrant | undefined;
}
