import { setMaxListeners } from 'node:events';
import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import type { SingleFlight } from '../lib/single-flight.ts';
import { ANONYMOUS_ID, type Credential, credentialId } from '../oci/credential.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { MAX_ATTEMPTS, type Proof, type Right } from '../oci/requester.ts';
import { UpstreamFailure } from '../upstream/failures.ts';
import type { Answer, BlobHead, Upstream } from '../upstream/upstream.ts';
import { EndedRights } from './ended-rights.ts';
import { type OwnLogins, refusedText } from './own-logins.ts';
import type { FailureKey, NegativeCache } from './negative-cache.ts';
import type { UpstreamRecord } from './upstream-record.ts';

/** Repositories whose working credential is remembered; more than a cluster pulls from in a day. */
const MAX_WINNERS = 10_000;

/** So long after the public was given a repository, it is brought to the public with Entrepot's own login. */
const LEND_MS = 10 * 60_000;
const MAX_PUBLIC = 10_000;

export interface UpstreamRequestsOptions {
  readonly upstreams: ReadonlyMap<string, Upstream>;
  readonly failures: NegativeCache;
  readonly record: UpstreamRecord;
  /** Owned by `access`: told of every answer that proves or ends a right. */
  readonly recordProof: (proof: Proof) => Promise<void>;
  readonly ownLogins: OwnLogins;
  /** No packet goes to any upstream, whatever a policy says. */
  readonly isOffline: boolean;
  readonly log: Log;
  readonly nowMs: () => number;
}

export interface Question<A> {
  readonly repository: Repository;
  /** A tag, a digest, or a word for what is neither: what a failure is remembered for. */
  readonly reference: string;
  /** Where equal questions of equal credentials share one request while it runs; `undefined` shares with nobody. */
  readonly shared: SingleFlight<A> | undefined;
  /** Whether success proves the right to read the repository: only manifests and blobs do. */
  readonly proves: boolean;
  /** Whether upstream has given it before: only then does a 404 take a right back; else it may be a mere typing error. */
  readonly known: boolean;
  /** Asks in spite of remembered failures: for who backs off by himself. */
  readonly insists?: boolean;
  /** Asks the same by HEAD: whether the public may have it. Without it no login is lent while that has to be asked. */
  readonly head?: Ask<unknown>;
}

export interface Asked<A> {
  readonly answer: A;
  readonly credential: Credential | undefined;
  /** Whether somebody else had asked already. */
  readonly joined: boolean;
}

export type Ask<A> = (
  upstream: Upstream,
  ask: { readonly credential: Credential | undefined; readonly signal: AbortSignal },
) => Promise<A>;

/**
 * Asks upstream on behalf of a requester: his credentials in turn, equal questions at once only once, what failed
 * lately not again. Sharing and remembering never cross a credential: one requester's 401 is not another's.
 */
export class UpstreamRequests {
  readonly #upstreams: ReadonlyMap<string, Upstream>;
  readonly #failures: NegativeCache;
  readonly #record: UpstreamRecord;
  readonly #recordProof: (proof: Proof) => Promise<void>;
  readonly #ownLogins: OwnLogins;
  readonly #isOffline: boolean;
  readonly #log: Log;
  readonly #nowMs: () => number;
  /** Which credential worked last, by requester and repository: dead ones are not tried first again. */
  readonly #winners = new Lru<{ readonly credentialId: string }>({ maxEntries: MAX_WINNERS });
  readonly #ended = new EndedRights();
  /** When upstream last gave a repository to everybody. */
  readonly #public = new Lru<{ readonly atMs: number }>({ maxEntries: MAX_PUBLIC });
  readonly #running = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();

