/**
 * A credential that this registry issued to a tenant. Only its keyed hash is kept; the row stays when it has ended, so
 * that copies of it in a tenant's Secrets never count as secrets of the tenant's own.
 */
export interface IssuedCredential {
  /** `Credential.id`. */
  readonly id: string;
  readonly tenant: string;
  readonly username: string;
  /** What it is good for, as the key of a docker config: `registry.example:5000`, perhaps with a path. */
  readonly server: string;
  /** For pulling only. */
  readonly readOnly: boolean;
  readonly issuedAtMs: number;
  /** From then on it counts no more; Infinity is never. Epoch ms. */
  readonly endsAtMs: number;
}

/** A tenant that the store knows by itself: one added on the command line, or a Kubernetes namespace once seen. */
export interface KnownTenant {
  readonly name: string;
  /** The namespace's UID, to which the tenant is bound; `undefined` is bound to none. */
  readonly uid: string | undefined;
}
