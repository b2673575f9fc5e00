import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobStore } from '../blobs/blob-store.ts';
import type { Ingest, IngestFollower, Spool } from '../blobs/spool.ts';
import { isStorageClosed, isStorageFull, StorageFull } from '../blobs/storage-full.ts';
import { removeStrays } from '../blobs/stray-removal.ts';
import type { BlobReader } from '../lib/blob-reader.ts';
import { hasBytes } from '../lib/bytes-reader.ts';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { unlessAborted } from '../lib/single-flight.ts';
import { type Digest, digestAlgorithm, digestHex } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import type { Right } from '../oci/requester.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { ociErrorOf, UpstreamFailure } from '../upstream/failures.ts';
import { type UpstreamRequests, isRefusal } from './upstream-requests.ts';
import type { HeldBytes } from './blob-proof.ts';
import type { Contender } from './contender.ts';
import { Contenders } from './contenders.ts';
import { type Delivery, download, MoreThanNamed, OtherBytes, OVERLAP_BYTES } from './download.ts';
import { Fill, wrongBytes } from './fill.ts';
import { FillProofs } from './fill-proofs.ts';
import { IngestWriter } from './ingest-writer.ts';
import type { Keeping } from './keeping.ts';
import { admits, type Links } from './links.ts';
import type { PullPlace, PullQueue } from './pull-queue.ts';
import type { FillSpace, FillQuota } from './fill-quota.ts';

/** How often the length of another process's ingest is polled. */
const FOLLOW_POLL_MS = 20;
/** Polls between two attempts to acquire the Lease, each of which is a write. */
const POLLS_PER_ATTEMPT = 25;
/**
 * How long a download of unknown size continues without a reader. Clients wait 20 s for the size, and retry within
 * seconds.
 */
const UNNAMED_UNREAD_MS = 60_000;

/** How much is compared at a time of two sources of the same blob. */
const COMPARED_BYTES = 64 * 1024;

/** How much of a larger blob must be there before upstream's bytes are compared with it. */
const SHOWABLE_BYTES = 64 * 1024;
/** At most this much is compared of a blob in progress: an upstream without ranges sends all of it each time. */
const MAX_SHOWN_BYTES = 1024 * 1024;

export interface FillWorld {
  readonly asking: UpstreamRequests;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly links: Links;
  readonly queue: PullQueue;
  readonly quota: FillQuota;
  readonly keeping: Keeping;
  readonly log: Log;
  readonly meter: Meter;
}

/** The request for which a Fill is started. */
export interface FillStarter {
  readonly repository: Repository;
  readonly right: Right;
  /** Whether the right to this blob was proved before. */
  readonly settled: boolean;
  /** The size in bytes according to a Link or a manifest of the repository. */
  readonly namedSize: number | undefined;
  /** Set if it is a prefetch, for which no client waits. */
  readonly isAhead: boolean;
}

/** A download in progress, for `entrepot status`. */
export interface Download {
  /** `repositoryText` of the first requester's repository. */
  readonly repository: string;
  readonly digest: Digest;
  /** `queued`: waiting for its turn. */
  readonly state: 'queued' | 'downloading';
  readonly bytes: number;
  /** `undefined` while unknown. */
  readonly size: number | undefined;
  readonly readers: number;
  /** The `Requester.id`s of those that wait for it. */
  readonly requesters: readonly string[];
  readonly startedAtMs: number;
}

/**
 * Runs one Fill, from the queue to the commit:
 *
 *     queue ─▶ Lease is ours? ──yes──▶ ingest ─▶ download ─▶ verify ─▶ commit
 *                ▲  │ no                           │ lost       └─▶ readers get the rest
 *                │  ▼                              ▼
 *                └─ follow the ingest of the process that has it, until that process is dead
 *
 * It does not depend on clients, which come and go. Only `stop` ends it early, and keeps what was downloaded.
 */
