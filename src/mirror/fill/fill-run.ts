import type { BlobStore } from '../../blobs/blob-store.ts';
import type { Spool } from '../../blobs/spool.ts';
import { isStorageClosed, isStorageFull } from '../../blobs/storage-full.ts';
import { removeStrays } from '../../blobs/stray-removal.ts';
import { type Lease, LeaseLost, type LeaseState } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import type { LoopLoad } from '../../lib/loop-load.ts';
import type { Meter } from '../../lib/meter.ts';
import { unlessAborted } from '../../lib/single-flight.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import type { Digest } from '../../oci/digest.ts';
import type { NoteEvent } from '../../oci/event.ts';
import { repositoryText } from '../../oci/repository.ts';
import type { Links } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { ConnectionTrials } from './connection-trials.ts';
import type { DownloadState } from './download-state.ts';
import { fillKey } from './fill-key.ts';
import { FillFollower } from './fill-follower.ts';
import { FillLeader, type Led } from './fill-leader.ts';
import { FillOutcome } from './fill-outcome.ts';
import { FillPieces } from './fill-pieces.ts';
import type { FillQuota } from './fill-quota.ts';
import { type FillRequest, FillSharing } from './fill-sharing.ts';
import { FillTransfer } from './fill-transfer.ts';
import { Fill } from './fill.ts';
import { LedFill } from './led-fill.ts';
import type { Keeping } from './keeping.ts';
import type { Partials } from './partials.ts';
import { type PullPlace, type PullTurns, waiterOf } from './pull-queue.ts';
import { ReplicaFollower } from './replica-follower.ts';
import type { Replicas } from './replicas.ts';

export interface FillWorld {
  readonly asking: UpstreamRequests;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly links: Links;
  readonly queue: PullTurns;
  readonly quota: FillQuota;
  readonly partials: Partials;
  /** How many connections may download one blob of an upstream; called each time. */
  readonly connectionsPerBlobOf: (upstream: string) => number;
  /** Begins to measure the load of this process. */
  readonly measureLoad: () => LoopLoad;
  readonly keeping: Keeping;
  /** The other replicas, if there may be any. */
  readonly replicas?: Replicas | undefined;
  /** Called when a download has ended. */
  readonly noteEvent: NoteEvent;
  readonly log: Log;
  readonly meter: Meter;
}

/** The Lease of a blob as it was read; `undefined` if there was none. */
export interface SeenLease {
  readonly lease: LeaseState | undefined;
}

/** The request for which a Fill is started. */
export interface FillStarter extends FillRequest {
  /** Set if it is a prefetch, for which no client waits. */
  readonly isAhead: boolean;
  /** The Lease, if it was just read for this request. */
  readonly seen?: SeenLease | undefined;
}

/** What a run continues with: the Lease as it was last read, or `over` if there is nothing more to do. */
type Next = LeaseState | 'over' | undefined;

/**
 * Runs one Fill, from the queue to the commit:
 *
 *     queue ─▶ Lease is ours? ──yes──▶ ingest ─▶ download ─▶ verify ─▶ commit
 *                ▲  │ no                           │ lost       └─▶ readers get the rest
 *                │  ▼                              ▼
 *                └─ follow the ingest of the process that has it, until that process is dead; in another replica, what
 *                   that sends
 *
 * It does not depend on clients, which come and go. Only `stop` ends it early, and keeps what was downloaded.
 */
export class FillRun {
  readonly fill: Fill;
  /** Who may read the Fill, and in whose name it is downloaded. */
  readonly sharing: FillSharing;
  /** Resolves when the run has ended; never rejects. */
  readonly done: Promise<void>;
  /** Like `done`, with the reason if the blob can be read but is not stored. */
  readonly unstored: Promise<Error | undefined>;
  readonly #metadata: MetadataStore;
  readonly #blobs: BlobStore;
  /** Of its ingest and Lease. */
  readonly key: string;
  readonly #place: PullPlace;
  readonly #follower: FillFollower;
  readonly #replicaFollower: ReplicaFollower | undefined;
  readonly #leader: FillLeader;
  readonly #pieces: FillPieces;
  readonly #outcome: FillOutcome;
  readonly #stopping = new AbortController();
  readonly #startedAtMs: number;
  #isQueued: boolean;
  /** Ends when it is known whether this process has the Lease. */
  #acquiring: Promise<unknown> = Promise.resolve();
  /** The Lease under which this process downloads it. */
  #led: Lease | undefined;

