import { setMaxListeners } from 'node:events';
import type { Grants } from '../grants/grants.ts';
import type { Clock } from '../lib/clock.ts';
import type { Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import { type News, noNews } from '../lib/news.ts';
import type { SingleFlight } from '../lib/single-flight.ts';
import { ANONYMOUS_ID, type Credential, credentialId } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { noAnswerFrom, ownLoginRefusedBy } from '../oci/reasons.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { MAX_ATTEMPTS, type Proof, type Right } from '../oci/requester.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Answer, BlobHead, Upstream } from '../upstream/upstream.ts';
import { type EndedRight, EndedRights } from './ended-rights.ts';
import { logUnstored } from './log-unstored.ts';
import type { FailureKey, NegativeCache } from './negative-cache.ts';
import type { OwnLogins } from './own-logins.ts';
import { withoutPreload } from './preloads.ts';
import { type FlightCalls, type Packing, SharedFlights } from './shared-flights.ts';
import type { UpstreamRecord } from './upstream-record.ts';

/** How many remembered choices of credentials; more than a cluster pulls repositories in a day. */
const MAX_WINNERS = 10_000;

/**
 * For how long after upstream served a repository anonymously Entrepot's own credentials are used to fetch it for
 * anonymous clients.
 */
const LEND_MS = 10 * 60_000;
const MAX_PUBLIC = 10_000;

/**
 * How many questions one upstream is asked at a time. Each takes a connection, and clients that have left still wait for the
 * answer: those that ask a slow upstream for one tag after the other would use up all descriptors. If it answers within 100 ms,
 * these are ten thousand a second.
 */
const MAX_ASKED = 1_024;

/** No process asks for a manifest for longer before others get its answer, who do not know when it began. */
const ASKED_WITHIN_MS = 60_000;

export interface UpstreamRequestsOptions {
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly failures: NegativeCache;
  readonly record: UpstreamRecord;
  /** Records every response that proves or ends a right. */
  readonly grants: Pick<Grants, 'record' | 'presence' | 'hasEndedElsewhere'>;
  readonly ownLogins: OwnLogins;
  /** If set, no upstream is contacted, whatever a policy says. */
  readonly isOffline: boolean;
  /** As in `MirrorOptions`. */
  readonly flights?: FlightCalls | undefined;
  /** As in `MirrorOptions`. */
  readonly endNews?: News<EndedRight> | undefined;
  readonly log: Log;
  readonly clock: Clock;
}

/** A question to upstream, and how it is shared and remembered. */
export interface Question<A> {
  readonly repository: Repository;
  /** A tag, a digest, or a name for another kind of question: failures are remembered under it. */
  readonly reference: string;
  /** Shares one request among equal, concurrent questions with equal credentials; `undefined` never shares. */
  readonly shared: SingleFlight<A> | undefined;
  /** Shares it with other processes, too; only if it is shared. */
  readonly packing?: Packing<A>;
  /** Whether success proves the right to read the repository, which is so only for manifests and blobs. */
  readonly proves: boolean;
  /**
   * Whether upstream has served it before: only then does a 404 end a right. Otherwise it may just be a typing error.
   */
  readonly known: boolean;
  /** If set, asks in spite of remembered failures: the caller has delays of its own. */
  readonly insists?: boolean;
  /**
   * When the caller began to read the index, which told it to ask, by `Clock.monotonicMs`: an answer that another process has got
   * since then may be shared. Default: only one that it gets from now on.
   */
  readonly sinceMs?: number | undefined;
  /**
   * Asks the same by HEAD, to check whether it is public. Without it, Entrepot's own credentials are not used while
   * that has to be checked.
   */
  readonly head?: UpstreamCall<unknown>;
}

/** The answer, and the credential that got it. */
export interface Asked<A> {
  readonly answer: A;
  readonly credential: Credential | undefined;
  /** Whether the answer came from a request of somebody else. */
  readonly joined: boolean;
}

/** When upstream was asked, by `Clock.monotonicMs`, and in which Presence. */
interface Asking {
  readonly during: Presence;
  readonly sinceMs: number;
}

