/**
 * mirror/fill/: downloads of blobs. From mirror/ it imports Links, their proofs and UpstreamRequests; the rest of
 * mirror/ builds on it.
 *
 * The main idea: a download belongs to nobody. A `FillRun` brings it to its end, under a Lease if this process leads, or
 * by following the process that does; clients read the `Fill`, each at its own pace, and come and go. Whoever may read it
 * is `FillSharing`'s business, and what becomes of it `FillOutcome`'s.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { StorageFull } from '../../blobs/storage-full.ts';
import type { Extent } from '../../lib/extents.ts';
import { Lru } from '../../lib/lru.ts';
import type { Descriptor } from '../../oci/descriptor.ts';
import type { Digest } from '../../oci/digest.ts';
import { OciError } from '../../oci/errors.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Right } from '../../oci/requester.ts';
import { aheadBytes } from './byte-window.ts';
import { ConnectionTrials } from './connection-trials.ts';
import type { Contender } from './contender.ts';
import { DirectRanges, type DirectRangesOptions } from './direct-ranges.ts';
import { DirectReader } from './direct-reader.ts';
import type { DownloadState } from './download-state.ts';
import type { Fill } from './fill.ts';
import { fillKey } from './fill-key.ts';
import { FillRun, type FillStarter, type FillWorld, type SeenLease } from './fill-run.ts';
import type { FillRequest } from './fill-sharing.ts';
import { FollowedFill, type FollowRequest } from './followed-fill.ts';
import type { LedFill } from './led-fill.ts';
import { type Along, NEAR_BYTES } from './range-reader.ts';
import { unfinishedBlobs } from './unfinished-blobs.ts';

/** How long an endpoint that sent wrong bytes of a blob is avoided for that blob. */
const WRONG_BYTES_MEMORY = { maxEntries: 1_000, maxAgeMs: 10 * 60_000 };
/** How long the log does not repeat that ranges of a blob cannot be kept: lazy clients make hundreds of requests. */
const UNKEPT_MEMORY = { maxEntries: 1_000, maxAgeMs: 10 * 60_000 };
/** How many downloads of other processes are listed, each of which costs two reads. */
const MAX_FOREIGN = 100;
/**
 * How many runs there may be: those that wait for their turn take 12 KB each, and clients that leave do not end them. It is
 * more than a large cluster has to wait for when it begins with an empty store.
 */
const MAX_RUNS = 4_096;
/** How often a stopping process checks whether readers have finished. */
const STOP_POLL_MS = 20;

/** A download in progress in another process on the store. */
export interface ForeignDownload {
  readonly digest: Digest;
  /** `undefined` if it is not configured here. */
  readonly upstream: string | undefined;
  /** How much of it is stored. */
  readonly bytes: number;
  /** That process, for people. */
  readonly holder: string;
}

/** The Fills of this process: at most one for each upstream and digest. */
export class Fills {
  readonly #world: FillWorld;
  readonly #runs = new Map<string, FillRun>();
  readonly #direct = new Set<DirectReader | DirectRanges>();
  readonly #followed = new Map<string, FollowedFill>();
  /** Blobs of which ranges could not be kept, which the log has reported. */
  readonly #unkept = new Lru<object>(UNKEPT_MEMORY);
  readonly #wrongEndpoints = new Lru<Set<number>>(WRONG_BYTES_MEMORY);
  /** By upstream. */
  readonly #trials = new Map<string, ConnectionTrials>();
  /** For each of those that are read directly. */
  readonly #aheadBytes = () => aheadBytes(this.#direct.size);
  #isClosing = false;

  constructor(world: FillWorld) {
    this.#world = world;
  }

  /** The run in progress, if any; not one that has failed and is about to end. */
  find(upstream: string, digest: Digest): FillRun | undefined {
    const run = this.#runs.get(keyOf(upstream, digest));
    return run?.fill.state === 'failed' ? undefined : run;
  }

  /** Whether the rest of a blob of `size` bytes can be stored that this Fill brings, as far as is known. */
  async hasRoomFor({ state, length }: Fill, size: number): Promise<boolean> {
    return state === 'verified' || this.#world.quota.hasRoomFor(size - length, size);
  }

  /** Starts a run; call only if `find` returns none. `seen`: what `see` has just returned, if called. */
  start(digest: Digest, request: FillRequest, seen?: SeenLease): FillRun {
    return this.#start(digest, { ...request, isAhead: false, seen });
  }

  /** Starts a prefetch, which has lower priority than downloads that clients wait for. */
  startAhead(
    repository: Repository,
    { digest, size }: Pick<Descriptor, 'digest' | 'size'>,
    right: Right,
  ): FillRun {
    return this.#start(digest, { repository, right, settled: false, namedSize: size, isAhead: true });
  }

