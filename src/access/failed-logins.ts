import { hash } from 'node:crypto';
import { Lru } from '../lib/lru.ts';
import { noNews, type News } from '../lib/news.ts';

/** How long a wrong password from a source is refused without another check. */
const REMEMBER_MS = 10_000;

/** The period over which attempts are counted. */
const WINDOW_MS = 5 * 60_000;

/**
 * Different wrong credentials per source and period. Nodes behind one address send the outdated pull secrets of many
 * tenants, each again and again; somebody who guesses sends thousands.
 */
const MAX_PER_SOURCE = 60;

/** The same with one user name: a person who mistypes, or a Secret that was changed a few times. */
const MAX_PER_NAME = 10;

/**
 * With one user name from all sources. Beyond this the name is under attack, and each source may try it only
 * MAX_PER_ATTACKED_NAME times.
 */
const MAX_PER_NAME_EVERYWHERE = 200;
const MAX_PER_ATTACKED_NAME = 3;

/**
 * Bounds the memory: up to 3 KB for a source that guesses, 200 bytes for others. An attacker with more networks than
 * this makes others be forgotten, but could guess from each of them anyway.
 */
const MAX_SOURCES = 4_096;
const MAX_NAMES = 4_096;
const MAX_RIGHT = 20_000;

/** For how many credentials it is remembered who tried them upstream, and how long: as long as a token lives. */
const MAX_TRIED = 20_000;
const TRIED_MS = 300_000;

/** How long a source keeps the benefit of a correct login: over a weekend. */
const RIGHT_MS = 3 * 24 * 3_600_000;

/** A login that is not known to be right. */
export interface Attempt {
  /** As returned by `networkOf`. */
  readonly source: string;
  /** `undefined` for a signed token, whose user name says nothing. */
  readonly username: string | undefined;
  readonly credentialId: string;
}

/** What a process tells the others, of an attempt or, if it was right, of the id of the credential or account. */
export type LoginNews =
  | { readonly counted: Attempt; readonly as: 'guess' | 'wrong' | 'tried' }
  | { readonly right: { readonly source: string; readonly proof: string } };

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
 * Limits how many passwords can be guessed, without locking out clients with the right one. A client that logged in
 * correctly from a source may go on there, whatever else comes from that source (which may be a whole company), and
 * guesses from elsewhere never block the first attempts of a source. Beyond the limit no password from a source is
 * checked, so right and wrong ones get the same answer. Memory is bounded, too.
 */
export class FailedLogins {
  readonly #nowMs: () => number;
  readonly #failedLogins = new Lru<object>({ maxEntries: MAX_RIGHT, maxAgeMs: REMEMBER_MS });
  readonly #right = new Lru<object>({ maxEntries: MAX_RIGHT, maxAgeMs: RIGHT_MS });
  readonly #sources = new Lru<Source>({ maxEntries: MAX_SOURCES, maxAgeMs: WINDOW_MS });
  readonly #names = new Lru<Name>({ maxEntries: MAX_NAMES, maxAgeMs: WINDOW_MS });
  /** From where credentials came that only upstream can judge. */
  readonly #triedFrom = new Lru<Attempt>({ maxEntries: MAX_TRIED, maxAgeMs: TRIED_MS });
  readonly #news: News<LoginNews>;

  constructor(nowMs: () => number = Date.now, news: News<LoginNews> = noNews) {
    this.#nowMs = nowMs;
    this.#news = news;
    news.listen(told => this.#learn(told));
  }

  /** Whether this source tried this credential in vain within the last seconds. */
  has({ source, credentialId }: Attempt): boolean {
    return this.#failedLogins.get(`${source} ${credentialId}`) !== undefined;
  }

  /** Whether the credential may be checked. One that was counted already is not a new guess. */
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

  /** Counts an attempt that failed. */
  count(attempt: Attempt): void {
    if (this.#count(attempt)) this.#news.tell({ counted: attempt, as: 'guess' });
  }

  /** Counts a failed attempt, and refuses the same one without another check for a while. */
  add(attempt: Attempt): void {
    this.#remember(attempt);
    this.#count(attempt);
    this.#news.tell({ counted: attempt, as: 'wrong' });
  }

  /** Counts an attempt whose result only upstream knows; until `noteGranted`, it may be a guess. */
  addTried(attempt: Attempt): void {
    const isNews =
      this.#count(attempt) || this.#triedFrom.get(attempt.credentialId)?.source !== attempt.source;
    this.#triedFrom.set(attempt.credentialId, attempt);
    if (isNews) this.#news.tell({ counted: attempt, as: 'tried' });
  }

  /** Upstream has accepted the credential: from the source that sent it last, it no longer counts as a guess. */
  noteGranted(credentialId: string): void {
    const from = this.#triedFrom.get(credentialId);
    if (from !== undefined) this.noteRight(from.source, credentialId);
  }

  /** Whether a correct login came from this source before. `proof` is the id of the credential or account. */
  wasRight(source: string, proof: string): boolean {
    return this.#right.get(`${source} ${proof}`) !== undefined;
  }

  noteRight(source: string, proof: string): void {
    if (!this.wasRight(source, proof)) this.#news.tell({ right: { source, proof } });
    this.#right.set(`${source} ${proof}`, {});
  }

  /** For changed Secrets: credentials that were wrong may now be right. Counts are kept. */
  clear(): void {
    this.#failedLogins.clear();
  }

  /** Seconds until the source may try again. */
  retryAfterS(source: string): number {
    const sinceMs = this.#sources.get(source)?.sinceMs ?? 0;
    return Math.max(1, Math.ceil((sinceMs + WINDOW_MS - this.#nowMs()) / 1000));
  }

  #learn(told: LoginNews): void {
    if ('right' in told) {
      this.#right.set(`${told.right.source} ${told.right.proof}`, {});
      return;
    }
    this.#count(told.counted);
    if (told.as === 'wrong') this.#remember(told.counted);
    if (told.as === 'tried') this.#triedFrom.set(told.counted.credentialId, told.counted);
  }

  #remember({ source, credentialId }: Attempt): void {
    this.#failedLogins.set(`${source} ${credentialId}`, {});
  }

  /** False if it was counted before, or its source has too many already. */
  #count({ source, username, credentialId }: Attempt): boolean {
    const nowMs = this.#nowMs();
    const known = this.#current(this.#sources.get(source));
    const counted = known ?? { sinceMs: nowMs, credentials: new Set(), names: new Map() };
    if (known === undefined) this.#sources.set(source, counted);
    const credential = numberOf(credentialId);
    if (counted.credentials.has(credential) || counted.credentials.size >= MAX_PER_SOURCE) return false;
    counted.credentials.add(credential);
    if (username === undefined) return true;
    const name = numberOf(hash('sha256', username));
    counted.names.set(name, (counted.names.get(name) ?? 0) + 1);
    const everywhere = this.#current(this.#names.get(String(name))) ?? { sinceMs: nowMs, count: 0 };
    everywhere.count += 1;
    this.#names.set(String(name), everywhere);
    return true;
  }

  #current<T extends { readonly sinceMs: number }>(counted: T | undefined): T | undefined {
    return counted !== undefined && this.#nowMs() - counted.sinceMs < WINDOW_MS ? counted : undefined;
  }
}

/** The first 28 bits of a cryptographic hash in hex, as a number that clients cannot choose. */
function numberOf(hex: string): number {
  return Number.parseInt(hex.slice(0, 7), 16);
}