/** A question that is shared, by `Clock.monotonicMs`. */
interface SharedAsking {
  readonly askedAtMs: number;
  /** When another process had got the answer, at the earliest; `undefined` if that was after `askedAtMs`. */
  landedAtMs: number | undefined;
}

/** Sends the question to an upstream with one credential. */
export type UpstreamCall<A> = (
  upstream: Upstream,
  ask: { readonly credential: Credential | undefined; readonly signal: AbortSignal },
) => Promise<A>;

/**
 * Asks upstream on behalf of a requester, with its credentials in turn. Equal concurrent questions are asked once, and
 * those that failed recently not again. Neither sharing nor remembering crosses credentials: one requester's 401 says
 * nothing about another.
 */
export class UpstreamRequests {
  readonly #upstreams: ReadonlyMap<string, Upstream>;
  readonly #failures: NegativeCache;
  readonly #record: UpstreamRecord;
  readonly #grants: Pick<Grants, 'record' | 'presence' | 'hasEndedElsewhere'>;
  /** The last that was seen, and since when: it may have begun a little earlier. */
  #presence: { readonly last: Presence; readonly sinceMs: number };
  readonly #ownLogins: OwnLogins;
  readonly #isOffline: boolean;
  readonly #log: Log;
  /** The clock of all times here, and of all that is asked. */
  readonly clock: Clock;
  /** By requester and repository, the credential that worked last, so that dead ones are not tried first again. */
  readonly #winners = new Lru<{ readonly credentialId: string }>({ maxEntries: MAX_WINNERS });
  readonly #ended = new EndedRights();
  readonly #endNews: News<EndedRight>;
  /** When upstream last served a repository anonymously. */
  readonly #public = new Lru<{ readonly atMs: number }>({ maxEntries: MAX_PUBLIC });
  readonly #flights: SharedFlights;
  /** Questions that are shared, by the promise of the answer. */
  readonly #shared = new WeakMap<Promise<unknown>, SharedAsking>();
  readonly #running = new Set<Promise<unknown>>();
  /** How many of them are about each upstream. */
  readonly #asked = new Map<string, number>();
  readonly #closing = new AbortController();

