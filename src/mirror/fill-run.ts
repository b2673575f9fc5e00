import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobStore, Ingest, IngestFollower } from '../blobs/blob-store.ts';
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
import type { Place, FillQuota } from './fill-quota.ts';

/** How often the length of an ingest that another process writes is looked at. */
const FOLLOW_POLL_MS = 20;
/** Looks between two attempts to take the Lease over, which are writes. */
const POLLS_PER_ATTEMPT = 25;
/**
 * A download whose size nobody names goes on so long for nobody. Its clients wait 20 s for a size, and come again within
 * seconds.
 */
const UNNAMED_UNREAD_MS = 60_000;

/** Of two sources of the same blob, at a time. */
const COMPARED_BYTES = 64 * 1024;

/** So much of a larger blob is waited for before another's answer is compared with it. */
const SHOWABLE_BYTES = 64 * 1024;
/** No more than that is compared of a blob under way: an upstream without ranges sends all of it each time. */
const MAX_SHOWN_BYTES = 1024 * 1024;

export interface FillWorld {
  readonly asking: UpstreamRequests;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly links: Links;
  readonly queue: PullQueue;
  readonly quota: FillQuota;
  readonly keeping: Keeping;
  readonly log: Log;
  readonly meter: Meter;
}

/** For whom a Fill is started. */
export interface FillStarter {
  readonly repository: Repository;
  readonly right: Right;
  /** The right to this very blob is proved. */
  readonly settled: boolean;
  /** The size that a Link or a manifest held in the repository gives the blob, in bytes. */
  readonly namedSize: number | undefined;
  /** Nobody waits for it yet. */
  readonly isAhead: boolean;
}

/** A download that is under way, for people. */
export interface Download {
  /** `repositoryText` of where it was asked for first. */
  readonly repository: string;
  readonly digest: Digest;
  /** `queued`: it waits for its turn. */
  readonly state: 'queued' | 'downloading';
  readonly bytes: number;
  /** `undefined` until it is known. */
  readonly size: number | undefined;
  readonly readers: number;
  /** For whom: `Requester.id`. */
  readonly requesters: readonly string[];
  readonly startedAtMs: number;
}

/**
 * The life of one Fill, from the queue to the commit:
 *
 *     queue ─▶ Lease is ours? ──yes──▶ ingest ─▶ download ─▶ verify ─▶ commit
 *                ▲  │ no                           │ lost       └─▶ readers have it all
 *                │  ▼                              ▼
 *                └─ follow the ingest of the process that has it, until that one is dead
 *
 * It has its own lifetime: clients come and go, and `stop` alone ends it early, keeping what came for the next one.
 */
export class FillRun {
  readonly fill: Fill;
  /** The one for whom it was started. */
  readonly starter: Contender;
  /** Resolves when nothing more happens; never rejects. */
  readonly done: Promise<void>;
  readonly #world: FillWorld;
  readonly #key: string;
  readonly #log: Log;
  readonly #contenders: Contenders;
  readonly #place: PullPlace;
  readonly #stopping = new AbortController();
  readonly #skipEndpoints: Set<number>;
  /** Of those for whom the blob is wanted; `undefined` for whom nothing names it. */
  readonly #namedSizes = new Set<number | undefined>();
  readonly #proofs: FillProofs;
  readonly #startedAtMs = Date.now();
  #isQueued: boolean;
  /** The disk had room for all of it. */
  #isAdmitted = false;
  /** That upstream was asked by HEAD, while another process brings the blob. */
  #asked: Promise<void> | undefined;
  #followed: { readonly follower: IngestFollower; readonly epoch: number } | undefined;

  /**
   * `after`: the end of an earlier run of the same Fill.
   * `skipEndpoints` is kept by the caller from run to run: those that gave wrong bytes.
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
  }

  /** How far it is; `undefined` when nothing more comes. */
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

  /** Whether it waits for its turn, without a connection. */
  get isQueued(): boolean {
    return this.#isQueued;
  }

