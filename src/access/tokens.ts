import { hash, hkdfSync } from 'node:crypto';
import {
  CompactEncrypt,
  compactDecrypt,
  createLocalJWKSet,
  decodeJwt,
  decodeProtectedHeader,
  errors,
  type JWK,
  type JWTPayload,
  jwtVerify,
  SignJWT,
} from 'jose';
import { isJsonObject } from '../lib/json.ts';
import { Lru } from '../lib/lru.ts';
import { OciError } from '../oci/errors.ts';
import type { Scope } from './scope.ts';
import { KEY_BYTES, type TokenKeys } from './token-keys.ts';

/** The content of a token: whom it identifies. What that one may do is decided when the token is used. */
export interface TokenClaims {
  /** `anonymous`: no credential. `unknown`: a credential that no tenant has, to be tried upstream. */
  readonly kind: 'anonymous' | 'credential' | 'account' | 'unknown';
  /** As in `Requester.credentialId`; '' for anonymous. */
  readonly credentialId: string;
  /** Set if the credential means one tenant for every repository. */
  readonly tenant?: string | undefined;
  /**
   * Only for `unknown`: the credential to ask upstream with, in whichever process serves the request. Encrypted in the
   * token.
   */
  readonly login?: TokenLogin | undefined;
  readonly access: readonly Scope[];
}

/** A user name and password in a token. */
export interface TokenLogin {
  readonly username: string;
  readonly password: string;
}

/** A signed token and its lifetime. */
export interface IssuedToken {
  readonly token: string;
  readonly expiresInS: number;
  readonly issuedAtMs: number;
}

/** Long enough for a client whose clock differs a little, short enough that a stolen token is soon useless. */
const LIFETIME_S = 300;

/** Twenty scopes of the longest names. Longer tokens are not ours and are not parsed. */
const MAX_TOKEN_LENGTH = 16 * 1024;

/** A few tokens for each node of a cluster. Verifying one again costs 65 µs, remembering one some hundred bytes. */
const MAX_VERIFIED = 20_000;

/** HMAC suffices, since only this registry reads its tokens. Fixed: the algorithm named in a token is never trusted. */
const ALGORITHM = 'HS256';

/**
 * Encrypts a login directly with the registry's own key (RFC 7518 §4.5), which is enough since the whole token is
 * signed.
 */
const SEALING = { alg: 'dir', enc: 'A256GCM' } as const;

const KINDS: ReadonlySet<unknown> = new Set(['anonymous', 'credential', 'account', 'unknown']);

/** A token that we have signed. */
export interface VerifiedToken {
  readonly claims: TokenClaims;
  readonly keyId: string;
  readonly expiresAtMs: number;
}

/** Our own bearer tokens (RFC 7519), bound to service, requester and scopes. */
export class Tokens {
  readonly #keys: TokenKeys;
  readonly #service: string;
  readonly #nowMs: () => number;
  readonly #verified = new Lru<VerifiedToken>({ maxEntries: MAX_VERIFIED });

  constructor(keys: TokenKeys, service: string, nowMs: () => number = Date.now) {
    this.#keys = keys;
    this.#service = service;
    this.#nowMs = nowMs;
  }

  /** The name of this registry in challenges and tokens. */
  get service(): string {
    return this.#service;
  }

