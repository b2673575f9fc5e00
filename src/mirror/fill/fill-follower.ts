import { setTimeout as sleep } from 'node:timers/promises';
import type { BlobStore } from '../../blobs/blob-store.ts';
import type { IngestFollower, Spool } from '../../blobs/spool.ts';
import type { Log } from '../../lib/log.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import type { FillSharing } from './fill-sharing.ts';
import { type Fill, type FillSource, wrongBytes } from './fill.ts';

/** How often the length of another process's ingest is polled. */
const FOLLOW_POLL_MS = 20;
/** Polls between two attempts to acquire the Lease, each of which is a write. */
const POLLS_PER_ATTEMPT = 25;

export interface FillFollowerOptions {
  /** The key of the Lease and its ingests. */
  readonly key: string;
  readonly fill: Fill;
  readonly sharing: FillSharing;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly log: Log;
  /** Aborts when the Fill is stopped. */
  readonly signal: AbortSignal;
}

/**
 * Lets a Fill have what another process downloads: the ingest while that process writes it, and the blob once it is
 * stored. Readers here may have received bytes that were found to be wrong while this process was suspended; then every
 * method rejects, so that they never get the rest of other bytes.
 */
export class FillFollower {
  readonly #options: FillFollowerOptions;
  /** The question to upstream by HEAD while another process downloads the blob. */
  #asked: Promise<void> | undefined;
  #followed: { readonly follower: IngestFollower; readonly epoch: number } | undefined;
  #holder: string | undefined;

  constructor(options: FillFollowerOptions) {
    this.#options = options;
  }

  /** The process that is followed, as in `LeaseState`; `undefined` if there is none. */
  get holder(): string | undefined {
    return this.#holder;
  }

  /**
   * Follows the process that has the Lease for a while. True if the blob is stored, false if it is time to try to
   * acquire the Lease.
   */
  async follow(): Promise<boolean> {
    const { fill, sharing, signal } = this.#options;
    await this.#lookUpHolder();
    await (this.#asked ??= sharing.ask());
    for (let poll = 0; poll < POLLS_PER_ATTEMPT; poll++) {
      await sleep(FOLLOW_POLL_MS, undefined, { signal });
      if (await this.takeStored()) return true;
      await this.#readAlong();
      if (sharing.isShowable && fill.size !== undefined) await sharing.show({ isVerified: false });
    }
    return false;
  }

  /** Uses the stored blob if another process has stored it meanwhile. False if not. */
  async takeStored(): Promise<boolean> {
    const { fill, sharing, blobs, metadata } = this.#options;
    const row = await metadata.statBlob(fill.digest);
    if (row === undefined) return false;
    await this.#lengthOfFollowed();
    const reader = await blobs.open(fill.digest);
    if (reader?.size !== row.size) {
      // The file of the row is lost: this Fill replaces it.
      await reader?.close();
      return false;
    }
    await this.#requireAsRead(reader);
    fill.begin(reader, reader.size);
    fill.learnSize(reader.size);
    await sharing.show({ isVerified: true });
    fill.verify();
    await sharing.linkShown();
    return true;
  }

  /** Call when this process has the Lease. */
  end(): void {
    this.#holder = undefined;
  }

  /** Call when the Fill has had an ingest of its own, and its readers nothing more from the followed one. */
  forget(): void {
    this.#followed = undefined;
  }

  async #lookUpHolder(): Promise<void> {
    const { key, log, metadata } = this.#options;
    const holder = (await metadata.readLease(key))?.holder;
    if (holder !== undefined && holder !== this.#holder)
      log.info({ holder }, 'following the download of another process');
    this.#holder = holder;
  }

  async #readAlong(): Promise<void> {
    const { key, fill, spool, metadata } = this.#options;
    const held = await metadata.readLease(key);
    if (held?.isHeld !== true) return;
    const isNew = this.#followed?.epoch !== held.epoch;
    if (isNew) {
      const follower = await spool.follow(key, held.epoch);
      if (follower === undefined) return;
      await this.#requireAsRead(follower);
      fill.begin(follower, fill.length);
      this.#followed = { follower, epoch: held.epoch };
    }
    const length = await this.#lengthOfFollowed();
    // Checked after reading the length: bytes from before a takeover are in the new process's copy, bytes that a
    // suspended process adds after waking up are not.
    const isStillHeld = (await metadata.readLease(key))?.epoch === held.epoch;
    if (!isStillHeld) return;
    if (isNew) fill.noteCopied(length - fill.length);
    fill.grow(length);
  }

  /**
   * The length of the followed ingest; 0 if there is none. Its writer truncates it if the bytes are wrong, and then
   * readers here have wrong bytes, too: throws.
   */
  async #lengthOfFollowed(): Promise<number> {
    const { fill } = this.#options;
    if (this.#followed === undefined) return 0;
    const length = await this.#followed.follower.length();
    if (length < fill.length) throw wrongBytes(fill.digest);
    return length;
  }

  /** Throws, after closing `source`, unless it begins with the bytes that readers here have received. */
  async #requireAsRead(source: FillSource): Promise<void> {
    const { fill, signal } = this.#options;
    try {
      if (!(await fill.agreesWith(source, signal))) throw wrongBytes(fill.digest);
    } catch (error) {
      await source.close();
      throw error;
    }
  }
}