  constructor({
    upstreams,
    failures,
    record,
    grants,
    ownLogins,
    isOffline,
    flights,
    endNews = noNews,
    log,
    clock,
  }: UpstreamRequestsOptions) {
    this.#flights = new SharedFlights(flights, clock.monotonicMs);
    this.#endNews = endNews;
    this.#upstreams = upstreams;
    this.#failures = failures;
    this.#record = record;
    this.#grants = grants;
    this.#presence = { last: grants.presence, sinceMs: Number.NEGATIVE_INFINITY };
    this.#ownLogins = ownLogins;
    this.#isOffline = isOffline;
    this.#log = log;
    this.clock = clock;
    // Every question listens to it, and there may be many.
    setMaxListeners(0, this.#closing.signal);
  }

  /**
   * The first successful answer for one of `right.credentials`. If upstream refuses one, the next is tried, up to
   * MAX_ATTEMPTS; any other failure (a rate limit, an outage) ends the attempt. Of several failures the most telling is
   * thrown. Rejects with an UpstreamFailure, or the reason of `close`.
   */
  async ask<A extends Answer>(question: Question<A>, right: Right, ask: UpstreamCall<A>): Promise<Asked<A>> {
    const upstream = this.#upstreams.get(question.repository.upstream);
    if (upstream === undefined) {
      throw new OciError('NAME_UNKNOWN', { detail: { name: repositoryText(question.repository) } });
    }
    if (this.#isOffline) {
      const obstacle = 'offline';
      throw new UpstreamFailure('unavailable', noAnswerFrom(upstream.name, obstacle), { obstacle });
    }
    let failure: UpstreamFailure | undefined;
    let attempts = 0;
    const credentials = await this.#lendable(question, right, upstream);
    // Upstream may answer about a tag with other content than was imported.
    const { proved } = withoutPreload(right);
    for (const credential of this.#turnsOf(question.repository, right, credentials)) {
      if (attempts >= MAX_ATTEMPTS) break;
      if (this.#remembered(question, credential) === undefined) attempts += 1;
      try {
        const send = (signal: AbortSignal) => ask(upstream, { credential, signal });
        const asked = await this.#once(question, credential, { send, proved });
        this.#winners.set(winnerKey(right, question.repository), { credentialId: credentialId(credential) });
        return asked;
      } catch (error) {
        if (!(error instanceof UpstreamFailure)) throw error;
        failure = moreTelling(failure, error);
        if (!isRefusal(error)) break;
      }
    }
    if (failure?.kind === 'lockedOut') throw await heardOf(failure, upstream.name, right);
    throw failure ?? new UpstreamFailure('denied', 'no credential may be used for this repository');
  }

  /**
   * The failure with which `ask` would reject now without asking upstream; `undefined` if it would ask. Without a
   * reference: about anything that nobody has asked for yet.
   */
  async foresee(
    repository: Repository,
    reference: string | undefined,
    right: Right,
  ): Promise<UpstreamFailure | undefined> {
    if (this.#mustAskPublic(repository, right)) {
      const asked = reference === undefined ? undefined : publicReference(reference);
      return this.#foreseen(repository, asked, undefined);
    }
    let failure: UpstreamFailure | undefined;
    for (const credential of this.#turnsOf(repository, right, right.credentials)) {
      const foreseen = this.#foreseen(repository, reference, credential);
      if (foreseen === undefined) return undefined;
      failure = moreTelling(failure, foreseen);
      if (!isRefusal(foreseen)) break;
    }
    return failure?.kind === 'lockedOut' ? heardOf(failure, repository.upstream, right) : failure;
  }

  /** Aborts when this is closed, with the reason. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** As `Upstream.limitsBlobs`. */
  limitsBlobs(upstream: string): boolean {
    return this.#upstreams.get(upstream)?.limitsBlobs ?? true;
  }

  /** Aborts all questions; resolves when all have ended. */
  async close(reason: Error): Promise<void> {
    this.#closing.abort(reason);
    await Promise.allSettled(this.#running);
  }

  /**
   * The credentials of `right`. Credentials that are lent because the repository is public require that upstream still
   * serves it anonymously; rejects if it does not.
   */
  async #lendable(
    { head, ...question }: Question<Answer>,
    right: Right,
    upstream: Upstream,
  ): Promise<Right['credentials']> {
    const { repository, reference } = question;
    if (!this.#mustAskPublic(repository, right)) return right.credentials;
    if (head === undefined) return [undefined];
    const whether = { ...question, reference: publicReference(reference), shared: undefined, proves: false };
    const send = async (signal: AbortSignal) => {
      await head(upstream, { credential: undefined, signal });
      return { proof: false };
    };
    await this.#once(whether, undefined, { send, proved: right.proved });
    this.#public.set(repositoryText(repository), { atMs: this.clock.nowMs() });
    return right.credentials;
  }

  /** Whether credentials are lent, and it was not confirmed recently that the repository is public. */
  #mustAskPublic(repository: Repository, { isLent }: Right): boolean {
    if (isLent !== true) return false;
    const { atMs = 0 } = this.#public.get(repositoryText(repository)) ?? {};
    // Also if the clock was set back.
    return Math.abs(this.clock.nowMs() - atMs) >= LEND_MS;
  }

  #turnsOf(repository: Repository, right: Right, credentials: Right['credentials']): Right['credentials'] {
    // Lent credentials come first because their rate limit is higher.
    if (right.isLent === true) return credentials;
    const winner = this.#winners.get(winnerKey(right, repository))?.credentialId;
    const isWinner = (credential: Credential | undefined): boolean => credentialId(credential) === winner;
    return [...credentials.filter(isWinner), ...credentials.filter(credential => !isWinner(credential))];
  }

  /** As `foresee`, with one credential. */
  #foreseen(
    repository: Repository,
    reference: string | undefined,
    credential: Credential | undefined,
  ): UpstreamFailure | undefined {
    const remembered =
      reference === undefined ? undefined : this.#remembered({ repository, reference }, credential);
    return remembered ?? this.#upstreams.get(repository.upstream)?.limitOf(credential);
  }

