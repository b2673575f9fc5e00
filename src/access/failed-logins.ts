import { hash } from 'node:crypto';
import { Lru } from '../lib/lru.ts';

/** How long a wrong password of one source is refused without another look. */
const REMEMBER_MS = 10_000;

/** What is counted is counted for so long. */
const WINDOW_MS = 5 * 60_000;

/**
 * Different wrong credentials of one source in that time: nodes behind one address bring the outdated pull secrets of
 * many tenants, each again and again; who guesses brings thousands.
 */
const MAX_PER_SOURCE = 60;

/** Of these with one user name: a person who mistypes, and a Secret that was changed a few times. */
const MAX_PER_NAME = 10;

/** With one user name from everywhere; beyond it the name is under attack, and each source may try it only so often. */
const MAX_PER_NAME_EVERYWHERE = 200;
const MAX_PER_ATTACKED_NAME = 3;

/**
 * What is remembered at most: some 3 KB for a source that guesses, 200 bytes for the rest. Who has more networks than
 * that is forgotten in turn, and has as many guesses as networks anyway.
 */
const MAX_SOURCES = 4_096;
const MAX_NAMES = 4_096;
const MAX_RIGHT = 20_000;

/** Who was right stays so over a weekend. */
const RIGHT_MS = 3 * 24 * 3_600_000;

/** One log-in that is not known to be right. */
export interface Attempt {
  /** See `sourceOf`. */
  readonly source: string;
  /** `undefined` for a signed token, of which the name says nothing. */
  readonly username: string | undefined;
  readonly credentialId: string;
}

interface Source {
  readonly sinceMs: number;
  readonly credentials: Set<number>;
  readonly names: Map<number, number>;
}

interface Name {
  readonly sinceMs: number;
  count: number;
}

/**
 * Bounds how many passwords can be guessed, without locking out who has the right one: who was right from a source may
 * go on there whatever else comes from it (a whole company behind one address), and no number of guesses elsewhere
 * keeps anybody's first attempts from being looked at. Beyond its bound nothing of a source is looked at, so that right
 * and wrong are answered alike. The memory is bounded too.
 */
export class FailedLogins {
  readonly #nowMs: () => number;
  readonly #failedLogins = new Lru<object>({ maxEntries: MAX_RIGHT, maxAgeMs: REMEMBER_MS });
  readonly #right = new Lru<object>({ maxEntries: MAX_RIGHT, maxAgeMs: RIGHT_MS });
  readonly #sources = new Lru<Source>({ maxEntries: MAX_SOURCES, maxAgeMs: WINDOW_MS });
  readonly #names = new Lru<Name>({ maxEntries: MAX_NAMES, maxAgeMs: WINDOW_MS });

  constructor(nowMs: () => number = Date.now) {
    this.#nowMs = nowMs;
  }

  /** Whether this source has tried this credential in vain a moment ago. */
  has({ source, credentialId }: Attempt): boolean {
    return this.#failedLogins.get(`${source} ${credentialId}`) !== undefined;
  }

  /** Whether the attempt may be looked at; one that was counted already is no new guess. */
  mayTry({ source, username, credentialId }: Attempt): boolean {
    const known = this.#current(this.#sources.get(source));
    if (known === undefined || known.credentials.has(numberOf(credentialId))) return true;
    if (known.credentials.size >= MAX_PER_SOURCE) return false;
    if (username === undefined) return true;
    const name = numberOf(hash('sha256', username));
    const everywhere = this.#current(this.#names.get(String(name)))?.count ?? 0;
    const most = everywhere >= MAX_PER_NAME_EVERYWHERE ? MAX_PER_ATTACKED_NAME : MAX_PER_NAME;
    return (known.names.get(name) ?? 0) < most;
  }

  /** Counts an attempt that was wrong, or of which only upstream can say whether it is right. */
  count({ source, username, credentialId }: Attempt): void {
    const nowMs = this.#nowMs();
    const known = this.#current(this.#sources.get(source));
    const counted = known ?? { sinceMs: nowMs, credentials: new Set(), names: new Map() };
    if (known === undefined) this.#sources.set(source, counted);
    const credential = numberOf(credentialId);
    if (counted.credentials.has(credential) || counted.credentials.size >= MAX_PER_SOURCE) return;
    counted.credentials.add(credential);
    if (username === undefined) return;
    const name = numberOf(hash('sha256', username));
    counted.names.set(name, (counted.names.get(name) ?? 0) + 1);
    const everywhere = this.#current(this.#names.get(String(name))) ?? { sinceMs: nowMs, count: 0 };
    everywhere.count += 1;
    this.#names.set(String(name), everywhere);
  }

  /** Refuses the credential without another look for a moment, and counts it. */
  add(attempt: Attempt): void {
    this.#failedLogins.set(`${attempt.source} ${attempt.credentialId}`, {});
    this.count(attempt);
  }

  /** Whether this was right from that source before. `proof`: a credential's id, or that of an account. */
  wasRight(source: string, proof: string): boolean {
    return this.#right.get(`${source} ${proof}`) !== undefined;
  }

  noteRight(source: string, proof: string): void {
    this.#right.set(`${source} ${proof}`, {});
  }

  /** Secrets have changed: what was wrong may be right now. What was counted stays counted. */
  clear(): void {
    this.#failedLogins.clear();
  }

  /** How long until the source may try again. */
  retryAfterS(source: string): number {
    const sinceMs = this.#sources.get(source)?.sinceMs ?? 0;
    return Math.max(1, Math.ceil((sinceMs + WINDOW_MS - this.#nowMs()) / 1000));
  }

  #current<T extends { readonly sinceMs: number }>(counted: T | undefined): T | undefined {
    return counted !== undefined && this.#nowMs() - counted.sinceMs < WINDOW_MS ? counted : undefined;
  }
}

/** What counts as one source: an IPv4 address, or the network that is given to one customer of IPv6. */
export function sourceOf(address: string): string {
  if (!address.includes(':')) return address;
  const [plain = ''] = address.split('%', 1);
  const [head = '', tail] = plain.split('::', 2);
  const left = head === '' ? [] : head.split(':');
  if (tail === undefined) return left.slice(0, NETWORK_GROUPS).join(':');
  const right = tail === '' ? [] : tail.split(':');
  const zeros = Array.from({ length: Math.max(0, IPV6_GROUPS - left.length - right.length) }, () => '0');
  return [...left, ...zeros, ...right].slice(0, NETWORK_GROUPS).join(':');
}

const IPV6_GROUPS = 8;
const NETWORK_GROUPS = 4;

/** The first 28 bits of a keyed or cryptographic hash in hex: a small integer, and none that a client can choose. */
function numberOf(hex: string): number {
  return Number.parseInt(hex.slice(0, 7), 16);
}