  /**
   * Joins. Returns the one on whose strength this requester reads; `undefined` when nothing says yet that he may: then he
   * `waits`, until upstream shows him what is `shown`.
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

  /** Joins as one who reads nothing before he is admitted: by whoever calls this, or as the download goes on in his name. */
  wait(repository: Repository, right: Right, namedSize: number | undefined): Contender {
    return this.#joined(this.#contenders.add(repository, right, false), namedSize);
  }

  /** Upstream has shown to one that waits what was `held`. */
  admit(contender: Contender, held: HeldBytes): void {
    contender.admit();
    if (held.isVerified) return;
    this.#proofs.noteShown(contender);
    if (this.fill.state === 'verified') void this.#linkShown();
  }

  /** Upstream does not show it to one that waits. */
  refuse(contender: Contender, reason: unknown): void {
    if (contender.state === 'waiting') this.#contenders.refuse(contender, reason);
  }

  /** Whether enough is here to have upstream show the same to another. */
  get isShowable(): boolean {
    const { state, length, size } = this.fill;
    if (state === 'verified') return true;
    return state !== 'failed' && length > 0 && length >= Math.min(SHOWABLE_BYTES, size ?? SHOWABLE_BYTES);
  }

  /**
   * What is here, once there is enough of it to have upstream show the same to another; `undefined` when the Fill has
   * failed before.
   */
  async shown(): Promise<HeldBytes | undefined> {
    const { fill } = this;
    // An answer that does not say its size, as the first one did not, shows it only to who knows it.
    await fill.until(() => (this.isShowable && fill.size !== undefined) || undefined).catch(() => {});
    return this.isShowable ? this.#heldBytes() : undefined;
  }

  /** Breaks it off; what came is kept for the next run to go on from. */
  stop(reason: Error): void {
    this.#stopping.abort(reason);
  }