  /** The remembered failure for this question. */
  #remembered(
    question: Pick<Question<unknown>, 'repository' | 'reference' | 'insists'>,
    credential: Credential | undefined,
  ): UpstreamFailure | undefined {
    return question.insists ? undefined : this.#failures.recall(keyOf(question, credential));
  }

  /**
   * `proved`: as in `Right`. Without, nobody shares the answer to a question that was asked before the right ended, in
   * whichever process: the next ones are asked beside it. Nor does anybody share an answer that the board had remembered from
   * before the caller began.
   */
  async #once<A extends Answer>(
    question: Question<A>,
    credential: Credential | undefined,
    { send, proved }: { readonly send: (signal: AbortSignal) => Promise<A>; readonly proved: boolean },
  ): Promise<Asked<A>> {
    const { repository, reference, shared } = question;
    const key = keyOf(question, credential);
    const start = (keep = () => {}): Promise<A> =>
      this.#tracked(key.upstream, () => this.#recorded(question, key, { send, keep }));
    const hasEndedSince = (sinceMs: number) => this.hasEndedAnywhereSince(sinceMs, repository, credential);
    let turn = 0;
    for (;;) {
      const remembered = this.#remembered(question, credential);
      if (remembered !== undefined) throw remembered;
      if (shared === undefined) return { answer: await start(), credential, joined: false };
      const flightKey = [key.upstream, key.repository, reference, key.credentialId, turn].join(' ');
      const nowMs = this.clock.monotonicMs();
      const { sinceMs = nowMs } = question;
      const own: SharedAsking = { askedAtMs: nowMs, landedAtMs: undefined };
      const accepts = async () => !(await hasEndedSince(sinceMs - ASKED_WITHIN_MS));
      const onRemembered = (landedAtMs: number) => void (own.landedAtMs = landedAtMs);
      const { promise, joined } = shared.run(flightKey, () =>
        this.#flights.run(flightKey, question.packing, start, { accepts, sinceMs, onRemembered }),
      );
      if (!joined) this.#shared.set(promise, own);
      // It may fail before it is awaited.
      promise.catch(() => {});
      const askedAtMs = this.#shared.get(promise)?.askedAtMs ?? Number.NEGATIVE_INFINITY;
      if (joined && !proved && (await hasEndedSince(askedAtMs))) turn += 1;
      else if (!joined || !(await this.#hadLandedBefore(sinceMs, promise)))
        return { answer: await promise, credential, joined };
    }
  }

  /** Whether another process had got the answer to a shared question before then (by `Clock.monotonicMs`), or may have. */
  async #hadLandedBefore(sinceMs: number, answer: Promise<unknown>): Promise<boolean> {
    await answer.catch(() => {});
    const { landedAtMs = sinceMs } = this.#shared.get(answer) ?? {};
    return landedAtMs < sinceMs;
  }

  /** Throws if the upstream is being asked too much already, which says nothing about it. */
  #tracked<T>(upstream: string, start: () => Promise<T>): Promise<T> {
    const asked = this.#asked.get(upstream) ?? 0;
    if (asked >= MAX_ASKED) throw tooManyAsked(upstream);
    this.#asked.set(upstream, asked + 1);
    const work = start();
    this.#running.add(work);
    const end = (): void => {
      this.#running.delete(work);
      const left = (this.#asked.get(upstream) ?? 1) - 1;
      if (left === 0) this.#asked.delete(upstream);
      else this.#asked.set(upstream, left);
    };
    work.then(end, end);
    return work;
  }

  /**
   * Asks, and records what the answer says about the right and about upstream. Calls `keep` if the end of a right could
   * not be recorded: other processes, which may be able to, would not know that there is anything to record.
   */
  async #recorded<A extends Answer>(
    question: Question<A>,
    key: FailureKey,
    { send, keep }: { readonly send: (signal: AbortSignal) => Promise<A>; readonly keep: () => void },
  ): Promise<A> {
    const { signal } = this.#closing;
    const during = this.#grants.presence;
    const sinceMs = this.clock.monotonicMs();
    try {
      const answer = await send(signal);
      this.#failures.succeeded(key);
      this.#record.answered(key.upstream);
      this.#ownLogins.succeeded(key, signal);
      if (answer.proof && question.proves) await this.#prove(key, 'granted', { during, sinceMs });
      return answer;
    } catch (error) {
      if (!(error instanceof UpstreamFailure) || error.isUnasked) throw error;
      const failure = await this.#ownLogins.judge(key, error, signal);
      this.#record.failed(question.repository, failure);
      if (endsRight(failure, question.known) && !(await this.#prove(key, 'ended'))) keep();
      throw this.#failures.remember(key, failure);
    }
  }

  /**
   * Records that `url` has sent content of the repository with this credential, which was only known at the end of the
   * response. `sinceMs` (of `clock.monotonicMs`) is when it began; a later refusal takes precedence.
   */
  async granted(repository: Repository, credential: Credential | undefined, sinceMs: number): Promise<void> {
    const during = this.#presenceSince(sinceMs);
    if (during === undefined) return;
    await this.#prove(keyOf({ repository, reference: '' }, credential), 'granted', { during, sinceMs });
  }

  /** Records that a response broke off after it had begun, or was wrong as a whole. */
  broke(repository: Repository, failure: UpstreamFailure): void {
    this.#record.failed(repository, failure);
  }

  /** Whether `url` has withdrawn the right of this credential since then (by `clock.monotonicMs`), or may have. */
  hasEndedSince(sinceMs: number, repository: Repository, credential: Credential | undefined): boolean {
    return this.#ended.hasEndedSince(rightText(keyOf({ repository, reference: '' }, credential)), sinceMs);
  }

  /** The same, also if another process on the index has noticed it. */
  async hasEndedAnywhereSince(
    sinceMs: number,
    repository: Repository,
    credential: Credential | undefined,
  ): Promise<boolean> {
    const hasEndedHere = () =>
      this.#presenceSince(sinceMs) === undefined || this.hasEndedSince(sinceMs, repository, credential);
    if (hasEndedHere()) return true;
    const agoMs = this.clock.monotonicMs() - sinceMs;
    const hasEndedElsewhere = await this.#grants.hasEndedElsewhere(
      repository,
      credentialId(credential),
      agoMs,
    );
    // The Presence may have ended while the index was asked.
    return hasEndedElsewhere || hasEndedHere();
  }

  /** Forgets what rested on the right. What the index says of it, whoever has seen the end removes. */
  noteEnd(right: EndedRight): void {
    const { upstream, repository: name, credentialId: id } = right;
    this.#ended.note(rightText(right), this.clock.monotonicMs());
    if (id === ANONYMOUS_ID) this.#public.delete(repositoryText({ upstream, name }));
  }

  /** The current Presence, if it has certainly lasted since then: otherwise others may have seen an end of a right. */
  #presenceSince(sinceMs: number): Presence | undefined {
    const { presence } = this.#grants;
    if (presence !== this.#presence.last) {
      this.#presence = { last: presence, sinceMs: this.clock.monotonicMs() };
    }
    // One that is over stays the current one for a while.
    return presence.isOver || this.#presence.sinceMs > sinceMs ? undefined : presence;
  }

  /**
   * Reports a proof, unless the right has ended since upstream was `asked`. False if it could not be recorded, which here only
   * costs another question later.
   */
  async #prove(key: FailureKey, outcome: Proof['outcome'], asked?: Asking): Promise<boolean> {
    const { upstream, repository, credentialId: id } = key;
    // The index knows only of ends that other processes have noticed.
    if (asked !== undefined && this.#ended.hasEndedSince(rightText(key), asked.sinceMs)) return true;
    if (outcome === 'ended') {
      this.noteEnd(key);
      this.#endNews.tell({ upstream, repository, credentialId: id });
    } else if (id === ANONYMOUS_ID) {
      this.#public.set(repositoryText({ upstream, name: repository }), { atMs: this.clock.nowMs() });
    }
    try {
      const agoMs = asked && (() => this.clock.monotonicMs() - asked.sinceMs);
      const proof = { upstream, repository, credentialId: id, outcome };
      await this.#grants.record({ ...proof, during: asked?.during, agoMs });
      return true;
    } catch (error) {
      logUnstored(this.#log, error, { upstream, repository, outcome }, 'a grant could not be recorded');
      return false;
    }
  }
}