  /**
   * `after` is the end of an earlier run for the same Fill. `skipEndpoints` is shared by all runs: the endpoints that
   * sent wrong bytes. `trials` are those of its upstream.
   */
  constructor(
    world: FillWorld,
    digest: Digest,
    starter: FillStarter,
    from: {
      readonly after: Promise<void> | undefined;
      readonly skipEndpoints: Set<number>;
      readonly trials: ConnectionTrials;
    },
  ) {
    const { repository, right, isAhead } = starter;
    this.#metadata = world.metadata;
    this.#blobs = world.blobs;
    this.#startedAtMs = world.asking.clock.nowMs();
    this.key = fillKey(repository.upstream, digest);
    this.#place = world.queue.enter({
      ...waiterOf(right.requester),
      repository: repositoryText(repository),
      key: this.key,
      isAhead,
    });
    this.#isQueued = this.#place.queued;
    this.fill = new Fill(digest);
    const parts = {
      ...world,
      key: this.key,
      fill: this.fill,
      place: this.#place,
      skipEndpoints: from.skipEndpoints,
      trials: from.trials,
      limit: () => world.connectionsPerBlobOf(repository.upstream),
      log: world.log.child({ upstream: repository.upstream, digest }),
      signal: this.#stopping.signal,
    };
    this.sharing = new FillSharing(parts, starter);
    const shared = { ...parts, sharing: this.sharing };
    this.#outcome = new FillOutcome(shared);
    this.#follower = new FillFollower(shared);
    const { replicas } = world;
    this.#replicaFollower =
      replicas && new ReplicaFollower({ ...shared, replicas, clock: world.asking.clock });
    const pieces = new FillPieces(shared);
    this.#pieces = pieces;
    const transfer = new FillTransfer({ ...shared, pieces, disk: world.spool.space });
    this.#leader = new FillLeader({ ...shared, pieces, transfer, outcome: this.#outcome });
    this.done = this.#run(from.after, starter.seen);
    this.unstored = this.done.then(() => this.#outcome.whyUnstored);
  }

  /** The progress; `undefined` after the end. */
  get download(): DownloadState | undefined {
    const { digest, state, length: bytes, size, readers } = this.fill;
    if (state === 'verified' || state === 'failed') return undefined;
    return {
      kind: 'whole',
      repository: repositoryText(this.sharing.starter.repository),
      digest,
      state: this.#isQueued ? 'queued' : 'downloading',
      bytes,
      aheadBytes: this.#pieces.bytesBehind(bytes),
      size: size ?? this.sharing.agreedSize,
      readers,
      requesters: this.sharing.requesters,
      startedAtMs: this.#startedAtMs,
      holder: this.#follower.holder ?? this.#replicaFollower?.holder,
    };
  }

  /** Whether it waits for its turn and has no connection. */
  get isQueued(): boolean {
    return this.#isQueued;
  }

  /** Whether it waits for its turn, and no client for it. */
  get isForNobody(): boolean {
    return this.#isQueued && !this.fill.hasReaders && !this.#stopping.signal.aborted;
  }

  /**
   * The Fill for another replica, while this process downloads it under the Lease with this epoch; the caller closes it.
   * Others may see in the index that this process has the Lease before it knows.
   */
  async led(epoch: number): Promise<LedFill | undefined> {
    await this.#acquiring;
    return this.#led?.epoch === epoch ? new LedFill(this.fill, this.sharing, this.done) : undefined;
  }

  /** Stops the run. What was downloaded is kept for the next one. */
  stop(reason: Error): void {
    this.#stopping.abort(reason);
  }

  async #run(after: Promise<void> | undefined, seen: SeenLease | undefined): Promise<void> {
    const waits = this.#isQueued || after !== undefined;
    try {
      await after;
      await unlessAborted(this.#place.turn, this.#stopping.signal);
      this.#isQueued = false;
      await this.#bring(waits ? undefined : seen);
    } catch (error) {
      this.#outcome.failed(isStorageClosed(error) ? await this.#answeredWithoutRoom(error) : error);
    } finally {
      this.#place.leave();
      await this.#replicaFollower?.end().catch(() => {});
      this.fill.end();
    }
  }

  /**
   * If the disk is so full that not even a Lease can be written, readers continue straight from upstream, once it has
   * said who may and how large the blob is. Returns the failure of the Fill.
   */
  async #answeredWithoutRoom(full: unknown): Promise<unknown> {
    try {
      await this.sharing.ask();
      // Nothing is shared: each reader gets what upstream sends to it alone.
      if (this.fill.length === 0) this.sharing.admitAll();
      return full;
    } catch (error) {
      return error;
    }
  }

  /** `seen`: the Lease as it was just read; absent if it was not read. */
  async #bring(seen: SeenLease | undefined): Promise<void> {
    // If another replica has the Lease, it is followed at once: an attempt to acquire the Lease would be a write.
    let next: Next = seen === undefined ? await this.#look() : seen.lease;
    while (next !== 'over')
      next = next?.elsewhere === undefined ? await this.#contend() : await this.#followElsewhere(next);
  }

  /** The Lease, which may be that of another replica; `undefined` if there is none. */
  async #look(): Promise<LeaseState | undefined> {
    return this.#replicaFollower && this.#metadata.readLease(this.key);
  }

  /** Follows another replica as long as it has the Lease. Returns `over` if the blob is then stored, otherwise the Lease. */
  async #followElsewhere({ elsewhere: address, epoch, holder }: LeaseState): Promise<Next> {
    const { key } = this;
    const follower = this.#replicaFollower;
    if (follower === undefined || address === undefined) return undefined;
    this.#follower.end();
    if (await follower.follow({ address, key, epoch }, holder)) return 'over';
    if (!(await this.#follower.takeStored())) return this.#look();
    await follower.discard();
    return 'over';
  }

  /**
   * Tries to acquire the Lease, and downloads under it. If another process of this replica has it, follows that process for a
   * while. Returns `over` if the blob is then stored, otherwise the Lease.
   */
  async #contend(): Promise<Next> {
    const seen: { lease?: LeaseState } = {};
    const acquiring = this.#metadata.acquireLease(this.key, held => (seen.lease = held));
    this.#acquiring = acquiring.catch(() => {});
    const own = await acquiring;
    if (own !== undefined) return (await this.#leadUnder(own)) ? 'over' : this.#look();
    if (this.#replicaFollower !== undefined) {
      const lease = seen.lease ?? (await this.#look());
      if (lease?.isHeld !== true || lease.elsewhere !== undefined) return lease;
    }
    return (await this.#follower.follow()) ? 'over' : this.#look();
  }

  /** False if another process has taken the Lease over: this process then follows it. */
  async #leadUnder(lease: Lease): Promise<boolean> {
    let led: Led = 'left';
    this.#follower.end();
    this.#led = lease;
    try {
      if (await this.#follower.takeStored()) {
        led = 'done';
        await this.#replicaFollower?.discard();
        return true;
      }
      led = await this.#leader.lead((await this.#replicaFollower?.takeOver(lease)) ?? lease);
      if (led === 'lost') {
        this.#follower.forget();
        this.#replicaFollower?.lost(lease.epoch);
      }
      return led !== 'lost';
    } catch (error) {
      if (error instanceof LeaseLost) return false;
      throw error;
    } finally {
      this.#led = undefined;
      await (led === 'done' ? this.#metadata.release(lease) : this.#metadata.setAside(lease));
      if (led === 'done') await this.#removeUnstored();
    }
  }

  /** Without a row, the bytes would take space until garbage is collected. The Lease, under which they stay, has ended. */
  async #removeUnstored(): Promise<void> {
    if (!isStorageFull(this.#outcome.whyUnstored)) return;
    await removeStrays(this.#blobs, this.#metadata, [this.fill.digest]).catch(() => {});
  }
}