  /**
   * Reads bytes of a blob along with the download of another process on the store. `undefined` if there is none that has some
   * of them, or soon, or if the requester has no right to it. `missing`: the bytes, which is only called if there is one.
   */
  async readAlong(
    digest: Digest,
    request: FollowRequest,
    missing: () => readonly Extent[],
  ): Promise<Along | undefined> {
    const { spool, metadata } = this.#world;
    const { upstream } = request.repository;
    const leaseKey = fillKey(upstream, digest);
    const lease = await metadata.readLease(leaseKey);
    // Ranges are not asked of other replicas.
    if (lease?.isHeld !== true || lease.elsewhere !== undefined) return undefined;
    const wanted = missing();
    const reach = (await spool.length(leaseKey, lease.epoch)) + NEAR_BYTES;
    const key = keyOf(upstream, digest);
    if (this.#isClosing || this.#runs.has(key) || wanted.every(({ start }) => start >= reach))
      return undefined;
    const followed = this.#followed.get(key) ?? this.#follow(key, digest, request);
    return followed.fill.size === request.namedSize ? followed.readAlong(request, wanted) : undefined;
  }

  /** Reads the Lease of the blob, which another replica may have. `undefined`, without a query, if there are no replicas. */
  async see(upstream: string, digest: Digest): Promise<SeenLease | undefined> {
    const { replicas, metadata } = this.#world;
    return replicas && { lease: await metadata.readLease(fillKey(upstream, digest)) };
  }

  #follow(key: string, digest: Digest, request: FollowRequest): FollowedFill {
    const followed = new FollowedFill(this.#world, digest, request);
    this.#followed.set(key, followed);
    void followed.done.then(() => this.#followed.delete(key));
    return followed;
  }

  #start(digest: Digest, starter: FillStarter): FillRun {
    if (this.#isClosing) throw stopping();
    const key = keyOf(starter.repository.upstream, digest);
    const run = new FillRun(this.#world, digest, starter, {
      after: this.#runs.get(key)?.done,
      skipEndpoints: this.#skippedFor(key),
      trials: this.#trialsOf(starter.repository.upstream),
    });
    this.#runs.set(key, run);
    this.#gauge();
    void this.#forgetAfter(key, run);
    if (this.#runs.size > MAX_RUNS) this.#giveUpOne();
    return run;
  }

  /** Gives up the run that has waited longest of those that nobody waits for. If there is no other, that is the new one. */
  #giveUpOne(): void {
    for (const run of this.#runs.values()) {
      if (run.isForNobody) return run.stop(tooMany());
    }
  }

  /**
   * The Fill that this process downloads under the Lease `key` with this epoch, for another replica; `undefined` if there is
   * none. The caller closes it.
   */
  async led(key: string, epoch: number): Promise<LedFill | undefined> {
    return [...this.#runs.values()].find(run => run.key === key)?.led(epoch);
  }

  /** Makes a reader for a Fill that ended because the disk is full. */
  readDirectly(fill: Fill, size: number, contender: Contender): DirectReader {
    const ended = () => void this.#direct.delete(reader);
    const reader = new DirectReader({
      ...this.#world,
      fill,
      size,
      contender,
      aheadBytes: this.#aheadBytes,
      ended,
    });
    this.#direct.add(reader);
    return reader;
  }

  /** Makes a reader for ranges that cannot be kept, and logs why: `full`. */
  readRangesDirectly(
    ranges: Pick<DirectRangesOptions, 'digest' | 'size' | 'wanted' | 'asker' | 'instead'>,
    full: unknown,
  ): DirectRanges {
    const { keeping, log } = this.#world;
    // Reaching a limit of our own is not a fault of the disk.
    if (!(full instanceof StorageFull)) keeping.failed(full);
    const { digest } = ranges;
    const level = this.#unkept.get(digest) === undefined ? 'warn' : 'debug';
    log[level]({ err: full, digest }, 'ranges of a blob cannot be kept, so they are only passed on');
    this.#unkept.set(digest, {});
    const ended = () => void this.#direct.delete(reader);
    const reader = new DirectRanges({ ...this.#world, ...ranges, aheadBytes: this.#aheadBytes, ended });
    this.#direct.add(reader);
    return reader;
  }

  /** Those in progress, and what is read directly. */
  get downloads(): readonly DownloadState[] {
    return [
      ...[...this.#runs.values()].flatMap(run => run.download ?? []),
      ...[...this.#direct].map(({ download }) => download),
    ];
  }

  /** Downloads of other processes on the store; `upstreams` are the names of upstreams that are looked for. */
  async downloadsElsewhere(upstreams: readonly string[]): Promise<readonly ForeignDownload[]> {
    const { spool, metadata } = this.#world;
    const found: ForeignDownload[] = [];
    const own = new Set([...this.#runs.values()].map(run => run.key));
    for await (const { kind, digest, found: ingest } of unfinishedBlobs(spool)) {
      const { key, size: bytes } = ingest;
      if (kind !== 'download' || own.has(key)) continue;
      const holder = (await metadata.readLease(key))?.holder;
      // It may have begun meanwhile.
      if (holder === undefined || this.isRunning(key)) continue;
      found.push({ digest, bytes, holder, upstream: upstreams.find(name => fillKey(name, digest) === key) });
      if (found.length === MAX_FOREIGN) break;
    }
    return found;
  }

  /** Whether this process downloads, or follows, the ingest with this key. */
  isRunning(key: string): boolean {
    return [...this.#runs.values()].some(run => run.key === key);
  }

  get size(): number {
    return this.#runs.size;
  }

  /**
   * Stops runs without readers at once, others after `deadlineMs`. What was downloaded is kept for the next process.
   */
  async close(deadlineMs: number): Promise<void> {
    this.#isClosing = true;
    const followed = [...this.#followed.values()];
    for (const one of followed) one.stop(stopping());
    await Promise.all(followed.map(({ done }) => done));
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

  #trialsOf(upstream: string): ConnectionTrials {
    const trials = this.#trials.get(upstream) ?? this.#newTrials(upstream);
    this.#trials.set(upstream, trials);
    return trials;
  }

  #newTrials(upstream: string): ConnectionTrials {
    const { meter, measureLoad } = this.#world;
    return new ConnectionTrials(upstream, meter, measureLoad());
  }

  #gauge(): void {
    this.#world.meter.gauge('fills_running', this.#runs.size);
  }
}

function keyOf(upstream: string, digest: Digest): string {
  return `${upstream} ${digest}`;
}

function tooMany(): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'too many downloads are waiting: try again later',
    headers: { 'Retry-After': '5' },
  });
}

function stopping(): OciError {
  return new OciError('UNAVAILABLE', { message: 'this server is stopping', headers: { 'Retry-After': '1' } });
}