  /** Throws UNAUTHORIZED for a login that is too long for a token. */
  async issue({ kind, credentialId, tenant, login, access }: TokenClaims): Promise<IssuedToken> {
    const { id, key } = await this.#keys.current();
    const sealed = login === undefined ? {} : { login: await seal(login, key) };
    const issuedAtMs = this.#nowMs();
    const issuedAtS = Math.floor(issuedAtMs / 1000);
    const token = await new SignJWT({ kind, cid: credentialId, access, ...sealed })
      .setProtectedHeader({ alg: ALGORITHM, typ: 'JWT', kid: id })
      .setIssuer(this.#service)
      .setAudience(this.#service)
      .setSubject(tenant ?? '')
      .setIssuedAt(issuedAtS)
      .setExpirationTime(issuedAtS + LIFETIME_S)
      .sign(key);
    if (token.length > MAX_TOKEN_LENGTH) {
      throw new OciError('UNAUTHORIZED', { message: 'the user name and password are too long for a token' });
    }
    return { token, expiresInS: LIFETIME_S, issuedAtMs };
  }

  /** `undefined` if the token is not ours, not for this service, or expired. */
  async verify(token: string): Promise<VerifiedToken | undefined> {
    if (token.length > MAX_TOKEN_LENGTH) return undefined;
    const name = hash('sha256', token, 'base64');
    const known = this.#verified.get(name);
    if (known !== undefined && this.#keys.accepts(known.keyId)) {
      return this.isValid(known) ? known : undefined;
    }
    const verified = await this.#verify(token);
    if (verified !== undefined) this.#verified.set(name, verified);
    return verified;
  }

  /** Whether a token that was verified is still valid. */
  isValid({ keyId, expiresAtMs }: VerifiedToken): boolean {
    return expiresAtMs > this.#nowMs() && this.#keys.accepts(keyId);
  }

  async #verify(token: string): Promise<VerifiedToken | undefined> {
    try {
      const { kid } = decodeProtectedHeader(token);
      const key = kid === undefined ? undefined : await this.#keys.find(kid);
      if (kid === undefined || key === undefined) return undefined;
      const { payload } = await jwtVerify(token, key, {
        algorithms: [ALGORITHM],
        issuer: this.#service,
        audience: this.#service,
        requiredClaims: ['exp'],
        currentDate: new Date(this.#nowMs()),
      });
      return { claims: await claimsOf(payload, key), keyId: kid, expiresAtMs: (payload.exp ?? 0) * 1000 };
    } catch (error) {
      // For a text that is no JWT, decodeProtectedHeader throws a TypeError.
      if (error instanceof errors.JOSEError || error instanceof TypeError) return undefined;
      throw error;
    }
  }
}

/** The claims of a verified payload. A TypeError here means that another version of Entrepot wrote the token. */
async function claimsOf(payload: JWTPayload, key: Uint8Array): Promise<TokenClaims> {
  const { kind, cid, sub, access, login } = payload;
  if (!isKind(kind) || typeof cid !== 'string' || !Array.isArray(access) || !access.every(isScope)) {
    throw new TypeError('the token has unexpected claims');
  }
  const opened = typeof login === 'string' ? { login: await unseal(login, key) } : {};
  return { kind, credentialId: cid, tenant: sub === '' ? undefined : sub, ...opened, access };
}

function seal({ username, password }: TokenLogin, key: Uint8Array): Promise<string> {
  const text = new TextEncoder().encode(JSON.stringify([username, password]));
  return new CompactEncrypt(text).setProtectedHeader(SEALING).encrypt(sealingKey(key));
}

async function unseal(sealed: string, key: Uint8Array): Promise<TokenLogin> {
  const { plaintext } = await compactDecrypt(sealed, sealingKey(key), {
    keyManagementAlgorithms: [SEALING.alg],
    contentEncryptionAlgorithms: [SEALING.enc],
  });
  const [username, password]: unknown[] = JSON.parse(new TextDecoder().decode(plaintext));
  if (typeof username !== 'string' || typeof password !== 'string') {
    throw new TypeError('the token has an unexpected login');
  }
  return { username, password };
}

/** The key for encryption, derived so that signing and encryption use different keys (RFC 5869). */
function sealingKey(key: Uint8Array): Uint8Array {
  return new Uint8Array(hkdfSync('sha256', key, '', 'entrepot token login', KEY_BYTES));
}

function isKind(value: unknown): value is TokenClaims['kind'] {
  return KINDS.has(value);
}

function isScope(value: unknown): value is Scope {
  if (typeof value !== 'object' || value === null) return false;
  const { type, name, actions } = value as Partial<Record<keyof Scope, unknown>>;
  return (
    typeof type === 'string' &&
    typeof name === 'string' &&
    Array.isArray(actions) &&
    actions.every(action => typeof action === 'string')
  );
}

/** What to require of a token of another issuer. */
export interface ForeignToken {
  readonly token: string;
  readonly issuer: string;
  /** At least one of these must match; never empty. */
  readonly audiences: readonly string[];
  /** The public keys of the issuer (RFC 7517). */
  readonly keys: readonly Readonly<Record<string, unknown>>[];
  readonly nowMs: number;
}

/** Only algorithms with a private key: with HMAC, anybody who knows the public key could sign. */
const FOREIGN_ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
];

/** For the clocks of two synchronized machines. */
const CLOCK_TOLERANCE_S = 10;

/**
 * The claims of a token of another issuer; `unknown-signer` if none of `keys` signed it or it names another issuer;
 * `undefined` if it is invalid for another reason.
 */
export async function verifyForeignToken({
  token,
  issuer,
  audiences,
  keys,
  nowMs,
}: ForeignToken): Promise<JWTPayload | 'unknown-signer' | undefined> {
  if (token.length > MAX_TOKEN_LENGTH) return undefined;
  try {
    const { payload } = await jwtVerify(token, createLocalJWKSet({ keys: keys.filter(isJwk) }), {
      algorithms: FOREIGN_ALGORITHMS,
      issuer,
      audience: [...audiences],
      requiredClaims: ['exp', 'aud', 'sub'],
      clockTolerance: CLOCK_TOLERANCE_S,
      currentDate: new Date(nowMs),
    });
    return payload;
  } catch (error) {
    if (isOfUnknownSigner(error)) return 'unknown-signer';
    if (error instanceof errors.JOSEError || error instanceof TypeError) return undefined;
    throw error;
  }
}

function isOfUnknownSigner(error: unknown): boolean {
  if (error instanceof errors.JWTClaimValidationFailed) return error.claim === 'iss';
  return error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWSSignatureVerificationFailed;
}

/**
 * The UID of the ServiceAccount that a Kubernetes token claims to belong to, without verification; `undefined` if none.
 */
export function claimedAccount(token: string): string | undefined {
  try {
    const { 'kubernetes.io': bound } = decodeJwt(token);
    const account = isJsonObject(bound) ? bound['serviceaccount'] : undefined;
    const uid = isJsonObject(account) ? account['uid'] : undefined;
    return typeof uid === 'string' ? uid : undefined;
  } catch (error) {
    if (error instanceof errors.JOSEError) return undefined;
    throw error;
  }
}

/** Whether the entry is a JWK. Other members are ignored, and keys of unusable types are skipped later. */
function isJwk(key: Readonly<Record<string, unknown>>): key is JWK & Readonly<Record<string, unknown>> {
  return typeof key['kty'] === 'string';
}