  constructor({
    upstreams,
    failures,
    record,
    recordProof,
    ownLogins,
    isOffline,
    log,
    nowMs,
  }: UpstreamRequestsOptions) {
    this.#upstreams = upstreams;
    this.#failures = failures;
    this.#record = record;
    this.#recordProof = recordProof;
    this.#ownLogins = ownLogins;
    this.#isOffline = isOffline;
    this.#log = log;
    this.#nowMs = nowMs;
    // Every question listens to it, and there may be many at once.
    setMaxListeners(0, this.#closing.signal);
  }

  /**
   * The first answer that one of `right.credentials` gets. A refusal of one is a reason to try the next, `MAX_ATTEMPTS`
   * times; anything else (a limit on how often upstream is asked, an outage) is the end. Of several failures the most
   * telling is thrown. Rejects with an UpstreamFailure, or the reason of `close`.
   */
  async ask<A extends Answer>(question: Question<A>, right: Right, ask: Ask<A>): Promise<Asked<A>> {
    const upstream = this.#upstreams.get(question.repository.upstream);
    if (upstream === undefined) {
      throw new OciError('NAME_UNKNOWN', { detail: { name: repositoryText(question.repository) } });
    }
    if (this.#isOffline) {
      throw new UpstreamFailure(
        'unavailable',
        `this registry is offline and does not contact ${upstream.name}`,
      );
    }
    let failure: UpstreamFailure | undefined;
    let attempts = 0;
    const credentials = await this.#lendable(question, right, upstream);
    for (const credential of this.#turnsOf(question.repository, right, credentials)) {
      if (attempts >= MAX_ATTEMPTS) break;
      if (this.#remembered(question, credential) === undefined) attempts += 1;
      try {
        const asked = await this.#once(question, credential, signal => ask(upstream, { credential, signal }));
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

  /** What `ask` would reject with now without asking anybody, as it failed a moment ago; `undefined`: it would ask. */
  async foresee(
    repository: Repository,
    reference: string,
    right: Right,
  ): Promise<UpstreamFailure | undefined> {
    if (this.#mustAskPublic(repository, right)) {
      return this.#remembered({ repository, reference: publicReference(reference) }, undefined);
    }
    let failure: UpstreamFailure | undefined;
    for (const credential of this.#turnsOf(repository, right, right.credentials)) {
      const remembered = this.#remembered({ repository, reference }, credential);
      if (remembered === undefined) return undefined;
      failure = moreTelling(failure, remembered);
      if (!isRefusal(remembered)) break;
    }
    return failure?.kind === 'lockedOut' ? heardOf(failure, repository.upstream, right) : failure;
  }

  /** Breaks off whatever is being asked, and returns when all of it has ended. */
  async close(reason: Error): Promise<void> {
    this.#closing.abort(reason);
    await Promise.allSettled(this.#running);
  }

  /**
   * Those of `right`. A login that is lent because the repository is public is so only while upstream still gives it to
   * everybody; rejects when it does not.
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
    await this.#once(whether, undefined, async signal => {
      await head(upstream, { credential: undefined, signal });
      return { proof: false };
    });
    this.#public.set(repositoryText(repository), { atMs: this.#nowMs() });
    return right.credentials;
  }

  /** Whether a login is lent, and upstream has not shown lately that it still gives the repository to everybody. */
  #mustAskPublic(repository: Repository, { isLent }: Right): boolean {
    if (isLent !== true) return false;
    const { atMs = 0 } = this.#public.get(repositoryText(repository)) ?? {};
    // Also where the clock has been set back.
    return Math.abs(this.#nowMs() - atMs) >= LEND_MS;
  }

  #turnsOf(repository: Repository, right: Right, credentials: Right['credentials']): Right['credentials'] {
    // A login is lent for its larger budget, whatever else would do.
    if (right.isLent === true) return credentials;
    const winner = this.#winners.get(winnerKey(right, repository))?.credentialId;
    const isWinner = (credential: Credential | undefined): boolean => credentialId(credential) === winner;
    return [...credentials.filter(isWinner), ...credentials.filter(credential => !isWinner(credential))];
  }

  /** The failure that answers this question for now. */
  #remembered(
    question: Pick<Question<unknown>, 'repository' | 'reference' | 'insists'>,
    credential: Credential | undefined,
  ): UpstreamFailure | undefined {
    return question.insists ? undefined : this.#failures.recall(keyOf(question, credential));
  }

  async #once<A extends Answer>(
    question: Question<A>,
    credential: Credential | undefined,
    ask: (signal: AbortSignal) => Promise<A>,
  ): Promise<Asked<A>> {
    const { reference, shared } = question;
    const key = keyOf(question, credential);
    const remembered = this.#remembered(question, credential);
    if (remembered !== undefined) throw remembered;
    const start = (): Promise<A> => this.#tracked(this.#recorded(question, key, ask));
    if (shared === undefined) return { answer: await start(), credential, joined: false };
    const flightKey = [key.upstream, key.repository, reference, key.credentialId].join(' ');
    const { promise, joined } = shared.run(flightKey, start);
    return { answer: await promise, credential, joined };
  }

  #tracked<T>(work: Promise<T>): Promise<T> {
    this.#running.add(work);
    const end = (): void => void this.#running.delete(work);
    work.then(end, end);
    return work;
  }

  /** Asks, and keeps what the answer says about the right and about upstream. */
  async #recorded<A extends Answer>(
    question: Question<A>,
    key: FailureKey,
    ask: (signal: AbortSignal) => Promise<A>,
  ): Promise<A> {
    const { signal } = this.#closing;
    try {
      const answer = await ask(signal);
      this.#failures.succeeded(key);
      this.#record.answered(key.upstream);
      this.#ownLogins.succeeded(key, signal);
      if (answer.proof && question.proves) await this.#prove(key, 'granted');
      return answer;
    } catch (error) {
      if (!(error instanceof UpstreamFailure)) throw error;
      const failure = await this.#ownLogins.judge(key, error, signal);
      this.#record.failed(question.repository, failure);
      if (endsRight(failure, question.known)) await this.#prove(key, 'ended');
      throw this.#failures.remember(key, failure);
    }
  }

  /**
   * Tells that `url` has given content of the repository with this credential, as only the end of it could show. `sinceMs`
   * (of `performance.now()`): when it answered. What it has said since counts more.
   */
  async granted(repository: Repository, credential: Credential | undefined, sinceMs: number): Promise<void> {
    if (this.hasEndedSince(sinceMs, repository, credential)) return;
    await this.#prove(keyOf({ repository, reference: '' }, credential), 'granted');
  }

  /** Tells that an answer which had begun broke off. */
  broke(repository: Repository, failure: UpstreamFailure): void {
    this.#record.failed(repository, failure);
  }

  /** Whether `url` has taken the right of this credential back since then (on `performance.now()`'s clock), or may have. */
  hasEndedSince(sinceMs: number, repository: Repository, credential: Credential | undefined): boolean {
    return this.#ended.hasEndedSince(rightText(keyOf({ repository, reference: '' }, credential)), sinceMs);
  }

  /** A proof that could not be kept costs another question later, not this answer. */
  async #prove(key: FailureKey, outcome: Proof['outcome']): Promise<void> {
    const { upstream, repository, credentialId: id } = key;
    if (outcome === 'ended') this.#ended.note(rightText(key));
    if (id === ANONYMOUS_ID) this.#noteOfAll({ upstream, name: repository }, outcome);
    try {
      await this.#recordProof({ upstream, repository, credentialId: id, outcome });
    } catch (error) {
      this.#log.error({ err: error, upstream, repository, outcome }, 'a grant could not be recorded');
    }
  }

