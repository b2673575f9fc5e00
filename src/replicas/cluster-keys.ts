import { hkdfSync } from 'node:crypto';
import type { TlsOptions } from 'node:tls';
import type { ClusterTls } from './cluster-tls.ts';

/** So that nobody finds a key by trying: a person's password is shorter. */
const MIN_KEY_CHARACTERS = 32;

/**
 * A key that both sides know proves each to the other and encrypts all between them, without certificates (RFC 5489). In
 * TLS 1.3, Node supports none.
 */
const TLS: TlsOptions = {
  ciphers: 'ECDHE-PSK-CHACHA20-POLY1305',
  minVersion: 'TLSv1.2',
  maxVersion: 'TLSv1.2',
};

interface ClusterKey {
  /** Names the key in handshakes, and says nothing about it. */
  readonly identity: string;
  readonly psk: Buffer;
}

/** The text of a file of keys that cannot be used; the message completes the sentence `expected …`. */
export class UnusableKeys extends Error {
  override readonly name = 'UnusableKeys';
}

/**
 * What replicas share: connections are made with the first key, and accepted with any. So replicas can be given another key
 * one after the other: first as a further one, then as the first, then alone. Keys may be replaced while the process runs;
 * an existing connection stays until what is being sent over it is complete.
 */
export class ClusterKeys implements ClusterTls {
  #keys: readonly [first: ClusterKey, ...others: ClusterKey[]];
  #version = 0;
  #renewed: () => void = () => {};

  /** `text` has a key on each line. Throws UnusableKeys. */
  constructor(text: string) {
    this.#keys = keysIn(text);
  }

  /** Uses the keys in `text` from now on. Throws UnusableKeys, and then changes nothing. */
  renew(text: string): void {
    this.#keys = keysIn(text);
    this.#version += 1;
    this.#renewed();
  }

  get version(): number {
    return this.#version;
  }

  get forServer() {
    return {
      ...TLS,
      pskCallback: (_socket: unknown, identity: string) =>
        this.#keys.find(key => key.identity === identity)?.psk ?? null,
    };
  }

  get forClient() {
    const [{ identity, psk }] = this.#keys;
    return {
      ...TLS,
      pskCallback: () => ({ identity, psk }),
      // There is no certificate: the key proves who it is.
      checkServerIdentity: () => undefined,
    };
  }

  /** Without one of the keys there is no connection. */
  admits(): boolean {
    return true;
  }

  /** The alert is the only trace of it. */
  isDistrust(failure: unknown): boolean {
    return failure instanceof Error && /alert unknown psk identity/i.test(failure.message);
  }

  follow(renewed: () => void): void {
    this.#renewed = renewed;
  }
}

function keysIn(text: string): readonly [ClusterKey, ...ClusterKey[]] {
  const lines = text.split('\n').flatMap(line => line.trim() || []);
  const [first, ...others] = lines.map(keyOf);
  if (first === undefined || lines.some(({ length }) => length < MIN_KEY_CHARACTERS))
    throw new UnusableKeys(`a line of at least ${MIN_KEY_CHARACTERS} characters for each key`);
  return [first, ...others];
}

function keyOf(line: string): ClusterKey {
  const derived = (what: string, bytes: number) =>
    Buffer.from(hkdfSync('sha256', line, '', `entrepot replicas: ${what}`, bytes));
  return { identity: derived('name', 8).toString('hex'), psk: derived('key', 32) };
}