export class FillRun {
  readonly fill: Fill;
  /** The contender for which it was started. */
  readonly starter: Contender;
  /** Resolves when the run has ended; never rejects. */
  readonly done: Promise<void>;
  /** Like `done`, with the reason if the blob can be read but is not stored. */
  readonly unstored: Promise<Error | undefined>;
  readonly #world: FillWorld;
  readonly #key: string;
  readonly #log: Log;
  readonly #contenders: Contenders;
  readonly #place: PullPlace;
  readonly #stopping = new AbortController();
  readonly #skipEndpoints: Set<number>;
  /** The sizes that were declared for the blob; `undefined` for requesters without one. */
  readonly #namedSizes = new Set<number | undefined>();
  readonly #proofs: FillProofs;
  readonly #startedAtMs = Date.now();
  #isQueued: boolean;
  /** Whether the store has admitted all of it at once. */
  #isAdmitted = false;
  /** The question to upstream by HEAD while another process downloads the blob. */
  #asked: Promise<void> | undefined;
  #followed: { readonly follower: IngestFollower; readonly epoch: number } | undefined;
  #whyUnstored: Error | undefined;

  /**
   * `after` is the end of an earlier run for the same Fill. `skipEndpoints` is shared by all runs: the endpoints that
   * sent wrong bytes.
   */
  constructor(
    world: FillWorld,
    digest: Digest,
    starter: FillStarter,
    from: { readonly after: Promise<void> | undefined; readonly skipEndpoints: Set<number> },
  ) {
    const { repository, right, settled, namedSize, isAhead } = starter;
    this.#world = world;
    this.#key = fillKey(repository.upstream, digest);
    this.#log = world.log.child({ upstream: repository.upstream, digest });
    this.#skipEndpoints = from.skipEndpoints;
    this.fill = new Fill(digest);
    this.#contenders = new Contenders(digest, world.links);
    this.#proofs = new FillProofs({ digest, asking: world.asking, links: world.links, log: this.#log });
    this.starter = this.#contenders.add(repository, right, settled);
    this.#namedSizes.add(namedSize);
    this.#place = world.queue.enter({
      requester: right.requester.id,
      repository: repositoryText(repository),
      maxTransfers: right.requester.maxTransfers,
      isAhead,
    });
    this.#isQueued = this.#place.queued;
    this.done = this.#run(from.after);
    this.unstored = this.done.then(() => this.#whyUnstored);
  }

  /** The progress; `undefined` after the end. */
  get download(): Download | undefined {
    const { digest, state, length: bytes, size, readers } = this.fill;
    if (state === 'verified' || state === 'failed') return undefined;
    return {
      repository: repositoryText(this.starter.repository),
      digest,
      state: this.#isQueued ? 'queued' : 'downloading',
      bytes,
      size: size ?? this.#agreedSize,
      readers,
      requesters: this.#contenders.requesters,
      startedAtMs: this.#startedAtMs,
    };
  }

  /** Whether it waits for its turn and has no connection. */
  get isQueued(): boolean {
    return this.#isQueued;
  }

  /**
   * Joins as a reader. Returns the contender whose admission the reader depends on; `undefined` if the requester's
   * right is not known yet. It can then `wait` for upstream to prove what is `shown`.
   */
  join(
    repository: Repository,
    right: Right,
    isSettled: boolean,
    namedSize: number | undefined,
  ): Contender | undefined {
    const contender = isSettled
      ? this.#contenders.add(repository, right, true)
      : this.#contenders.joining(repository, right, other => this.#proofs.isGivenTo(other));
    return contender && this.#joined(contender, namedSize);
  }

  /**
   * Joins as a contender that reads nothing before it is admitted: by the caller, or when the download continues in its
   * name.
   */
  wait(repository: Repository, right: Right, namedSize: number | undefined): Contender {
    return this.#joined(this.#contenders.add(repository, right, false), namedSize);
  }

  /** Admits a waiting contender to which upstream has proved that it has the bytes of `held`. */
  admit(contender: Contender, held: HeldBytes): void {
    contender.admit();
    if (held.isVerified) return;
    this.#proofs.noteShown(contender);
    if (this.fill.state === 'verified') void this.#linkShown();
  }

  /** Refuses a contender that is still waiting. */
  refuse(contender: Contender, reason: unknown): void {
    if (contender.state === 'waiting') this.#contenders.refuse(contender, reason);
  }

  /** Whether there are enough bytes to make upstream prove the same to another requester. */
  get isShowable(): boolean {
    const { state, length, size } = this.fill;
    if (state === 'verified') return true;
    return state !== 'failed' && length > 0 && length >= Math.min(SHOWABLE_BYTES, size ?? SHOWABLE_BYTES);
  }

  /** The bytes, once there are enough of them for another requester's proof; `undefined` if the Fill fails before. */
  async shown(): Promise<HeldBytes | undefined> {
    const { fill } = this;
    // Without a known size the bytes would prove nothing, so wait for it.
    await fill.until(() => (this.isShowable && fill.size !== undefined) || undefined).catch(() => {});
    return this.isShowable ? this.#heldBytes() : undefined;
  }

  /** Stops the run. What was downloaded is kept for the next one. */
  stop(reason: Error): void {
    this.#stopping.abort(reason);
  }

  /** The Fill may now also begin in the turn of this requester, if it comes first. */
  #joined(contender: Contender, namedSize: number | undefined): Contender {
    const { id, maxTransfers } = contender.right.requester;
    this.#place.join({ requester: id, maxTransfers });
    this.#namedSizes.add(namedSize);
    return contender;
  }

  async #run(after: Promise<void> | undefined): Promise<void> {
    try {
      await after;
      await unlessAborted(this.#place.turn, this.#stopping.signal);
      this.#isQueued = false;
      await this.#bring();
    } catch (error) {
      this.#fail(isStorageClosed(error) ? await this.#answeredWithoutRoom(error) : error);
    } finally {
      this.#place.leave();
      this.fill.end();
    }
  }

  /**
   * If the disk is so full that not even a Lease can be written, readers continue straight from upstream, once it has
   * said who may and how large the blob is. Returns the failure of the Fill.
   */
  async #answeredWithoutRoom(full: unknown): Promise<unknown> {
    try {
      await this.#ask();
      // Nothing is shared: each reader gets what upstream sends to it alone.
      if (this.fill.length === 0) this.#contenders.admitAll();
      return full;
    } catch (error) {
      return error;
    }
  }

  async #bring(): Promise<void> {
    const { metadata } = this.#world;
    for (;;) {
      const lease = await metadata.acquireLease(this.#key);
      if (lease === undefined ? await this.#follow() : await this.#leadUnder(lease)) return;
    }
  }

  /**
   * False if another process has taken the Lease over: it continues from a copy of the valid bytes, and this process
   * follows it.
   */
  async #leadUnder(lease: Lease): Promise<boolean> {
    const { metadata } = this.#world;
    let isLeft = true;
    try {
      isLeft = !(await this.#takeHeld()) && (await this.#lead(lease)) === 'left';
      return true;
    } catch (error) {
      if (error instanceof LeaseLost) return false;
      throw error;
    } finally {
      await (isLeft ? metadata.setAside(lease) : metadata.release(lease));
    }
  }

  /** Uses the stored blob if another process has stored it meanwhile. False if not. */
  async #takeHeld(): Promise<boolean> {
    const { blobs, metadata } = this.#world;
    const { digest } = this.fill;
    const row = await metadata.statBlob(digest);
    if (row === undefined) return false;
    await this.#checkFollowed();
    const reader = await blobs.open(digest);
    if (reader?.size !== row.size) {
      // The file of the row is lost: this Fill replaces it.
      await reader?.close();
      return false;
    }
    await this.#requireAsRead(reader);
    this.fill.begin(reader, reader.size);
    this.fill.learnSize(reader.size);
    const contenders = this.#contenders.show(this.#heldBytes(true));
    await unlessAborted(contenders, this.#stopping.signal);
    this.fill.verify();
    await this.#linkShown();
    return true;
  }

  /**
   * Throws, after closing `source`, unless its bytes equal those that readers here have received. They differ if they
   * were found to be wrong while this process was suspended.
   */
  async #requireAsRead(source: Pick<BlobReader, 'read' | 'close'>): Promise<void> {
    try {
      if (!(await this.#isAsRead(source))) throw wrongBytes(this.fill.digest);
    } catch (error) {
      await source.close();
      throw error;
    }
  }

  /** Whether `source` begins with the bytes that readers here have received. */
  async #isAsRead(source: Pick<BlobReader, 'read'>): Promise<boolean> {
    const bytes = this.fill.readable;
    const ours = new Uint8Array(COMPARED_BYTES);
    for (let position = 0; position < bytes; ) {
      this.#stopping.signal.throwIfAborted();
      const count = await this.fill.read(ours.subarray(0, bytes - position), position);
      if (!(await hasBytes(source, ours.subarray(0, count), position))) return false;
      position += count;
    }
    return true;
  }

  /** Follows the process that has the Lease. True if the blob is stored, false if the Lease may be free. */
  async #follow(): Promise<boolean> {
    await (this.#asked ??= this.#ask());
    for (let poll = 0; poll < POLLS_PER_ATTEMPT; poll++) {
      await sleep(FOLLOW_POLL_MS, undefined, { signal: this.#stopping.signal });
      if (await this.#takeHeld()) return true;
      await this.#readAlong();
      if (this.isShowable && this.fill.size !== undefined) await this.#showToWaiting();
    }
    return false;
  }

  async #readAlong(): Promise<void> {
    const { spool, metadata } = this.#world;
    const held = await metadata.readLease(this.#key);
    if (held?.isHeld !== true) return;
    if (this.#followed?.epoch !== held.epoch) {
      const follower = await spool.follow(this.#key, held.epoch);
      if (follower === undefined) return;
      await this.#requireAsRead(follower);
      this.fill.begin(follower, this.fill.length);
      this.#followed = { follower, epoch: held.epoch };
    }
    const length = await this.#checkFollowed();
    // Checked after reading the length: bytes from before a takeover are in the new process's copy, bytes that a
    // suspended process adds after waking up are not.
    const isStillHeld = (await metadata.readLease(this.#key))?.epoch === held.epoch;
    if (isStillHeld) this.fill.grow(length);
  }

  /**
   * The length of the followed ingest. Its writer truncates it if the bytes are wrong, and then readers here have wrong
   * bytes, too.
   */
  async #checkFollowed(): Promise<number> {
    const length = (await this.#followed?.follower.length()) ?? 0;
    if (this.#followed !== undefined && length < this.fill.length) throw wrongBytes(this.fill.digest);
    return length;
  }

  /**
   * The place is kept until the ingest is deleted or stored: otherwise another Fill would take the same space again.
   */
  async #lead(lease: Lease): Promise<'done' | 'left'> {
    const place = await this.#world.quota.enter();
    try {
      return await this.#leadIn(place, lease);
    } finally {
      place.leave();
    }
  }

  async #leadIn(place: FillSpace, lease: Lease): Promise<'done' | 'left'> {
    const { spool } = this.#world;
    const { fill } = this;
    let ingest = await spool.ingest(lease, { digest: fill.digest });
    const seen = fill.length;
    const isSame = await this.#isAsRead(ingest).catch(() => false);
    fill.begin(ingest, ingest.offset);
    let endpoint: number;
    let actual: Digest;
    try {
      if (ingest.offset < seen || !isSame) throw wrongBytes(fill.digest);
      let end = await this.#goOn(ingest, place, seen);
      if (end === undefined) {
        ingest = await this.#anew(ingest);
        end = await this.#download(ingest, place);
      }
      endpoint = end;
      actual = await ingest.hash(fill.digest);
    } catch (error) {
      if (error instanceof LeaseLost) {
        this.#followed = undefined;
        await ingest.suspend();
        // There are too few bytes to compare, so the other process starts again: its bytes are not for these readers.
        throw this.#isDoubtful ? beganAnew(error) : error;
      }
      if (error instanceof OtherBytes) {
        await this.#discard(ingest, wrongBytes(fill.digest, error));
        return 'done';
      }
      if (error instanceof MoreThanNamed) {
        this.#skipEndpoints.add(error.endpoint);
        await this.#discard(ingest, wrongBytes(fill.digest, error));
        return 'done';
      }
      this.#fail(error);
      // A full disk gets its space back, which the index and pushes need; readers continue straight from upstream.
      const isDropped = isStorageClosed(error) || error instanceof Unwanted;
      await (isDropped ? ingest.abort() : ingest.suspend());
      return isDropped ? 'done' : 'left';
    }
    if (actual !== fill.digest) {
      this.#skipEndpoints.add(endpoint);
      await this.#discard(ingest, wrongBytes(fill.digest));
      return 'done';
    }
    fill.verify();
    const isKept = await this.#commit(ingest);
    this.#world.meter.count('fills_total', { outcome: isKept ? 'verified' : 'failed' });
    return 'done';
  }

  /**
   * Downloads what is missing after the bytes of an earlier run. Returns the index of the last endpoint; `undefined` if
   * those bytes turned out to be others than upstream's and no reader has received any of them. `seen`: how many bytes
   * readers may have received before.
   */
  async #goOn(ingest: Ingest, place: FillSpace, seen: number): Promise<number | undefined> {
    const { fill } = this;
    if (ingest.offset === 0) return this.#download(ingest, place);
    fill.grow(ingest.offset);
    try {
      // So few bytes prove nothing, and are soon downloaded again.
      if (ingest.offset < OVERLAP_BYTES && seen === 0) throw new OtherBytes();
      this.#world.meter.count('fills_resumed_total');
      return await this.#download(ingest, place);
    } catch (error) {
      const isOther =
        error instanceof OtherBytes || (error instanceof UpstreamFailure && error.kind === 'invalid');
      if (!isOther || !this.#proofs.isEmpty) throw error;
      if (seen === 0 && fill.readable === 0) return undefined;
      throw error instanceof OtherBytes ? error : new OtherBytes({ cause: error });
    }
  }

  /**
   * A new ingest after one with wrong bytes. It has another file, and the old one stays empty: that is how a process
   * that follows it learns that its readers have wrong bytes, however long it was suspended.
   */
  async #anew(old: Ingest): Promise<Ingest> {
    const { fill } = this;
    await old.truncate(0);
    await old.abort();
    const ingest = await this.#world.spool.ingest(old.lease, { digest: fill.digest, anew: true });
    fill.begin(ingest, 0);
    return ingest;
  }

  async #download(ingest: Ingest, place: FillSpace): Promise<number> {
    const { fill } = this;
    const { meter } = this.#world;
    const labels = { upstream: this.starter.repository.upstream };
    const writer = new IngestWriter(ingest, length => {
      meter.count('bytes_from_upstream_total', labels, length - fill.length);
      fill.grow(length);
    });
    const reading = new Reading(fill);
    try {
      return await download({
        asking: this.#world.asking,
        digest: fill.digest,
        log: this.#log,
        resumed: () => meter.count('fills_resumed_total'),
        signal: this.#stopping.signal,
        skipEndpoints: this.#skipEndpoints,
        length: () => writer.length,
        read: (buffer, position) => fill.read(buffer, position),
        size: () => fill.size ?? this.#agreedSize,
        limit: () => this.#limitBytes,
        write: async chunk => {
          await this.#admit(chunk, place, reading);
          await writer.add(chunk);
        },
        contender: () => this.#contenders.current,
        refused: async (contender, failure) => {
          await writer.drain();
          this.#refused(contender, failure);
        },
        given: delivery => this.#given(delivery),
      });
    } finally {
      await writer.drain();
    }
  }

  /** Reserves space for the next piece. Throws if there is none, or if nobody wants a blob of unknown size any more. */
  async #admit(chunk: Uint8Array, place: FillSpace, reading: Reading): Promise<void> {
    const limitBytes = this.#limitBytes;
    place.take(chunk.byteLength, limitBytes);
    if (limitBytes !== undefined && !this.#isAdmitted) {
      // For the whole blob at once, so that one that cannot fit displaces nothing.
      await this.#world.spool.space.admit(limitBytes - this.fill.length);
      this.#isAdmitted = true;
    }
    if (limitBytes === undefined && reading.unreadMs > UNNAMED_UNREAD_MS) throw new Unwanted();
  }

  /** The size that all requesters agree on. Upstream's has to be the same, or nobody could read the blob. */
  get #agreedSize(): number | undefined {
    const [size] = this.#namedSizes;
    return this.#namedSizes.size === 1 ? size : undefined;
  }

  /** The maximum size: upstream's, else the largest that was declared; `undefined` if unknown. */
  get #limitBytes(): number | undefined {
    if (this.fill.size !== undefined) return this.fill.size;
    const named = [...this.#namedSizes].filter(size => size !== undefined);
    return named.length === 0 ? undefined : Math.max(...named);
  }

  #given(delivery: Delivery): boolean {
    const { contender, answer, from, shownBytes } = delivery;
    // Bytes that were downloaded for others are no proof for a response that continues them without an overlap.
    const isProof = from === 0 || shownBytes > 0;
    if (contender.state === 'waiting' && !(isProof && admits(answer, contender.right))) return false;
    if (this.fill.size === undefined && answer.size !== undefined) this.fill.learnSize(answer.size);
    this.#proofs.noteGiven(delivery);
    contender.admit();
    return true;
  }

  /**
   * Continues in the next contender's name, whose bytes also go to the readers of the refused one. If upstream began to
   * answer the refused one with something else than the blob, the overlap will differ, unless there is too little to
   * compare.
   */
  #refused(contender: Contender, failure: UpstreamFailure): void {
    this.#contenders.refuse(contender, failure);
    if (this.#contenders.current !== undefined && this.#isDoubtful) throw nothingShown();
  }

  /** Whether there are readers that upstream has sent too little to be sure that it is the blob. */
  get #isDoubtful(): boolean {
    return this.fill.length < OVERLAP_BYTES && !this.#proofs.isEmpty && !this.#contenders.areSettled;
  }

  /** Asks upstream which waiting contenders it refuses, and for the size. Aborted by `stop`. */
  async #ask(): Promise<void> {
    const { fill } = this;
    const asking = this.#contenders.ask({ needsSize: fill.size === undefined });
    const size = await unlessAborted(asking, this.#stopping.signal);
    if (size !== undefined && fill.size === undefined) fill.learnSize(size);
  }

  async #showToWaiting(): Promise<void> {
    const held = this.#heldBytes();
    const showing = this.#contenders.show(held);
    for (const contender of await unlessAborted(showing, this.#stopping.signal)) this.admit(contender, held);
  }

  /** What is there, to be compared with what upstream sends to another requester. */
  #heldBytes(isVerified = this.fill.state === 'verified'): HeldBytes {
    const { fill } = this;
    return {
      size: fill.size,
      length: isVerified ? fill.length : Math.min(fill.length, MAX_SHOWN_BYTES),
      isVerified,
      open: async () => {
        const leave = fill.hold();
        return {
          read: (buffer, position) => fill.read(buffer, position),
          close: async () => leave(),
        };
      },
    };
  }

  /** Aborted by `stop`. */
  async #linkShown(): Promise<void> {
    const linking = this.#proofs.linkShown(this.#heldBytes(true));
    await unlessAborted(linking, this.#stopping.signal).catch(() => {});
  }

  /** Stores the verified blob. False if that failed; if another process has taken over, it stores it. */
  async #commit(ingest: Ingest): Promise<boolean> {
    const { blobs, metadata, links, keeping } = this.#world;
    const { digest, length } = this.fill;
    try {
      const [first, ...others] = await this.#proofs.verified(length);
      for (const repository of others) links.add(repository, digest, length);
      // Before the row exists: whoever waits for that considers the repository complete.
      await this.#linkShown();
      const stored = await blobs.put(digest, ingest);
      await metadata.putBlob(digest, length, first, stored);
      keeping.succeeded();
      return true;
    } catch (error) {
      await ingest.abort().catch(() => {});
      if (isStorageFull(error)) await removeStrays(blobs, metadata, [digest]).catch(() => {});
      if (error instanceof LeaseLost) return true;
      // Readers have the whole blob; only later requests will miss it.
      this.#log.error({ err: error }, 'a verified blob could not be stored');
      this.#whyUnstored = asError(error);
      keeping.failed(error);
      return false;
    }
  }

  async #discard(ingest: Ingest, error: OciError): Promise<void> {
    this.#fail(error);
    // Truncated first: that tells processes that follow the ingest that their readers have wrong bytes. If the Lease
    // belongs to another process by now, nobody follows it.
    await ingest.truncate(0).catch(() => {});
    await ingest.abort();
  }

  #fail(error: unknown): void {
    const { aborted, reason } = this.#stopping.signal;
    const heard = aborted
      ? reason
      : error instanceof UpstreamFailure
        ? ociErrorOf(error, 'BLOB_UNKNOWN')
        : error;
    this.#contenders.refuseAll(heard);
    this.fill.fail(heard);
    // Readers continue straight from upstream.
    if (isStorageClosed(heard)) this.#whyUnstored = asError(heard);
    if (aborted) return;
    // A limit of our own that is reached is no fault of the disk.
    if (isStorageClosed(error) && !(error instanceof StorageFull)) this.#world.keeping.failed(error);
    const isRefused = error instanceof UpstreamFailure && isRefusal(error);
    this.#world.meter.count('fills_total', { outcome: isRefused ? 'refused' : 'failed' });
    if (isRefused) return this.#log.debug({ err: error }, 'upstream refused a blob');
    this.#log.warn({ err: error, length: this.fill.length }, 'a download failed');
  }
}

