import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../../lib/backoff.ts';
import type { Log } from '../../lib/log.ts';
import { type Collection, type KubeClient, type KubeObject, KubeRefusal } from './kube-client.ts';

export interface WatchLoopOptions {
  readonly client: KubeClient;
  readonly collection: Collection;
  /** What the log calls it: `secrets`. */
  readonly resource: string;
  /** Learns what there is now, or that it has to be learned anew; the version to watch from. */
  readonly list: (signal: AbortSignal) => Promise<string>;
  readonly apply: (object: KubeObject, isGone: boolean) => void;
  /** It follows the cluster again, or no longer: then what was seen last stays. */
  readonly onState: (problem: string | undefined) => void;
  readonly log: Log;
}

/**
 * After a failure. One request in ten seconds is no burden to a server that is coming up, and what changed meanwhile
 * counts within seconds of its return.
 */
const RETRY = { firstMs: 250, maxMs: 10_000 } as const;

/** Refusals in a row that may be of a server that is coming up: the first four of them take four seconds. */
const PATIENT_FAILURES = 4;

/** A watch that breaks so often in a row at one version has something there that it cannot pass. */
const MAX_STALLS = 4;

/** A server that ends each watch at once would be asked without a pause. */
const SHORT_WATCH_MS = 1_000;

/**
 * Follows a collection of the cluster: lists, then watches, resumes where a watch ended, and lists anew when the cluster
 * no longer knows that place, or the watch does not get past it.
 */
export class WatchLoop {
  readonly #options: WatchLoopOptions;
  readonly #end = new AbortController();
  #resourceVersion: string | undefined;
  #failures = 0;
  /** Watches that broke, though the server had taken them, since anything was heard. */
  #stalls = 0;
  #isOpen = false;
  #hasListed = false;
  #problem: string | undefined;
  readonly #firstAttempt: Promise<void>;
  #attempted = () => {};
  #running: Promise<void> | undefined;

  constructor(options: WatchLoopOptions) {
    this.#options = options;
    this.#firstAttempt = new Promise(resolve => (this.#attempted = resolve));
  }

  /** It was listed at least once. */
  get hasListed(): boolean {
    return this.#hasListed;
  }

  /** Why it is not followed now. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Resolves when the collection was listed, or could not be; then it goes on by itself. */
  async start(): Promise<void> {
    this.#running ??= this.#run();
    await this.#firstAttempt;
  }

  async close(): Promise<void> {
    this.#end.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { signal } = this.#end;
    while (!signal.aborted) {
      const startMs = performance.now();
      try {
        await this.#follow();
        this.#stalls = 0;
        this.#failures = performance.now() - startMs < SHORT_WATCH_MS ? this.#failures + 1 : 0;
      } catch (error) {
        if (signal.aborted) break;
        this.#note(error);
      }
      this.#attempted();
      const waitMs = jittered(backoffMs(RETRY, this.#failures));
      await sleep(waitMs, undefined, { signal }).catch(() => {});
    }
    this.#attempted();
  }

  /** Until the server ends the watch. */
  async #follow(): Promise<void> {
    const { client, collection, list, apply } = this.#options;
    const { signal } = this.#end;
    this.#isOpen = false;
    if (this.#resourceVersion === undefined) {
      this.#resourceVersion = await list(signal);
      this.#hasListed = true;
    }
    this.#attempted();
    const watch = client.watch(collection, this.#resourceVersion, {
      opened: () => void (this.#isOpen = true),
      following: () => this.#noteFollowing(),
      signal,
    });
    for await (const event of watch) {
      this.#failures = 0;
      this.#stalls = 0;
      if (event.type === 'BOOKMARK') {
        this.#resourceVersion = event.resourceVersion;
      } else {
        apply(event.object, event.type === 'DELETED');
        this.#resourceVersion = event.object.resourceVersion;
      }
    }
  }

  #note(error: unknown): void {
    const { resource, onState, log } = this.#options;
    this.#failures += 1;
    if (error instanceof KubeRefusal && error.isGone) {
      this.#resourceVersion = undefined;
      log.info(
        { resource, reason: error.message },
        'the resource version of a watch has expired: listing again',
      );
      return;
    }
    if (error instanceof KubeRefusal && this.#isLasting(error)) this.#resourceVersion = undefined;
    const problem = error instanceof Error ? error.message : String(error);
    if (!(error instanceof KubeRefusal) && this.#isOpen) this.#noteStall(problem);
    if (problem === this.#problem) return;
    this.#problem = problem;
    onState(problem);
    log.error(
      { resource, reason: problem },
      'the cluster cannot be watched: the last known state stays in force',
    );
  }

  #noteStall(reason: string): void {
    this.#stalls += 1;
    if (this.#stalls < MAX_STALLS) return;
    const { resource, log } = this.#options;
    log.warn({ resource, reason }, 'a watch cannot resume: listing again');
    this.#stalls = 0;
    this.#resourceVersion = undefined;
  }

  /**
   * Whether a list may be answered where the watch is refused: who may list but not watch still sees changes, if later.
   * A server that is coming up refuses for seconds whom it will let in, and were everybody to list anew by that, it
   * would come up later still. Whoever it does not know (401) it gives no list either.
   */
  #isLasting({ status }: KubeRefusal): boolean {
    if (status === 401 || status === 429 || status >= 500) return false;
    return status !== 403 || this.#failures > PATIENT_FAILURES;
  }

  #noteFollowing(): void {
    if (this.#problem === undefined) return;
    this.#problem = undefined;
    const { resource, onState, log } = this.#options;
    onState(undefined);
    log.info({ resource }, 'the cluster is watched again');
  }
}