function tooManyAsked(upstream: string): UpstreamFailure {
  const message = `${upstream} has not answered ${MAX_ASKED} requests yet`;
  return new UpstreamFailure('unavailable', message, { retryAfterMs: 5_000 });
}

function keyOf(
  { repository, reference }: Pick<Question<unknown>, 'repository' | 'reference'>,
  credential: Credential | undefined,
): FailureKey {
  return {
    upstream: repository.upstream,
    repository: repository.name,
    reference,
    credentialId: credentialId(credential),
  };
}

function winnerKey({ requester }: Right, repository: Repository): string {
  return `${requester.id} ${repositoryText(repository)}`;
}

/** The reference under which a failed check whether the reference is public is remembered. */
function publicReference(reference: string): string {
  return `public ${reference}`;
}

function rightText({ upstream, repository, credentialId: id }: EndedRight): string {
  return [upstream, repository, id].join(' ');
}

/** A blob as the reference of a question, distinct from the manifest with that digest. */
export function blobReference(digest: Digest): string {
  return `blob ${digest}`;
}

/** Asks for a blob by HEAD. */
export function headOfBlob({ name }: Repository, digest: Digest): UpstreamCall<BlobHead> {
  return (upstream, ask) => upstream.headBlob(name, digest, ask);
}

/** Whether upstream said no. Any other failure says nothing. */
export function isRefusal({ kind }: UpstreamFailure): boolean {
  return kind === 'unknown' || kind === 'denied' || kind === 'refused' || kind === 'lockedOut';
}

