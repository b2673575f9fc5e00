import { type BackoffSchedule, backoffMs } from '../lib/backoff.ts';
import type { HttpResponse } from '../lib/http-client.ts';
import { Lru } from '../lib/lru.ts';
import { noNews, type News } from '../lib/news.ts';
import { headerOf } from './body.ts';
import { UpstreamFailure } from './failures.ts';

/** What is known of an upstream's rate limit for one credential. */
export interface Budget {
  readonly credentialId: string;
  /** Requests per window. */
  readonly limit: number | undefined;
  readonly remaining: number | undefined;
  readonly windowS: number | undefined;
  /** For how long no request will be sent; 0 if one may be. */
  readonly limitedMs: number;
  /** How fast `remaining` has become less lately; `undefined` if that is not known. */
  readonly spentPerS: number | undefined;
}

/** What remained at some time. */
interface Mark {
  readonly atMs: number;
  readonly remaining: number;
}

interface Account {
  limit: number | undefined;
  remaining: number | undefined;
  windowS: number | undefined;
  closedAtMs: number;
  closedUntilMs: number;
  /** Consecutive 429 responses without Retry-After. */
  refusals: number;
  /** Where its pace is measured from: the later one replaces the first after some minutes. */
  marks: readonly [first: Mark, later: Mark] | undefined;
}

/** For a 429 without Retry-After: as Kubernetes' ImagePullBackOff. */
const SILENT_LIMIT: BackoffSchedule = { firstMs: 10_000, maxMs: 300_000 };
/** Docker Hub's window. A longer delay must be due to a wrong clock. */
const MAX_RETRY_AFTER_MS = 6 * 3600_000;
/** The pace of a budget is that of one to two times as long. */
const PACE_MS = 5 * 60_000;
/** How many credentials are tracked per upstream. */
const MAX_ACCOUNTS = 1_000;

/** What matters of a request to those who count. */
export interface RequestTraits {
  readonly isBlob?: boolean | undefined;
  /** As in `BlobAsk`. */
  readonly isSpare?: boolean | undefined;
}

/** What a process tells the others: an endpoint wants no requests with a credential for some time. */
export interface LimitNews {
  readonly endpoint: number;
  readonly credentialId: string;
  readonly forMs: number;
}

interface BudgetsNews {
  readonly endpoint?: number;
  readonly news?: News<LimitNews>;
}

/** Rate limits by credential: after a 429, no request is sent with that credential until its delay is over. */
export class Budgets {
  readonly #accounts = new Lru<Account>({ maxEntries: MAX_ACCOUNTS });
  readonly #now: () => number;
  readonly #endpoint: number;
  readonly #news: News<LimitNews>;
  #limitsBlobs = false;

  /** `endpoint`: whose limits these are, for `news`. */
  constructor(now: () => number = Date.now, { endpoint = 0, news = noNews }: BudgetsNews = {}) {
    this.#now = now;
    this.#endpoint = endpoint;
    this.#news = news;
  }

  /** For how long no request may be sent; 0 if one may be. */
  limitedMs(credentialId: string): number {
    const account = this.#accounts.get(credentialId);
    return account === undefined ? 0 : this.#closedForMs(account);
  }

  /** Whether the endpoint has answered 429, or said with a blob how many requests are left: it counts those for blobs. */
  get limitsBlobs(): boolean {
    return this.#limitsBlobs;
  }

