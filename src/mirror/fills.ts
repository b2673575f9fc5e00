import { setTimeout as sleep } from 'node:timers/promises';
import { Lru } from '../lib/lru.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import type { Repository } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { Contender } from './contender.ts';
import { DirectReader } from './direct-reader.ts';
import type { Fill } from './fill.ts';
import { type Download, FillRun, type FillStarter, type FillWorld } from './fill-run.ts';

/** An endpoint that gave wrong bytes of a blob is not asked for that one so soon again. */
const WRONG_BYTES_MEMORY = { maxEntries: 1_000, maxAgeMs: 10 * 60_000 };
/** How often a stopping process looks whether readers are done. */
const STOP_POLL_MS = 20;

/** The Fills that run in this process: at most one of each (upstream, digest). */
export class Fills {
  readonly #world: FillWorld;
  readonly #runs = new Map<string, FillRun>();
  readonly #wrongEndpoints = new Lru<Set<number>>(WRONG_BYTES_MEMORY);
  #isClosing = false;

  constructor(world: FillWorld) {
    this.#world = world;
  }

  /** The one that runs; not one that has failed and is about to end. */
  find(upstream: string, digest: Digest): FillRun | undefined {
    const run = this.#runs.get(keyOf(upstream, digest));
    return run?.fill.state === 'failed' ? undefined : run;
  }

  /** Starts what `find` does not find. `settled`: the right to this very blob is proved. */
  start(
    repository: Repository,
    digest: Digest,
    right: Right,
    known: { readonly settled: boolean; readonly namedSize: number | undefined },
  ): FillRun {
    return this.#start(digest, { repository, right, ...known, isAhead: false });
  }

  /** Starts it for nobody in particular, behind those that somebody waits for. */
  startAhead(repository: Repository, { digest, size }: Descriptor, right: Right): FillRun {
    return this.#start(digest, { repository, right, settled: false, namedSize: size, isAhead: true });
  }

  #start(digest: Digest, starter: FillStarter): FillRun {
    if (this.#isClosing) throw stopping();
    const key = keyOf(starter.repository.upstream, digest);
    const run = new FillRun(this.#world, digest, starter, {
      after: this.#runs.get(key)?.done,
      skipEndpoints: this.#skippedFor(key),
    });
    this.#runs.set(key, run);
    this.#gauge();
    void this.#forgetAfter(key, run);
    return run;
  }

  /** Serves one reader of a Fill that a full disk has ended. */
  readDirectly(fill: Fill, size: number, contender: Contender): DirectReader {
    const { asking, queue, log } = this.#world;
    return new DirectReader({ asking, queue, log, fill, size, contender });
  }

  /** Those that are not done, the oldest first. */
  get downloads(): readonly Download[] {
    return [...this.#runs.values()].flatMap(run => run.download ?? []);
  }

  get size(): number {
    return this.#runs.size;
  }

  /** Stops what nobody reads at once and the rest after `deadlineMs`; what came is kept for the next process. */
  async close(deadlineMs: number): Promise<void> {
    this.#isClosing = true;
    const deadline = performance.now() + deadlineMs;
    while (this.#runs.size > 0) {
      const isOver = performance.now() >= deadline;
      const runs = [...this.#runs.values()];
      for (const run of runs) {
        if (isOver || !run.fill.hasReaders) run.stop(stopping());
      }
      await Promise.race([Promise.all(runs.map(({ done }) => done)), sleep(STOP_POLL_MS)]);
    }
  }

  async #forgetAfter(key: string, run: FillRun): Promise<void> {
    await run.done;
    if (this.#runs.get(key) === run) this.#runs.delete(key);
    this.#gauge();
  }

  #skippedFor(key: string): Set<number> {
    const skipped = this.#wrongEndpoints.get(key) ?? new Set<number>();
    this.#wrongEndpoints.set(key, skipped);
    return skipped;
  }

  #gauge(): void {
    this.#world.meter.gauge('fills_running', this.#runs.size);
    this.#world.meter.gauge('queue_length', this.#world.queue.waiting);
  }
}

function keyOf(upstream: string, digest: Digest): string {
  return `${upstream} ${digest}`;
}

function stopping(): OciError {
  return new OciError('UNAVAILABLE', { message: 'this server is stopping', headers: { 'Retry-After': '1' } });
}
