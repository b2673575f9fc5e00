/** A user name and password for a registry, and a name for it that may be logged and stored. */
export interface Credential {
  readonly username: string;
  readonly password: string;
  /** A keyed hash of both: equal content has an equal id in one store, and nothing can be guessed from it. */
  readonly id: string;
}

/** The id under which what was reached without any credential is remembered. */
export const ANONYMOUS_ID = '';

/** The id of `credential`, where `undefined` is an anonymous request. */
export function credentialId(credential: Credential | undefined): string {
  return credential?.id ?? ANONYMOUS_ID;
}
