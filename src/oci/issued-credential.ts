/**
 * A credential that this registry issued to a tenant. Only a keyed hash of it is stored. The row is kept after the
 * credential has ended, so that copies of it in a tenant's Secrets are still recognized as issued here.
 */
export interface IssuedCredential {
  /** `Credential.id`. */
  readonly id: string;
  readonly tenant: string;
  readonly username: string;
  /** The registry that it is for, as in a Docker config: `registry.example:5000`, optionally with a path. */
  readonly server: string;
  /** For pulling only. */
  readonly readOnly: boolean;
  readonly issuedAtMs: number;
  /** When it ends, epoch ms; Infinity for never. */
  readonly endsAtMs: number;
}

/** A tenant that is recorded in the store: added with `entrepot tenant add`, or a namespace that was seen once. */
export interface KnownTenant {
  readonly name: string;
  /** The UID of the namespace to which the tenant is bound; `undefined` if it is not bound. */
  readonly uid: string | undefined;
}
