import { setTimeout as sleep } from 'node:timers/promises';
import type { Spool } from '../../blobs/spool.ts';
import { isStorageClosed } from '../../blobs/storage-full.ts';
import type { Clock, Timer } from '../../lib/clock.ts';
import { type Extent, Extents } from '../../lib/extents.ts';
import type { Lease } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import { Lru } from '../../lib/lru.ts';
import type { Meter } from '../../lib/meter.ts';
import { SingleFlight } from '../../lib/single-flight.ts';
import { withLease } from '../../lib/with-lease.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import { credentialId } from '../../oci/credential.ts';
import type { Digest } from '../../oci/digest.ts';
import { type Repository, repositoryText } from '../../oci/repository.ts';
import type { Links } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { DownloadState } from './download-state.ts';
import { partsKey } from './fill-key.ts';
import type { FillQuota } from './fill-quota.ts';
import { type OtherHolder, OtherParts } from './other-parts.ts';
import { PartialBlob } from './partial-blob.ts';
import type { PullTurns } from './pull-queue.ts';
import type { RangeAsker } from './range-request.ts';

/** How long one is kept open without a user: lazy clients ask again within seconds. */
const IDLE_MS = 10_000;
/** How many are kept open so: each has a file open, and one for each other process. */
const MAX_IDLE = 64;
/**
 * How many processes may keep parts of the same blob from the same source. Each writes into its own, and reads those of the
 * others.
 */
const SLOTS = [0, 1, 2, 3] as const;
/** How long the size of a blob is remembered whose parts are not open: finding it takes a whole map of parts, read and checked. */
const SIZES = { maxEntries: 1_000, maxAgeMs: 1_000 };
/** How long what other processes have of a blob is not read after its bytes were found to be wrong. */
const DISTRUSTED = { maxEntries: 1_000, maxAgeMs: 10 * 60_000 };
/** How long no ranges are requested of a blob, or from an upstream, after they were ignored. */
const IGNORES_RANGES = { maxEntries: 1_000, maxAgeMs: 10 * 60_000 };
/** An upstream does not support ranges if it ignores them for so many blobs in a row. One may be stored differently. */
const IGNORED_BLOBS = 2;
/** How often a stopping process checks whether readers have finished. */
const STOP_POLL_MS = 20;

export interface PartialsOptions {
  readonly asking: UpstreamRequests;
  readonly links: Links;
  readonly spool: Spool;
  readonly metadata: MetadataStore;
  readonly queue: PullTurns;
  readonly quota: FillQuota;
  /** The id of this replica, if there are several. */
  readonly replica?: string | undefined;
  readonly meter: Meter;
  readonly log: Log;
}

/** A PartialBlob that is open as long as somebody uses it. */
export interface PartialUse {
  readonly blob: PartialBlob;
  /** Call it when it is not used any more; may be called twice. */
  leave(): void;
}

/**
 * The PartialBlobs of this process. What a client may see of one is what upstream sent for the same repository to
 * whoever may read all of it, or to the same credentials: so each of these sources has one of its own.
 */
export class Partials {
  readonly #options: PartialsOptions;
  readonly #opened = new Map<string, Promise<Opened | undefined>>();
  /** Those that are open already. */
  readonly #live = new Map<string, Opened>();
  /** Those without users, longest first. */
  readonly #idle = new Set<Opened>();
  /** By upstream: the blobs of which it last ignored ranges. */
  readonly #ignored = new Lru<Set<Digest>>(IGNORES_RANGES);
  readonly #distrusted = new Lru<object>(DISTRUSTED);
  readonly #sizes = new Lru<SavedSize>(SIZES);
  readonly #sizing = new SingleFlight<SavedSize | undefined>();
  #isClosing = false;
  /** How many ranges clients request. */
  #requests = 0;

  constructor(options: PartialsOptions) {
    this.#options = options;
  }

