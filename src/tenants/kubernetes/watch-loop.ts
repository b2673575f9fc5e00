import { backoffMs, jittered } from '../../lib/backoff.ts';
import type { Clock } from '../../lib/clock.ts';
import type { Log } from '../../lib/log.ts';
import { type KubeCollection, type KubeClient, type KubeObject, KubeRefusal } from './kube-client.ts';

export interface WatchLoopOptions {
  readonly client: KubeClient;
  readonly collection: KubeCollection;
  /** Its name in the log, such as `secrets`. */
  readonly resource: string;
  /** Reads the current state, or its version alone; resolves with the version to watch from. */
  readonly list: (signal: AbortSignal) => Promise<string>;
  /** Called after each `list`; `isFirst` for the first, when `hasListed` has become true. */
  readonly onListed: (isFirst: boolean) => void;
  /** Called with each change; `isGone` if the object was deleted. */
  readonly apply: (object: KubeObject, isGone: boolean) => void;
  /** Called when following begins or fails; after a failure the last known state stays in force. */
  readonly onState: (problem: string | undefined) => void;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * Delays after failures. A request every ten seconds is no burden for a server that is starting, and what changed
 * meanwhile takes effect within seconds of its return.
 */
const RETRY = { firstMs: 250, maxMs: 10_000 } as const;

/** How many refusals in a row may come from a server that is starting: the first four take four seconds. */
const PATIENT_FAILURES = 4;

/** If a watch breaks this often at one version, it cannot get past something there. */
const MAX_STALLS = 4;

/** Limits requests to a server that ends each watch at once. */
const SHORT_WATCH_MS = 1_000;

/**
 * Follows a collection of the cluster: lists, then watches, and continues where a watch ended. Lists again if the
 * cluster no longer knows that version, or if the watch cannot get past it.
 */
export class WatchLoop {
  readonly #options: WatchLoopOptions;
  readonly #end = new AbortController();
  #resourceVersion: string | undefined;
  #failures = 0;
  /** How often an accepted watch broke since anything was received. */
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

  /** Whether it was listed at least once. */
  get hasListed(): boolean {
    return this.#hasListed;
  }

  /** Why it is not followed now; `undefined` if it is. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Resolves when the collection was listed, or could not be; it is then followed in the background. */
  async start(): Promise<void> {
    this.#running ??= this.#run();
    await this.#firstAttempt;
  }

  async close(): Promise<void> {
    this.#end.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#end;
    while (!signal.aborted) {
      const startMs = clock.monotonicMs();
      try {
        await this.#follow();
        this.#stalls = 0;
        this.#failures = clock.monotonicMs() - startMs < SHORT_WATCH_MS ? this.#failures + 1 : 0;
      } catch (error) {
        if (signal.aborted) break;
        this.#note(error);
      }
      this.#attempted();
      const waitMs = jittered(backoffMs(RETRY, this.#failures));
      await clock.sleep(waitMs, { signal }).catch(() => {});
    }
    this.#attempted();
  }

  /** Returns when the server ends the watch. */
  async #follow(): Promise<void> {
    const { client, collection, list, onListed, apply } = this.#options;
    const { signal } = this.#end;
    this.#isOpen = false;
    if (this.#resourceVersion === undefined) {
      this.#resourceVersion = await list(signal);
      const isFirst = !this.#hasListed;
      this.#hasListed = true;
      onListed(isFirst);
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
   * Whether to list again although watches are refused. With the right to list but not to watch, changes are then seen
   * later. But a server that is starting refuses for some seconds, and would start even later if everybody listed
   * again. After a 401, listing would be refused, too.
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