/** Tracks when a Fill was last read. */
class Reading {
  readonly #fill: Fill;
  #readAtMs = performance.now();

  constructor(fill: Fill) {
    this.#fill = fill;
  }

  get unreadMs(): number {
    const nowMs = performance.now();
    if (this.#fill.hasReaders) this.#readAtMs = nowMs;
    return nowMs - this.#readAtMs;
  }
}

function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

/** Nobody waits for the blob, which may never end. */
class Unwanted extends Error {
  constructor() {
    super('no client is waiting for the blob, and its size is unknown');
  }
}

/** The error when another process has taken over and there is too little to compare with its bytes. */
function beganAnew(cause: LeaseLost): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'another process has taken over this download: try again',
    headers: { 'Retry-After': '1' },
    cause,
  });
}

/** The error when a download cannot continue: upstream has sent too little to tell whether it is the blob. */
function nothingShown(): UpstreamFailure {
  return new UpstreamFailure(
    'unavailable',
    'upstream closed the connection before it proved that it has the blob',
  );
}

/**
 * The key of a Fill's ingest and Lease. Names of upstreams have characters that a key may not have, so they are hashed.
 */
function fillKey(upstream: string, digest: Digest): string {
  const upstreamKey = createHash('sha256').update(upstream).digest('hex').slice(0, 16);
  return `fill-${upstreamKey}-${digestAlgorithm(digest)}-${digestHex(digest)}`;
}