/** Whether even stored content may not be served: upstream said no to this requester. */
export function forbidsHeld(failure: UpstreamFailure): boolean {
  return isRefusal(failure) && !failure.isCovered;
}

/**
 * What a refusal of Entrepot's own credentials means to this requester. If the requester itself presented those
 * credentials, it is refused like anybody else.
 */
async function heardOf(cause: UpstreamFailure, upstream: string, { own }: Right): Promise<UpstreamFailure> {
  const { message, status, endpoint, retryAfterMs } = cause;
  const details = { status, endpoint, retryAfterMs, cause };
  if (own === undefined) return new UpstreamFailure('refused', message, details);
  return new UpstreamFailure('lockedOut', ownLoginRefusedBy(upstream), {
    ...details,
    isCovered: await own.covers(),
  });
}

/** Whether the failure ends the right: only `url` itself can end it, or a token service that refuses the credential. */
function endsRight(failure: UpstreamFailure, known: boolean): boolean {
  if ((failure.endpoint ?? 0) !== 0) return false;
  return failure.kind === 'denied' || failure.kind === 'refused' || (failure.kind === 'unknown' && known);
}

/**
 * Most telling last: no answer beats a refusal. Of the refusals, `lockedOut` beats `unknown`, which beats `denied`:
 * with working credentials the answer might be another.
 */
const TELLING: readonly UpstreamFailure['kind'][] = [
  'refused',
  'denied',
  'unknown',
  'lockedOut',
  'invalid',
  'limited',
  'unavailable',
];

function moreTelling(before: UpstreamFailure | undefined, now: UpstreamFailure): UpstreamFailure {
  if (before === undefined) return now;
  return TELLING.indexOf(now.kind) >= TELLING.indexOf(before.kind) ? now : before;
}
