import { isDeepStrictEqual } from 'node:util';
import { jittered } from '../../lib/backoff.ts';
import { type Clock, systemClock } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import { SingleFlight } from '../../lib/single-flight.ts';
import { type ClusterIssuer, readClusterIssuer } from './cluster-issuer.ts';
import type { KubeClient } from './kube-client.ts';
import type { SeenCluster } from './seen-cluster.ts';

export interface IssuerWatchOptions {
  readonly client: Pick<KubeClient, 'read'>;
  readonly log: Log;
  /** Default: the system's. */
  readonly clock?: Clock;
  /** Where it is saved for a start while the cluster is unreachable. */
  readonly seen?: Pick<SeenCluster, 'keepIssuer'> | undefined;
}

/**
 * So that a withdrawn key is accepted for less than another minute. The cluster only has to serve two small documents.
 */
const EVERY_MS = 30_000;

/** After a failure, to notice soon when the cluster is reachable again. */
const RETRY_MS = 5_000;

/** Limits the requests caused by tokens of invented issuers; a new key or issuer is known after this time. */
const MIN_QUESTION_MS = 1_000;

/**
 * Follows the issuer of a cluster's ServiceAccount tokens. While the cluster cannot be asked, its last answer counts.
 */
export class IssuerWatch {
  readonly #options: IssuerWatchOptions;
  readonly #clock: Clock;
  readonly #questions = new SingleFlight<void>();
  readonly #end = new AbortController();
  #current: ClusterIssuer | undefined;
  #problem: string | undefined;
  #askedAtMs = Number.NEGATIVE_INFINITY;
  #running: Promise<void> | undefined;
  #onState = () => {};
  readonly #listeners = new Set<() => void>();

  constructor(options: IssuerWatchOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
  }

  /** `undefined` until the cluster has answered once. */
  get current(): ClusterIssuer | undefined {
    return this.#current;
  }

  /** Why it is unknown or outdated; `undefined` if it is not. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Uses the issuer that was saved before this start, until the cluster answers. */
  recall(seen: ClusterIssuer): void {
    if (this.#current !== undefined) return;
    this.#current = seen;
    for (const listener of this.#listeners) listener();
  }

  /** Calls `listener` when the issuer or its keys have changed. */
  onChange(listener: () => void): void {
    this.#listeners.add(listener);
  }

  /**
   * Resolves when the cluster was asked once; it is then asked regularly in the background. Calls `onState` when
   * `problem` changes.
   */
  async start(onState: () => void): Promise<void> {
    this.#onState = onState;
    const first = this.refresh();
    this.#running ??= this.#run(first);
    await first;
  }

  async close(): Promise<void> {
    this.#end.abort();
    await this.#running;
  }

  /** Asks now, unless that was done a moment ago. Never rejects. */
  async refresh(): Promise<void> {
    const { promise } = this.#questions.run('', async () => {
      // The absolute value, since the clock may have been set back.
      const sinceMs = Math.abs(this.#clock.nowMs() - this.#askedAtMs);
      if (sinceMs < MIN_QUESTION_MS || this.#end.signal.aborted) return;
      this.#askedAtMs = this.#clock.nowMs();
      await this.#ask();
    });
    await promise;
  }

  async #run(first: Promise<void>): Promise<void> {
    const { signal } = this.#end;
    await first;
    while (!signal.aborted) {
      const waitMs = jittered(this.#problem === undefined ? EVERY_MS : RETRY_MS);
      await this.#clock.sleep(waitMs, { signal, ref: false }).catch(() => {});
      await this.refresh();
    }
  }

  async #ask(): Promise<void> {
    const { client, log } = this.#options;
    try {
      const read = await readClusterIssuer(client, this.#end.signal);
      if (this.#problem !== undefined) log.info({}, 'the keys of service-account tokens can be read again');
      this.#note(undefined);
      this.#take(read);
    } catch (error) {
      if (this.#end.signal.aborted) return;
      const reason = error instanceof Error ? error.message : String(error);
      if (reason !== this.#problem)
        log.error({ reason }, 'the keys of service-account tokens cannot be read');
      this.#note(reason);
    }
  }

  #note(problem: string | undefined): void {
    if (problem === this.#problem) return;
    this.#problem = problem;
    this.#onState();
  }

  #take(next: ClusterIssuer): void {
    const before = this.#current;
    this.#current = next;
    this.#options.seen?.keepIssuer(next);
    if (isDeepStrictEqual(before, next)) return;
    for (const listener of this.#listeners) listener();
    if (before === undefined) return;
    const [then, now] = [keyIds(before), keyIds(next)];
    this.#options.log.warn(
      {
        issuer: next.issuer,
        ...(before.issuer !== next.issuer && { formerIssuer: before.issuer }),
        newKeys: now.filter(id => !then.includes(id)),
        withdrawnKeys: then.filter(id => !now.includes(id)),
      },
      'the signing keys of service-account tokens have changed',
    );
  }
}

function keyIds({ keys }: ClusterIssuer): readonly string[] {
  return keys.map(({ kid }) => (typeof kid === 'string' ? kid : '(without an id)'));
}