  /** Takes a response into account. Returns the delay if it is a 429. */
  note(
    credentialId: string,
    response: HttpResponse,
    { isBlob = false, isSpare = false }: RequestTraits = {},
  ): number | undefined {
    if (response.status === 429) {
      const namedMs = parseRetryAfter(headerOf(response, 'retry-after'), this.#now());
      return isSpare ? this.closeToSpare(credentialId, namedMs) : this.close(credentialId, namedMs);
    }
    const limit = readLimit(headerOf(response, 'ratelimit-limit'));
    const remaining = readLimit(headerOf(response, 'ratelimit-remaining'));
    const known = this.#accounts.get(credentialId);
    if (known === undefined && limit === undefined && remaining === undefined) return undefined;
    const account = known ?? this.#open(credentialId);
    if (isBlob && (limit ?? remaining) !== undefined) this.#limitsBlobs = true;
    account.limit = limit?.count ?? account.limit;
    account.remaining = remaining?.count ?? account.remaining;
    if (remaining !== undefined) this.#mark(account, remaining.count);
    account.windowS = remaining?.windowS ?? limit?.windowS ?? account.windowS;
    if (response.status < 400) account.refusals = 0;
    return undefined;
  }

  /** Blocks requests for the given time, or else for an increasing one. Returns the resulting delay. */
  close(credentialId: string, namedMs: number | undefined): number {
    this.#limitsBlobs = true;
    const account = this.#accounts.get(credentialId) ?? this.#open(credentialId);
    const now = this.#now();
    // Many concurrent requests may hit the same limit; they count as one.
    const closedForMs = this.#closedForMs(account);
    if (closedForMs === 0) account.refusals += 1;
    const waitMs = Math.min(namedMs ?? backoffMs(SILENT_LIMIT, account.refusals), MAX_RETRY_AFTER_MS);
    const forMs = Math.max(closedForMs, waitMs);
    account.closedAtMs = now;
    account.closedUntilMs = now + forMs;
    this.#news.tell({ endpoint: this.#endpoint, credentialId, forMs });
    return forMs;
  }

  /**
   * As `close` for the refusal of a spare request: unless a time is named, that only says that it was one too many.
   */
  closeToSpare(credentialId: string, namedMs: number | undefined): number {
    this.#limitsBlobs = true;
    return namedMs === undefined ? SILENT_LIMIT.firstMs : this.close(credentialId, namedMs);
  }

  /** Takes over what another process was told by the endpoint. */
  learn({ credentialId, forMs }: LimitNews): void {
    this.#limitsBlobs = true;
    const account = this.#accounts.get(credentialId) ?? this.#open(credentialId);
    const closedForMs = this.#closedForMs(account);
    // As in `close`.
    if (closedForMs === 0) account.refusals += 1;
    account.closedAtMs = this.#now();
    account.closedUntilMs = account.closedAtMs + Math.max(closedForMs, forMs);
  }

  /** 0 if the clock was set back, which would prolong the delay. */
  #closedForMs({ closedAtMs, closedUntilMs }: Account): number {
    const now = this.#now();
    return now < closedAtMs ? 0 : Math.max(0, closedUntilMs - now);
  }

  list(): readonly Budget[] {
    return [...this.#accounts.entries()].map(([credentialId, account]) => ({
      credentialId,
      limit: account.limit,
      remaining: account.remaining,
      windowS: account.windowS,
      limitedMs: this.limitedMs(credentialId),
      spentPerS: this.#paceOf(account),
    }));
  }

  #mark(account: Account, remaining: number): void {
    const mark = { atMs: this.#now(), remaining };
    const [, later] = account.marks ?? [];
    // What was refilled says nothing about how fast it is spent.
    if (later === undefined || remaining > later.remaining || mark.atMs < later.atMs)
      account.marks = [mark, mark];
    else if (mark.atMs - later.atMs >= PACE_MS) account.marks = [later, mark];
  }

  #paceOf({ marks, remaining }: Account): number | undefined {
    const [first] = marks ?? [];
    if (first === undefined || remaining === undefined) return undefined;
    const forMs = this.#now() - first.atMs;
    return forMs > 0 ? ((first.remaining - remaining) * 1000) / forMs : undefined;
  }

  /** Allows all requests again. */
  forget(): void {
    this.#accounts.clear();
    this.#limitsBlobs = false;
  }

  #open(credentialId: string): Account {
    const account = {
      limit: undefined,
      remaining: undefined,
      windowS: undefined,
      closedAtMs: 0,
      closedUntilMs: 0,
      refusals: 0,
      marks: undefined,
    };
    this.#accounts.set(credentialId, account);
    return account;
  }
}

/** The failure while requests are blocked. */
export function limitedFailure(name: string, retryAfterMs: number, endpoint: number): UpstreamFailure {
  const details = { status: 429, retryAfterMs, endpoint, isRecalled: true };
  return new UpstreamFailure('limited', `${name} limits the rate of requests`, details);
}

/** `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), as milliseconds from now. */
export function parseRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d{1,10}(\.\d+)?$/.test(text)) return Number(text) * 1000;
  // Only HTTP dates: Date.parse alone would take "7" or "-5" for a year.
  const atMs = /^[A-Z][a-z]{2},? .*GMT$/.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - nowMs);
}

/** Docker Hub's `76;w=21600`: a number and the window in seconds; of a list (IETF draft) the first. */
export function readLimit(
  header: string | undefined,
): { count: number; windowS: number | undefined } | undefined {
  const match = /^\s*(\d{1,12})(?:[^,]*;\s*w=(\d{1,9}))?/.exec(header ?? '');
  if (match === null) return undefined;
  return { count: Number(match[1]), windowS: match[2] === undefined ? undefined : Number(match[2]) };
}