  /**
   * The PartialBlob for requesters like `asker`, whose right is proved, or who will be asked about upstream; made if there
   * is none. `undefined` if there can be none for a blob of this size, or if upstream is known to ignore ranges. Rejects with
   * the disk's error, as in `isStorageClosed`, if there is no room.
   */
  async open(asker: RangeAsker, digest: Digest, size: number): Promise<PartialUse | undefined> {
    const { upstream } = asker.repository;
    if (this.ignoresRanges(upstream, digest)) return undefined;
    const source = this.#sourceOf(asker);
    const repository = repositoryText(asker.repository);
    const key = partsKey(source, digest);
    for (;;) {
      if (this.#isClosing) return undefined;
      const opened = await (this.#opened.get(key) ??
        this.#begin(key, { source, repository, upstream, digest, size }));
      if (opened === undefined) return undefined;
      if (opened.closed === undefined) {
        const { blob } = opened;
        if (blob.size !== size || blob.isOver) return undefined;
        const use = opened.use();
        await blob.look().catch((error: unknown) => {
          use.leave();
          throw error;
        });
        return use;
      }
      await opened.closed;
    }
  }

  /** As `open`, but `undefined` if the disk has no room: for a Fill, which does not need it. */
  async openIfRoom(asker: RangeAsker, digest: Digest, size: number): Promise<PartialUse | undefined> {
    return unlessFull(this.open(asker, digest, size));
  }

  /** Whether what is not there of these extents can be kept, as far as is known. */
  async hasRoomFor(blob: PartialBlob, extents: readonly Extent[]): Promise<boolean> {
    const missing = new Extents(extents.flatMap(extent => blob.missing(extent)));
    return this.#options.quota.canTake(missing.bytes, blob.ownBytes + missing.bytes);
  }

  /** The key of the PartialBlob for requesters like this one. */
  keyOf(asker: RangeAsker, digest: Digest): string {
    return partsKey(this.#sourceOf(asker), digest);
  }

  /** As `openIfRoom`, but only if something is there or being requested, and with the size that this has. */
  async find(asker: RangeAsker, digest: Digest): Promise<PartialUse | undefined> {
    const size = (await this.#current(asker, digest))?.size ?? (await this.sizeOf(asker, digest));
    return size === undefined ? undefined : this.openIfRoom(asker, digest, size);
  }

  /**
   * The size of the blob that upstream has told requesters like `asker` with bytes that are there, in whichever process;
   * `undefined` if there are none.
   */
  async sizeOf(asker: RangeAsker, digest: Digest): Promise<number | undefined> {
    const blob = await this.#current(asker, digest);
    if (blob !== undefined && blob.bytes > 0) return blob.size;
    const key = this.keyOf(asker, digest);
    if (this.#distrusted.get(key) !== undefined) return undefined;
    const remembered = this.#sizes.get(key);
    if (remembered !== undefined) return remembered.size;
    const found = await this.#sizing.run(key, () => this.#savedSize(this.#sourceOf(asker), digest)).promise;
    if (found !== undefined) this.#sizes.set(key, found);
    return found?.size;
  }

  /** As `openIfRoom`, if other processes keep some of the blob, or have left some. */
  async openIfElsewhere(asker: RangeAsker, digest: Digest, size: number): Promise<PartialUse | undefined> {
    // A replica is one process, and keeps ranges of its own.
    if (this.#options.replica !== undefined) return undefined;
    const leases = await this.#leasesOf(this.#sourceOf(asker), digest);
    return leases.some(({ lease }) => lease !== undefined) ? this.openIfRoom(asker, digest, size) : undefined;
  }

  /** As `find`, but by its key, and only if it is open now. */
  peek(key: string): PartialUse | undefined {
    const live = this.#live.get(key);
    return live === undefined || live.closed !== undefined || live.blob.isOver ? undefined : live.use();
  }

  /** Ranges that are being requested: one for all of a blob from the same source. */
  get downloads(): readonly DownloadState[] {
    return [...this.#live.values()].flatMap(({ blob, repository, users: readers }) => {
      const { progress, digest } = blob;
      return progress === undefined
        ? []
        : { kind: 'ranges', repository, digest, readers, aheadBytes: 0, holder: undefined, ...progress };
    });
  }

  /** What is known of the one with this Lease, if it is open. */
  openedAs(leaseKey: string) {
    const opened = [...this.#live.values()].find(each => each.leaseKey === leaseKey);
    if (opened === undefined) return undefined;
    const { repository, blob, users: readers } = opened;
    return { repository, bytes: blob.ownBytes, size: blob.size, readers };
  }

  /** Whether `key` is of ranges from this repository, which are for everybody who may read it. */
  isOf(key: string, repository: Repository, digest: Digest): boolean {
    const source = this.#sourceFor(repository);
    return SLOTS.some(slot => partsKey(source, digest, slot) === key);
  }

  /** Whether upstream is known to ignore ranges of the blob, or of all. */
  ignoresRanges(upstream: string, digest: Digest): boolean {
    const ignored = this.#ignored.get(upstream);
    return ignored !== undefined && (ignored.size >= IGNORED_BLOBS || ignored.has(digest));
  }

  /** Upstream was asked for a range of the blob and began to send all of it. */
  noteIgnored(upstream: string, digest: Digest): void {
    this.#ignored.set(upstream, new Set([...(this.#ignored.get(upstream) ?? []), digest]));
  }

  /** Stops all that have no readers at once, others after `deadlineMs`. What was fetched is kept for the next process. */
  async close(deadlineMs: number, reason: Error): Promise<void> {
    this.#isClosing = true;
    const deadline = performance.now() + deadlineMs;
    while (this.#opened.size > 0) {
      const isLate = performance.now() >= deadline;
      for (const opening of this.#opened.values()) {
        void opening.then(opened => opened?.end(isLate ? reason : undefined)).catch(() => {});
      }
      await sleep(STOP_POLL_MS);
    }
  }

  #gauge(change: 1 | -1): void {
    this.#requests += change;
    this.#options.meter.gauge('ranges_running', this.#requests);
  }

  /** Where the bytes for requesters like this one come from, and for whom; each replica keeps ranges of its own. */
  #sourceOf({ repository, right, settled }: RangeAsker): string {
    const isForAll = right.proved || settled;
    return this.#sourceFor(repository, isForAll ? [] : right.credentials.map(credentialId));
  }

  #sourceFor(repository: Repository, credentialIds: readonly string[] = []): string {
    const { replica } = this.#options;
    const source = [repositoryText(repository), ...credentialIds];
    if (replica !== undefined) source.push(`in ${replica}`);
    return source.join(' ');
  }

  /** The size that parts in any of the slots tell. */
  async #savedSize(source: string, digest: Digest): Promise<SavedSize | undefined> {
    const { spool } = this.#options;
    for (const { key, lease } of await this.#leasesOf(source, digest)) {
      const saved = lease && (await spool.savedParts(key, lease.epoch));
      await saved?.close();
      const isReceived = lease?.isHeld === true && saved?.coming.some(({ state }) => state === 'received');
      if (saved !== undefined && (saved.extents.count > 0 || isReceived)) return { size: saved.size };
    }
    return undefined;
  }

  /** Of all slots, read at once: each query may be a round trip. */
  #leasesOf(source: string, digest: Digest) {
    const keys = SLOTS.map(slot => partsKey(source, digest, slot));
    return Promise.all(keys.map(async key => ({ key, lease: await this.#options.metadata.readLease(key) })));
  }

  /** The one that is open, or about to be; after the end of one that is being closed, none. */
  async #current(asker: RangeAsker, digest: Digest): Promise<PartialBlob | undefined> {
    const opened = await unlessFull(this.#opened.get(this.keyOf(asker, digest)));
    await opened?.closed;
    return opened === undefined || opened.closed !== undefined || opened.blob.isOver
      ? undefined
      : opened.blob;
  }

  #begin(key: string, kept: Kept): Promise<Opened | undefined> {
    const opening = this.#open(key, kept).then(
      opened => {
        if (opened === undefined) this.#opened.delete(key);
        else this.#live.set(key, opened);
        return opened;
      },
      (error: unknown) => {
        this.#opened.delete(key);
        throw error;
      },
    );
    this.#opened.set(key, opening);
    return opening;
  }

  async #open(key: string, kept: Kept): Promise<Opened | undefined> {
    const { asking, links, spool, metadata, queue, quota, meter, log } = this.#options;
    const { digest, size } = kept;
    let lease: Lease | undefined;
    try {
      lease = await this.#acquire(kept);
      if (lease === undefined) return undefined;
      const held = lease;
      const space = await quota.enter();
      const parts = await spool.parts(held, size);
      const others = new OtherParts({
        ownKey: held.key,
        size,
        findHolders: () => this.#otherHolders(kept, held),
        open: other => spool.savedParts(other.key, other.epoch),
        endIfDead: other => this.#endIfDead(other, size),
      });
      const blob = new PartialBlob({
        asking,
        links,
        queue,
        meter,
        log,
        digest,
        size,
        parts,
        space,
        others,
        ranged: () => void this.#ignored.delete(kept.upstream),
        requests: change => this.#gauge(change),
      });
      return new Opened({
        blob,
        repository: kept.repository,
        leaseKey: held.key,
        isStored: async () => (await metadata.statBlob(digest)) !== undefined,
        letGo: isKept => this.#letGo(key, kept, { lease: held, isKept, blob }),
        idle: this.#idle,
        clock: asking.clock,
        log,
      });
    } catch (error) {
      if (lease !== undefined) await metadata.release(lease);
      if (isStorageClosed(error) || lease === undefined) throw error;
      // A Fill can cope; what was left in the slot is collected.
      log.warn({ err: error, digest }, 'parts of a blob cannot be kept');
      return undefined;
    }
  }

  /** A Lease for parts of this blob, with what was left in its slot. */
  async #acquire({ source, digest }: Kept): Promise<Lease | undefined> {
    for (const slot of SLOTS) {
      const lease = await this.#options.metadata.acquireLease(partsKey(source, digest, slot));
      if (lease !== undefined) return lease;
    }
    return undefined;
  }

  /** The other slots: of other processes, or left by those that have ended. */
  async #otherHolders({ source, digest }: Kept, own: Lease): Promise<readonly OtherHolder[]> {
    if (this.#distrusted.get(partsKey(source, digest)) !== undefined) return [];
    const keys = SLOTS.map(slot => partsKey(source, digest, slot)).filter(key => key !== own.key);
    const states = keys.map(async key => ({ key, state: await this.#options.metadata.readLease(key) }));
    return (await Promise.all(states)).flatMap(({ key, state }) =>
      state === undefined ? [] : { key, ...state },
    );
  }

  /** Takes the Lease of a process that is found to be dead, and leaves what it has saved under another. */
  async #endIfDead({ key }: OtherHolder, size: number): Promise<void> {
    const { metadata, spool } = this.#options;
    const lease = await metadata.acquireLease(key);
    if (lease === undefined) return;
    let isKept = false;
    try {
      const parts = await spool.parts(lease, size);
      try {
        await parts.suspend();
        isKept = parts.extents.count > 0;
      } finally {
        await parts.close();
      }
    } finally {
      await (isKept ? metadata.setAside(lease) : metadata.release(lease));
    }
  }

  async #letGo(
    key: string,
    kept: Kept,
    { lease, isKept, blob }: { lease: Lease; isKept: boolean; blob: PartialBlob },
  ): Promise<void> {
    const { metadata } = this.#options;
    try {
      await (isKept ? metadata.setAside(lease) : metadata.release(lease));
      if (blob.isWrong) this.#distrusted.set(partsKey(kept.source, kept.digest), {});
      if (blob.isObsolete) await this.#removeLeft(kept);
    } finally {
      this.#opened.delete(key);
      this.#live.delete(key);
    }
  }

  /** Removes what processes that have ended left of a blob that is stored by now, or whose bytes were wrong. */
  async #removeLeft({ source, digest, size }: Kept): Promise<void> {
    const { metadata, spool } = this.#options;
    for (const slot of SLOTS) {
      const key = partsKey(source, digest, slot);
      if ((await metadata.readLease(key))?.isHeld !== false) continue;
      await withLease(metadata, key, async lease => {
        const parts = await spool.parts(lease, size);
        try {
          await parts.abort();
        } finally {
          await parts.close();
        }
      });
    }
  }
}

/** Resolves with what was opened, or `undefined` if the disk has no room. */
async function unlessFull<T>(opening: Promise<T | undefined> | undefined): Promise<T | undefined> {
  try {
    return await opening;
  } catch (error) {
    if (isStorageClosed(error)) return undefined;
    throw error;
  }
}

/** The size of a whole blob, as parts of it tell. */
interface SavedSize {
  readonly size: number;
}

/** What the parts are of. */
interface Kept {
  readonly source: string;
  /** `repositoryText` */
  readonly repository: string;
  readonly upstream: string;
  readonly digest: Digest;
  /** The size of the whole blob. */
  readonly size: number;
}

interface OpenedOptions {
  readonly blob: PartialBlob;
  readonly repository: string;
  readonly leaseKey: string;
  /** Whether the whole blob is stored, by whichever process. */
  readonly isStored: () => Promise<boolean>;
  /** All that have no users, longest first. */
  readonly idle: Set<Opened>;
  /** Called when it is closed. */
  readonly letGo: (isKept: boolean) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
}

/** An open PartialBlob with its users. It closes some time after the last has left. */
class Opened {
  readonly blob: PartialBlob;
  /** `repositoryText` of where it comes from. */
  readonly repository: string;
  readonly leaseKey: string;
  readonly #options: OpenedOptions;
  #users = 0;
  #closing: Timer | undefined;
  #closed: Promise<void> | undefined;

