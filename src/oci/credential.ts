import { createHmac } from 'node:crypto';

/** A user name and password for a registry, and a name for it that may be logged and stored. */
export interface Credential {
  readonly username: string;
  readonly password: string;
  /** A keyed hash of both: equal content has an equal id in one store, and nothing can be guessed from it. */
  readonly id: string;
}

/** When a credential was used last, upstream or here, and when upstream refused it. Epoch ms. */
export interface CredentialUsage {
  /** `Credential.id`. */
  readonly credentialId: string;
  readonly usedAtMs?: number;
  readonly refusedAtMs?: number;
}

/** The id under which what was reached without any credential is remembered. */
export const ANONYMOUS_ID = '';

/** The id of `credential`, where `undefined` is an anonymous request. */
export function credentialId(credential: Credential | undefined): string {
  return credential?.id ?? ANONYMOUS_ID;
}

/** Makes the credential of a user name and password; `key` is the store's own secret for naming credentials. */
export function nameCredential(key: string, username: string, password: string): Credential {
  // The length keeps 'a' + 'bc' and 'ab' + 'c' apart.
  const hash = createHmac('sha256', key).update(`${username.length}:${username}${password}`);
  return { username, password, id: hash.digest('hex').slice(0, ID_LENGTH) };
}

/** 128 bits: no two credentials of one store meet by chance. */
const ID_LENGTH = 32;
