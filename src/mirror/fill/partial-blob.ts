import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobParts, ComingRange } from '../../blobs/spool.ts';
import { Changes } from '../../lib/changes.ts';
import { type Extent, Extents, type KnownExtents } from '../../lib/extents.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import type { Digest } from '../../oci/digest.ts';
import type { Links } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { DownloadState } from './download-state.ts';
import type { FillSpace } from './fill-quota.ts';
import { ANNOUNCE_EACH_MS, overlaps, type OtherParts } from './other-parts.ts';
import type { PullTurns } from './pull-queue.ts';
import { type RangeAsker, RangeRequest, type RangeRequestOptions, RangesUnusable } from './range-request.ts';

/** What came is saved after this time, or if it is this much. While it is being saved, no more than that may come. */
const SAVE_AFTER_MS = 1_000;
const SAVE_AFTER_BYTES = 8 * 1024 * 1024;
/** It is also saved if it is this many parts: until then others are told of each of them, before and after each request. */
const SAVE_AFTER_PARTS = 128;
/** How much a crash may lose, besides a chunk of each request: it is fetched again. */
export const MAX_UNSAVED_BYTES = 2 * SAVE_AFTER_BYTES;

export interface PartialBlobOptions {
  readonly asking: UpstreamRequests;
  readonly links: Links;
  readonly queue: PullTurns;
  readonly meter: Meter;
  readonly log: Log;
  readonly digest: Digest;
  /** The size of the whole blob. */
  readonly size: number;
  readonly parts: BlobParts;
  readonly space: FillSpace;
  readonly others: OtherParts;
  /** Called when upstream begins to answer with a range. */
  readonly ranged: () => void;
  /** Called when clients request one range more, or one less. */
  readonly requests: (change: 1 | -1) => void;
}

/** See `DownloadState`. */
type RangesProgress = Pick<DownloadState, 'state' | 'bytes' | 'size' | 'requesters' | 'startedAtMs'>;

/** How a range may be requested. */
type RequestChoices = Pick<RangeRequestOptions, 'queue' | 'etag' | 'isSpare' | 'isOvertaken'>;

/** How often it looks for what other processes have saved, and before each request. */
const LOOK_EACH_MS = 100;
/** The same while a reader waits for what another process brings. */
const POLL_MS = 20;
/** How often what came is saved at most: if another process may wait for it. */
const TICK_MS = 100;
/** How long a process that comes later has to give up a range; it may be suspended. */
const GIVE_UP_MS = 1_000;

/**
 * The ranges of one blob that clients of one source have asked for: those that are there, here or in what another process
 * has saved, and those that are being requested. Nothing of it is verified: only partial responses may have it, and a Fill,
 * which verifies the whole.
 */
export class PartialBlob {
  readonly digest: Digest;
  readonly size: number;
  /** Told when bytes come or requests end. */
  readonly changes = new Changes();
  readonly #options: PartialBlobOptions;
  readonly #requests = new Set<RangeRequest>();
  /** The requests that other processes know of. */
  readonly #announced = new Map<RangeRequest, 'claimed' | 'requested'>();
  /** What came since the last save, and what is being saved. */
  #unsaved = new Extents();
  #beingSaved = new Extents();
  /** All that is there. */
  #there: Extents;
  #known: Extents | undefined;
  #looking: Promise<void> | undefined;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #failure: Error | undefined;
  #isObsolete = false;
  #isWrong = false;
  #followers = 0;
  #isPolling = false;
  #isClosed = false;
  #unsavedSinceMs = 0;
  #saving: Promise<void> = Promise.resolve();
  #isSaving = false;
  #announcedAtMs = 0;
  /** When clients first requested ranges of it, and what those brought that have ended. */
  #requested: { readonly sinceMs: number; bytes: number } | undefined;
  #ticker: NodeJS.Timeout | undefined;

  constructor(options: PartialBlobOptions) {
    this.#options = options;
    this.digest = options.digest;
    this.size = options.size;
    this.#there = new Extents(options.parts.extents);
  }

  /** Why its bytes must not be used any more; `undefined` if they may. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  /** How many bytes are there. */
  get bytes(): number {
    return this.#there.bytes;
  }

  /** How many bytes of these are kept here: the others are in the parts of other processes. */
  get ownBytes(): number {
    return this.#options.parts.extents.bytes;
  }

  /** The ranges that are being requested. */
  get requests(): Iterable<RangeRequest> {
    return this.#requests;
  }