  constructor(options: OpenedOptions) {
    this.#options = options;
    this.blob = options.blob;
    this.repository = options.repository;
    this.leaseKey = options.leaseKey;
  }

  get users(): number {
    return this.#users;
  }

  /** Resolves when it is closed; `undefined` as long as it may be used. */
  get closed(): Promise<void> | undefined {
    return this.#closed;
  }

  use(): PartialUse {
    this.#wake();
    this.#users += 1;
    let isUsed = true;
    const leave = (): void => {
      if (!isUsed) return;
      isUsed = false;
      this.#users -= 1;
      if (this.#users > 0) return;
      if (this.blob.isOver) this.#close();
      else this.#rest();
    };
    return { blob: this.blob, leave };
  }

  /** Closes it if it has no users, or if there is a `reason` for them to stop. */
  end(reason: Error | undefined): void {
    if (this.#users > 0 && reason === undefined) return;
    if (reason !== undefined) this.blob.stop(reason);
    this.#close();
  }

  #rest(): void {
    const { idle, clock } = this.#options;
    this.#closing = clock.after(IDLE_MS, () => this.#close());
    idle.add(this);
    const [longest] = idle;
    if (idle.size > MAX_IDLE) longest?.end(undefined);
  }

  #wake(): void {
    this.#closing?.cancel();
    this.#options.idle.delete(this);
  }

  #close(): void {
    this.#wake();
    this.#closed ??= this.#closeNow();
  }

  async #closeNow(): Promise<void> {
    const { isStored, letGo, log } = this.#options;
    const { digest } = this.blob;
    let isKept = false;
    try {
      if (await isStored()) this.blob.obsolete();
      isKept = await this.blob.close();
    } catch (error) {
      log.info({ err: error, digest }, 'parts of a blob were not kept');
    }
    await letGo(isKept).catch((error: unknown) => {
      log.info({ err: error, digest }, 'a lease could not be given back');
    });
  }
}
