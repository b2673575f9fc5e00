import { Lru } from '../lib/lru.ts';

/** How long a wrong password of one source is refused without another look, and how long its guesses are counted. */
const REMEMBER_MS = 10_000;

/** A node that runs the pods of many tenants tries a few unknown credentials at once; who guesses tries thousands. */
const MAX_UNKNOWN_PER_SOURCE = 20;

/** More sources than a cluster has nodes; a memory that is full forgets the oldest. */
const MAX_SOURCES = 10_000;

interface Source {
  readonly credentialIds: Set<string>;
  readonly sinceMs: number;
}

/** Remembers who has just tried what in vain, per source: an address's mistake is not another's. */
export class WrongPasswords {
  readonly #nowMs: () => number;
  readonly #wrong = new Lru<object>({ maxEntries: MAX_SOURCES, maxAgeMs: REMEMBER_MS });
  readonly #tried = new Lru<Source>({ maxEntries: MAX_SOURCES, maxAgeMs: REMEMBER_MS });

  constructor(nowMs: () => number = Date.now) {
    this.#nowMs = nowMs;
  }

  /** Whether this source has tried this credential in vain a moment ago. */
  has(source: string, credentialId: string): boolean {
    return this.#wrong.get(`${source} ${credentialId}`) !== undefined;
  }

  add(source: string, credentialId: string): void {
    this.#wrong.set(`${source} ${credentialId}`, {});
  }

  /** Whether the source may have one more unknown credential tried; one that it has tried lately is no new one. */
  mayTry(source: string, credentialId: string): boolean {
    const known = this.#tried.get(source);
    const current = known !== undefined && this.#nowMs() - known.sinceMs < REMEMBER_MS ? known : undefined;
    const tried = current ?? { credentialIds: new Set<string>(), sinceMs: this.#nowMs() };
    if (tried.credentialIds.has(credentialId)) return true;
    if (tried.credentialIds.size >= MAX_UNKNOWN_PER_SOURCE) return false;
    tried.credentialIds.add(credentialId);
    if (current === undefined) this.#tried.set(source, tried);
    return true;
  }

  /** Secrets have changed: what was wrong may be right now. */
  clear(): void {
    this.#wrong.clear();
  }
}
