import { createHmac } from 'node:crypto';

/** A user name and password for a registry, with an id that may be logged and stored. */
export interface Credential {
  readonly username: string;
  readonly password: string;
  /**
   * A keyed hash of user name and password: the same in one store for the same credential, and useless for guessing it.
   */
  readonly id: string;
}

/** When a credential was last used, upstream or here, and when upstream last refused it. Epoch ms. */
export interface CredentialUsage {
  /** `Credential.id`. */
  readonly credentialId: string;
  readonly usedAtMs?: number;
  readonly refusedAtMs?: number;
}

/** The credential id under which results of anonymous requests are recorded. */
export const ANONYMOUS_ID = '';

/** The id of `credential`; ANONYMOUS_ID for `undefined`, an anonymous request. */
export function credentialId(credential: Credential | undefined): string {
  return credential?.id ?? ANONYMOUS_ID;
}

/** A credential with its id. `key` is the store's secret for these ids. */
export function nameCredential(key: string, username: string, password: string): Credential {
  // The length keeps 'a' + 'bc' and 'ab' + 'c' apart.
  const hash = createHmac('sha256', key).update(`${username.length}:${username}${password}`);
  return { username, password, id: hash.digest('hex').slice(0, ID_LENGTH) };
}

/** 128 bits: no collisions within a store. */
const ID_LENGTH = 32;
