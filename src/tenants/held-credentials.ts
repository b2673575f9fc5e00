import { nameCredential } from '../oci/credential.ts';
import type { KeyringEntry } from './keyring.ts';
import type { SecretOrigin } from './secret-source.ts';
import type { HeldCredential } from './tenant.ts';

/**
 * Turns keyring entries into credentials to try upstream. Each is computed once, since a keyring returns the same
 * entries for every lookup.
 */
export class HeldCredentials<Source> {
  readonly #credentialKey: string;
  readonly #originOf: (source: Source) => { readonly name: string; readonly source: SecretOrigin };
  readonly #made = new WeakMap<KeyringEntry<Source>, HeldCredential>();

  constructor(
    credentialKey: string,
    originOf: (source: Source) => { readonly name: string; readonly source: SecretOrigin },
  ) {
    this.#credentialKey = credentialKey;
    this.#originOf = originOf;
  }

  of(entry: KeyringEntry<Source>): HeldCredential {
    const made = this.#made.get(entry) ?? this.#make(entry);
    this.#made.set(entry, made);
    return made;
  }

  #make({ username, password, source, key }: KeyringEntry<Source>): HeldCredential {
    const { name, source: origin } = this.#originOf(source);
    const credential = username === '' ? undefined : nameCredential(this.#credentialKey, username, password);
    return { credential, secret: name, source: origin, matchedKey: key };
  }
}