  /** How far the ranges are that clients request, with those that they have requested before; `undefined` if there are none. */
  get progress(): RangesProgress | undefined {
    const requests = [...this.#requests].filter(({ isSpare }) => !isSpare);
    if (requests.length === 0 || this.#requested === undefined) return undefined;
    const { sinceMs, bytes } = this.#requested;
    const received = requests.reduce((sum, { receivedBytes }) => sum + receivedBytes, bytes);
    const asked = requests.reduce((sum, { extent: { start, end } }) => sum + end - start, bytes);
    return {
      state: requests.every(({ isQueued }) => isQueued) ? 'queued' : 'downloading',
      bytes: received,
      size: asked,
      requesters: [...new Set(requests.map(({ requester }) => requester))],
      startedAtMs: sinceMs,
    };
  }

  /** What is there at `position` or after it; see `KnownExtents.next`. */
  next(position: number): Extent | undefined {
    return this.#there.next(position);
  }

  /**
   * What is there or being requested, here or by another process. There may be tens of thousands of parts, so it is kept
   * until it becomes less.
   */
  get known(): KnownExtents {
    const requested = [...this.#requests].map(({ extent }) => extent);
    this.#known ??= new Extents(this.#there).addAll(requested).addAll(this.#options.others.coming);
    return this.#known;
  }

  /** As `known`, but without what takes longer to come than if it was requested now. */
  get knownSoon(): KnownExtents {
    const requests = [...this.#requests];
    if (!requests.some(({ isSpare }) => isSpare)) return this.known;
    const requested = requests.map(({ extent: { start }, reach: end }) => ({ start, end }));
    return new Extents(this.#there).addAll(requested).addAll(this.#options.others.coming);
  }

  /** What other processes bring. */
  get elsewhere(): readonly Extent[] {
    return this.#options.others.coming;
  }

  /** The parts of `extent` that are not there. */
  missing(extent: Extent): readonly Extent[] {
    return this.#there.missing(extent);
  }

  /** Whether another process brings the byte at `position`. */
  isComing(position: number): boolean {
    return this.elsewhere.some(({ start, end }) => start <= position && position < end);
  }

  /** Follows what other processes bring, until the returned function is called. */
  follow(): () => void {
    this.#followers += 1;
    // A poll for somebody who followed a moment ago may still be running.
    if (!this.#isPolling) void this.#poll();
    let isFollowing = true;
    return () => {
      if (isFollowing) this.#followers -= 1;
      isFollowing = false;
    };
  }

  /** Reads what is there, as in `BlobParts`. What another process has removed is not there afterwards. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      const count = await this.#readNow(buffer, position);
      if (count > 0 || buffer.byteLength === 0 || !this.#has(position)) return count;
      await this.#lookNow();
      const again = await this.#readNow(buffer, position);
      if (again === 0 && this.#has(position)) throw new Error(`byte ${position} should be there`);
      return again;
    } catch (cause) {
      this.#options.log.warn({ err: cause, digest: this.digest }, 'parts of a blob cannot be read');
      this.#drop(new RangesUnusable('what is there of the blob cannot be read', { cause }));
      throw this.#failure;
    }
  }

  /** Looks for what other processes have saved, unless it did a moment ago. */
  async look(): Promise<void> {
    if (this.#isClosed || performance.now() - this.#lookedAtMs < LOOK_EACH_MS) return;
    await (this.#looking ?? this.#lookOnce());
  }

  /** Keeps bytes of another response with a range, as far as they are not `known`. */
  async keep(position: number, bytes: Uint8Array): Promise<void> {
    this.#options.ranged();
    for (const extent of this.known.missing({ start: position, end: position + bytes.byteLength })) {
      await this.#write(extent.start, bytes.subarray(extent.start - position, extent.end - position));
      this.#known?.add(extent);
    }
  }

  /** Resolves when other processes have saved what they have, and this one knows of it. */
  async othersSaved(): Promise<void> {
    await this.#lookNow();
    const unfollow = this.follow();
    const isUnsaved = (): boolean => this.#options.others.coming.some(({ state }) => state === 'received');
    try {
      await this.changes.until(() => this.isOver || !isUnsaved() || undefined);
    } finally {
      unfollow();
    }
  }

  /**
   * Requests a range of which nothing is `known`, or for a reader, `knownSoon`; in a `queue` of its own if the connection
   * for it is there.
   */
  request(
    extent: Extent,
    asker: RangeAsker,
    { queue = this.#options.queue, ...choices }: Partial<RequestChoices> = {},
  ): RangeRequest {
    const { asking, links, meter, log, digest, size, ranged } = this.#options;
    const write = (position: number, chunk: Uint8Array): Promise<void> => this.#write(position, chunk);
    const request: RangeRequest = new RangeRequest({
      // A process that wants some of a stripe would not wait for it.
      claim: async () => choices.isSpare === true || (await this.#claim(request)),
      ranged,
      asking,
      links,
      queue,
      ...choices,
      meter,
      log,
      digest,
      size,
      extent,
      asker,
      write,
    });
    this.#requests.add(request);
    if (!request.isSpare) this.#count(1);
    this.#known?.add(extent);
    void this.#forgetAfter(request);
    return request;
  }

  /** Its bytes are wrong: ends all requests and all reading with `failure`, and keeps nothing. */
  fail(failure: Error): void {
    this.#isWrong = true;
    this.#drop(failure);
  }

  #drop(failure: Error): void {
    this.obsolete();
    this.stop(failure);
  }

  /** Ends all requests and all reading with `reason`. What is there is kept for later. */
  stop(reason: Error): void {
    this.#failure ??= reason;
    for (const request of this.#requests) request.stop(reason);
    this.changes.tell();
  }

  /** The whole blob is stored, or its bytes are wrong: nothing is kept at the end. */
  obsolete(): void {
    this.#isObsolete = true;
  }

  get isObsolete(): boolean {
    return this.#isObsolete;
  }

  /** Whether its bytes were found to be wrong. */
  get isWrong(): boolean {
    return this.#isWrong;
  }

  /** Whether it is of no use to anybody who does not read it already. */
  get isOver(): boolean {
    return this.#isObsolete || this.#failure !== undefined;
  }

  /** Ends it when nobody uses it any more. True if something is kept for later. */
  async close(): Promise<boolean> {
    const { parts, space, others } = this.#options;
    this.#followers = 0;
    try {
      await Promise.all([...this.#requests].map(({ done }) => done));
      clearTimeout(this.#ticker);
      await (this.#isObsolete ? parts.abort() : parts.suspend());
      return !this.#isObsolete && parts.extents.count > 0;
    } finally {
      space.leave();
      await parts.close();
      this.#isClosed = true;
      await this.#looking?.catch(() => {});
      await others.close();
    }
  }

  /**
   * Makes sure that no other process requests the same: first it announces the request, then it looks at what others have
   * announced, so that of two at least one sees the other. False if others have, or bring, some of it. A process
   * that believes it is alone skips the claim; if two believe so, both give up, and know better the next time.
   */
  async #claim(request: RangeRequest): Promise<boolean> {
    const { extent } = request;
    const deadline = performance.now() + GIVE_UP_MS;
    const isAlone = !this.#options.others.isShared;
    await this.#announce(() => this.#announced.set(request, isAlone ? 'requested' : 'claimed'));
    for (;;) {
      await this.#lookNow();
      const rivals = this.#options.others.coming.filter(coming => overlaps(coming, extent));
      const isTaken = rivals.some(({ state, isFirst }) => state !== 'claimed' || isFirst);
      if (isTaken || (this.#there.next(extent.start)?.start ?? extent.end) < extent.end) {
        await this.#announce(() => this.#announced.delete(request));
        return false;
      }
      if (rivals.length === 0 || performance.now() > deadline) break;
      await sleep(POLL_MS);
    }
    if (!isAlone) await this.#announce(() => this.#announced.set(request, 'requested'));
    this.#tickLater();
    return true;
  }

  /** Tells other processes what is coming, after `change`. */
  async #announce(change: () => void = () => {}): Promise<void> {
    change();
    this.#announcedAtMs = performance.now();
    const coming: ComingRange[] = [...this.#announced].map(([{ extent }, state]) => ({ ...extent, state }));
    const requested = new Extents(coming);
    for (const extent of new Extents([...this.#unsaved, ...this.#beingSaved]))
      for (const received of requested.missing(extent)) coming.push({ ...received, state: 'received' });
    await this.#options.parts.announce(coming);
  }

  async #readNow(buffer: Uint8Array, position: number): Promise<number> {
    const count = await this.#options.parts.read(buffer, position);
    return count > 0 ? count : this.#options.others.read(buffer, position);
  }

  #has(position: number): boolean {
    const part = this.#there.next(position);
    return part !== undefined && part.start <= position;
  }

  async #poll(): Promise<void> {
    this.#isPolling = true;
    while (this.#followers > 0 && !this.isOver) {
      await sleep(POLL_MS);
      if (this.#followers > 0) await this.#lookNow().catch((error: unknown) => this.#note(error));
    }
    this.#isPolling = false;
  }

  /** Looks at what other processes have now. */
  async #lookNow(): Promise<void> {
    while (this.#looking !== undefined) await this.#looking.catch(() => {});
    if (!this.#isClosed) await this.#lookOnce();
  }

  #lookOnce(): Promise<void> {
    // Never ends before it is assigned: `finally` calls back later.
    this.#looking = this.#lookAgain().finally(() => {
      this.#looking = undefined;
      this.#lookedAtMs = performance.now();
    });
    return this.#looking;
  }

  async #lookAgain(): Promise<void> {
    const { parts, others } = this.#options;
    if (!(await others.look())) return;
    this.#there = new Extents(parts.extents);
    for (const extents of others.extents) this.#there.addAll(extents);
    this.#known = undefined;
    this.changes.tell();
  }

  /** Clients request one range more, or one less, which brought so many bytes. */
  #count(change: 1 | -1, bytes = 0): void {
    this.#requested ??= { sinceMs: this.#options.asking.clock.nowMs(), bytes: 0 };
    this.#requested.bytes += bytes;
    this.#options.requests(change);
  }

  async #forgetAfter(request: RangeRequest): Promise<void> {
    await request.done;
    this.#requests.delete(request);
    if (!request.isSpare) this.#count(-1, request.receivedBytes);
    if (request.failure !== undefined || request.isLeft) this.#known = undefined;
    if (this.#announced.delete(request)) {
      const isAwaited = this.#options.others.isShared;
      await (isAwaited ? this.#save() : this.#announce().catch((error: unknown) => this.#note(error)));
    }
    this.changes.tell();
  }

  async #write(position: number, chunk: Uint8Array): Promise<void> {
    const { parts, space } = this.#options;
    if (this.#failure !== undefined) throw this.#failure;
    await space.take(chunk.byteLength, parts.extents.bytes + chunk.byteLength);
    await parts.write(position, chunk);
    const extent = { start: position, end: position + chunk.byteLength };
    this.#there.add(extent);
    if (this.#unsaved.count === 0) this.#unsavedSinceMs = performance.now();
    this.#unsaved.add(extent);
    this.#tickLater();
    this.changes.tell();
    if (this.#unsaved.bytes < SAVE_AFTER_BYTES && this.#unsaved.count < SAVE_AFTER_PARTS) return;
    if (this.#isSaving) await this.#saving;
    else void this.#save();
  }

  #tickLater(): void {
    this.#ticker ??= setTimeout(() => void this.#tick(), TICK_MS);
  }

  /** Saves what came, and tells others that this process is alive. */
  async #tick(): Promise<void> {
    const nowMs = performance.now();
    if (this.#unsaved.count > 0) {
      await this.#lookNow().catch((error: unknown) => this.#note(error));
      const afterMs = this.#options.others.isShared ? 0 : SAVE_AFTER_MS;
      if (nowMs - this.#unsavedSinceMs >= afterMs) await this.#save();
    }
    if (nowMs - this.#announcedAtMs >= ANNOUNCE_EACH_MS)
      await this.#announce().catch((error: unknown) => this.#note(error));
    this.#ticker = undefined;
    if (this.#isClosed) return;
    if (this.#unsaved.count > 0 || this.#announced.size > 0) this.#tickLater();
  }

  /** Never rejects: the disk's troubles show when bytes are written, and in the end in `close`. */
  async #save(): Promise<void> {
    this.#saving = this.#saving.then(() => this.#saveNow());
    await this.#saving;
  }

  async #saveNow(): Promise<void> {
    this.#isSaving = true;
    try {
      for (const extent of this.#unsaved) this.#beingSaved.add(extent);
      this.#unsaved = new Extents();
      await this.#options.parts.save();
      this.#beingSaved = new Extents();
      await this.#announce();
    } catch (error) {
      this.#note(error);
    } finally {
      this.#isSaving = false;
    }
  }

  #note(error: unknown): void {
    this.#options.log.debug({ err: error }, 'parts of a blob were not saved, or not looked for');
  }
}