  /** The Fill may begin in his turn too, should it come before those of the others. */
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
   * A disk that is full to the last byte takes not even a Lease. Readers then go on straight from upstream, once it has
   * said who may, and how long the blob is. Returns what the Fill failed of.
   */
  async #answeredWithoutRoom(full: unknown): Promise<unknown> {
    try {
      await this.#ask();
      // Of what is not here each is given what upstream sends for it alone.
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
   * False when another process has taken the Lease: it goes on from a copy of the bytes that were valid here, and this one
   * can follow it.
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

  /** The blob may have been brought by another process while this one waited. */
  async #takeHeld(): Promise<boolean> {
    const { blobs, metadata } = this.#world;
    const { digest } = this.fill;
    const row = await metadata.statBlob(digest);
    if (row === undefined) return false;
    await this.#checkFollowed();
    const reader = await blobs.open(digest);
    if (reader?.size !== row.size) {
      // The file that the row speaks of is lost: this Fill replaces it.
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
   * Closes `source` and throws unless it has what readers here were given: somebody else may have found that wrong, unseen by
   * a process that stood still.
   */
  async #requireAsRead(source: Pick<BlobReader, 'read' | 'close'>): Promise<void> {
    try {
      if (!(await this.#isAsRead(source))) throw wrongBytes(this.fill.digest);
    } catch (error) {
      await source.close();
      throw error;
    }
  }

  /** Whether readers here were given the beginning of what `source` has. */
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

  /** Reads along with the process that has the Lease. True when the blob is here, false when the Lease may be free. */
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
    const { blobs, metadata } = this.#world;
    const held = await metadata.readLease(this.#key);
    if (held?.isHeld !== true) return;
    if (this.#followed?.epoch !== held.epoch) {
      const follower = await blobs.follow(this.#key, held.epoch);
      if (follower === undefined) return;
      await this.#requireAsRead(follower);
      this.fill.begin(follower, this.fill.length);
      this.#followed = { follower, epoch: held.epoch };
    }
    const length = await this.#checkFollowed();
    // Asked behind the length: what was there before another process took over is in that one's copy; what a paused one adds
    // when it wakes is not.
    const isStillHeld = (await metadata.readLease(this.#key))?.epoch === held.epoch;
    if (isStillHeld) this.fill.grow(length);
  }

  /**
   * The length that the followed ingest has. Its writer empties what it found to be wrong: then the readers here have
   * wrong bytes too.
   */
  async #checkFollowed(): Promise<number> {
    const length = (await this.#followed?.follower.length()) ?? 0;
    if (this.#followed !== undefined && length < this.fill.length) throw wrongBytes(this.fill.digest);
    return length;
  }

  /** Its place is left when its file is missing or kept, not before: another Fill would have the same room again. */
  async #lead(lease: Lease): Promise<'done' | 'left'> {
    const place = await this.#world.quota.enter();
    try {
      return await this.#leadIn(place, lease);
    } finally {
      place.leave();
    }
  }

  async #leadIn(place: Place, lease: Lease): Promise<'done' | 'left'> {
    const { blobs } = this.#world;
    const { fill } = this;
    let ingest = await blobs.ingest(lease, { digest: fill.digest });
    const seen = fill.length;
    const isSame = await this.#isAsRead(ingest).catch(() => false);
    fill.begin(ingest, ingest.offset);
    let endpoint: number;
    let actual: Digest;
    try {
      if (ingest.offset < seen || !isSame) throw wrongBytes(fill.digest);
      let end = await this.#goOn(ingest, place, seen);
      if (end === undefined) {
        ingest = await this.#anew(ingest, lease);
        end = await this.#download(ingest, place);
      }
      endpoint = end;
      actual = await ingest.hash(fill.digest);
    } catch (error) {
      if (error instanceof LeaseLost) {
        this.#followed = undefined;
        await ingest.suspend();
        // Where there is too little to compare, the other process begins anew: what it brings is not for these readers.
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
      // A full disk gets its room back: the index and pushes need some, and readers go on straight from upstream.
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
    const isKept = await this.#commit(ingest, lease);
    this.#world.meter.count('fills_total', { outcome: isKept ? 'verified' : 'failed' });
    return 'done';
  }

  /**
   * Brings what is missing behind what came before and returns the endpoint that gave the end; `undefined` where upstream
   * shows that this was something else. `seen`: bytes that readers may have had before.
   */
  async #goOn(ingest: Ingest, place: Place, seen: number): Promise<number | undefined> {
    const { fill } = this;
    if (ingest.offset === 0) return this.#download(ingest, place);
    fill.grow(ingest.offset);
    try {
      // So few bytes would show nothing, and are soon here again.
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
   * An ingest without what was something else. Its file is another, and the old one stays empty: a process that reads along
   * learns from that what its readers have, however long it stood still.
   */
  async #anew(old: Ingest, lease: Lease): Promise<Ingest> {
    const { fill } = this;
    await old.truncate(0);
    await old.abort();
    const ingest = await this.#world.blobs.ingest(lease, { digest: fill.digest, anew: true });
    fill.begin(ingest, 0);
    return ingest;
  }

  async #download(ingest: Ingest, place: Place): Promise<number> {
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

  /** Room for the next piece; throws when there is none, or nobody wants it any more. */
  async #admit(chunk: Uint8Array, place: Place, reading: Reading): Promise<void> {
    const limitBytes = this.#limitBytes;
    place.take(chunk.byteLength, limitBytes);
    if (limitBytes !== undefined && !this.#isAdmitted) {
      // For all of it at once: what could never fit displaces nothing.
      await this.#world.blobs.admit(limitBytes - this.fill.length);
      this.#isAdmitted = true;
    }
    if (limitBytes === undefined && reading.unreadMs > UNNAMED_UNREAD_MS) throw new Unwanted();
  }

  /** What all who want the blob name as its size: upstream's answer has to agree, or nobody could read it. */
  get #agreedSize(): number | undefined {
    const [size] = this.#namedSizes;
    return this.#namedSizes.size === 1 ? size : undefined;
  }

  /** The blob's size as far as anybody names it: upstream, else who wants it. */
  get #limitBytes(): number | undefined {
    if (this.fill.size !== undefined) return this.fill.size;
    const named = [...this.#namedSizes].filter(size => size !== undefined);
    return named.length === 0 ? undefined : Math.max(...named);
  }

  #given(delivery: Delivery): boolean {
    const { contender, answer, from, shownBytes } = delivery;
    // Bytes that came for others are given to nobody for the beginning of an answer.
    const isProof = from === 0 || shownBytes > 0;
    if (contender.state === 'waiting' && !(isProof && admits(answer, contender.right))) return false;
    if (this.fill.size === undefined && answer.size !== undefined) this.fill.learnSize(answer.size);
    this.#proofs.noteGiven(delivery);
    contender.admit();
    return true;
  }

  /**
   * What is brought for the next one goes to the readers of this one too. That upstream began to answer it may have meant
   * nothing: then the next one's answer will not be the same as what came, if there is enough of it to tell.
   */
  #refused(contender: Contender, failure: UpstreamFailure): void {
    this.#contenders.refuse(contender, failure);
    if (this.#contenders.current !== undefined && this.#isDoubtful) throw nothingShown();
  }

  /** Whether somebody reads, or may, to whom upstream has given too little to tell whether it is the blob. */
  get #isDoubtful(): boolean {
    return this.fill.length < OVERLAP_BYTES && !this.#proofs.isEmpty && !this.#contenders.areSettled;
  }

  /** Finds out whom of those that wait upstream refuses, and the size. A stop does not wait for upstream. */
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

  /** What is here, to be compared with what upstream gives another. */
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

  /** A stop does not wait for upstream. */
  async #linkShown(): Promise<void> {
    const linking = this.#proofs.linkShown(this.#heldBytes(true));
    await unlessAborted(linking, this.#stopping.signal).catch(() => {});
  }

  /** False when the blob could not be kept; what another process goes on with, that one keeps. */
  async #commit(ingest: Ingest, lease: Lease): Promise<boolean> {
    const { blobs, metadata, links, keeping } = this.#world;
    const { digest, length } = this.fill;
    const isThere = () => blobs.peek(digest)?.size === length;
    try {
      const [first, ...others] = await this.#proofs.verified(length);
      for (const repository of others) links.add(repository, digest, length);
      // Before the row: whoever waits for that takes the repository for complete.
      await this.#linkShown();
      await ingest.commit(digest);
      await metadata.putBlob(digest, length, first, { lease, isThere });
      keeping.succeeded();
      return true;
    } catch (error) {
      await ingest.abort().catch(() => {});
      if (isStorageFull(error)) await removeStrays(blobs, metadata, [digest]).catch(() => {});
      if (error instanceof LeaseLost) return true;
      // The readers have what they came for: only the next ones will miss it.
      this.#log.error({ err: error }, 'a verified blob could not be stored');
      keeping.failed(error);
      return false;
    }
  }

  async #discard(ingest: Ingest, error: OciError): Promise<void> {
    this.#fail(error);
    // First emptied: a process that reads along learns from it that its readers have wrong bytes. Nobody does any more when the
    // Lease is another's by now.
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
    if (aborted) return;
    // What our own limit has no room for is no fault of the place.
    if (isStorageClosed(error) && !(error instanceof StorageFull)) this.#world.keeping.failed(error);
    const isRefused = error instanceof UpstreamFailure && isRefusal(error);
    this.#world.meter.count('fills_total', { outcome: isRefused ? 'refused' : 'failed' });
    if (isRefused) return this.#log.debug({ err: error }, 'upstream refused a blob');
    this.#log.warn({ err: error, length: this.fill.length }, 'a download failed');
  }
}

/** When a Fill was last read by anybody. */
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

/** Nobody waits for a blob that may never end. */
class Unwanted extends Error {
  constructor() {
    super('no client is waiting for the blob, and its size is unknown');
  }
}

/** What is heard where another process has taken over too little to be compared. */
function beganAnew(cause: LeaseLost): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'another process has taken over this download: try again',
    headers: { 'Retry-After': '1' },
    cause,
  });
}

/** What is heard where a download cannot go on: upstream has given too little to tell whether it is the blob. */
function nothingShown(): UpstreamFailure {
  return new UpstreamFailure(
    'unavailable',
    'upstream closed the connection before it proved that it has the blob',
  );
}

/** The name of a Fill as an ingest and a Lease: an upstream's name has characters that a key may not have. */
function fillKey(upstream: string, digest: Digest): string {
  const upstreamKey = createHash('sha256').update(upstream).digest('hex').slice(0, 16);
  return `fill-${upstreamKey}-${digestAlgorithm(digest)}-${digestHex(digest)}`;
}