  #noteOfAll(repository: Repository, outcome: Proof['outcome']): void {
    if (outcome === 'granted') this.#public.set(repositoryText(repository), { atMs: this.#nowMs() });
    else this.#public.delete(repositoryText(repository));
  }
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

/** What a failure of asking whether the public has the reference is remembered for. */
function publicReference(reference: string): string {
  return `public ${reference}`;
}

function rightText({ upstream, repository, credentialId: id }: FailureKey): string {
  return [upstream, repository, id].join(' ');
}

/** A blob as a question's reference: that upstream has no blob of a digest says nothing of a manifest. */
export function blobReference(digest: Digest): string {
  return `blob ${digest}`;
}

/** Asks for a blob by HEAD. */
export function headOfBlob({ name }: Repository, digest: Digest): Ask<BlobHead> {
  return (upstream, ask) => upstream.headBlob(name, digest, ask);
}

/** Whether upstream said no; anything else says nothing. */
export function isRefusal({ kind }: UpstreamFailure): boolean {
  return kind === 'unknown' || kind === 'denied' || kind === 'refused' || kind === 'lockedOut';
}

/** Whether not even what is held may be served: upstream said no, and that to who asks. */
export function forbidsHeld(failure: UpstreamFailure): boolean {
  return isRefusal(failure) && !failure.isCovered;
}

/**
 * What a refusal of Entrepot's own login means to this requester. Who presented that same login himself is refused like
 * anybody else.
 */
async function heardOf(cause: UpstreamFailure, upstream: string, { own }: Right): Promise<UpstreamFailure> {
  const { message, status, endpoint, retryAfterMs } = cause;
  const details = { status, endpoint, retryAfterMs, cause };
  if (own === undefined) return new UpstreamFailure('refused', message, details);
  return new UpstreamFailure('lockedOut', refusedText(upstream), {
    ...details,
    isCovered: await own.covers(),
  });
}

/** Only `url` itself takes a right back. A token service that turns the credential away says the same of it. */
function endsRight(failure: UpstreamFailure, known: boolean): boolean {
  if ((failure.endpoint ?? 0) !== 0) return false;
  return failure.kind === 'denied' || failure.kind === 'refused' || (failure.kind === 'unknown' && known);
}

/**
 * Most telling last: no answer beats a refusal. Among refusals `lockedOut` beats `unknown`, which beats `denied`: with a
 * working login the answer might be another.
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
