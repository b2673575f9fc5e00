import { setTimeout as sleep } from 'node:timers/promises';
import type { Spool } from '../../blobs/spool.ts';
import { isStorageClosed } from '../../blobs/storage-full.ts';
import type { Lease } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import { Lru } from '../../lib/lru.ts';
import type { Meter } from '../../lib/meter.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import { credentialId } from '../../oci/credential.ts';
import type { Digest } from '../../oci/digest.ts';
import { repositoryText } from '../../oci/repository.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import { partsKey } from './fill-key.ts';
import type { FillQuota } from './fill-quota.ts';
import { PartialBlob } from './partial-blob.ts';
import type { PullQueue } from './pull-queue.ts';
import type { RangeAsker } from './range-request.ts';

/** How long one is kept open without a user: lazy clients ask again within seconds. */
const IDLE_MS = 10_000;
/** How long no ranges are requested from an upstream that ignored one. */
const IGNORES_RANGES = { maxEntries: 1_000, maxAgeMs: 10 * 60_000 };
/** How often a stopping process checks whether readers have finished. */
const STOP_POLL_MS = 20;

export interface PartialsOptions {
  readonly asking: UpstreamRequests;
  readonly spool: Spool;
  readonly metadata: MetadataStore;
  readonly queue: PullQueue;
  readonly quota: FillQuota;
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
  readonly #ignoring = new Lru<object>(IGNORES_RANGES);
  #isClosing = false;

  constructor(options: PartialsOptions) {
    this.#options = options;
  }

  /**
   * The PartialBlob for requesters like `asker`, whose right is proved, or who will be asked about upstream; made if there
   * is none. `undefined` if ranges of a blob of this size cannot be kept, or upstream is known to ignore ranges.
   */
  async open(asker: RangeAsker, digest: Digest, size: number): Promise<PartialUse | undefined> {
    if (this.#ignoring.get(asker.repository.upstream) !== undefined) return undefined;
    const key = partialKey(asker, digest);
    for (;;) {
      if (this.#isClosing) return undefined;
      const opened = await (this.#opened.get(key) ?? this.#begin(key, digest, size));
      if (opened?.closed === undefined) {
        return opened?.blob.size === size && !opened.blob.isOver ? opened.use() : undefined;
      }
      await opened.closed;
    }
  }

  /** As `open`, but only if something is there or being requested. */
  async find(asker: RangeAsker, digest: Digest, size: number): Promise<PartialUse | undefined> {
    const key = partialKey(asker, digest);
    const isThere = this.#opened.has(key) || (await this.#options.metadata.readLease(key)) !== undefined;
    return isThere ? this.open(asker, digest, size) : undefined;
  }

  /** As `find`, but by its key, and only if it is open now. */
  peek(key: string): PartialUse | undefined {
    const live = this.#live.get(key);
    return live === undefined || live.closed !== undefined || live.blob.isOver ? undefined : live.use();
  }

  /** Upstream was asked for a range and began to send the whole blob. */
  noteIgnored(upstream: string): void {
    this.#ignoring.set(upstream, {});
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

  #begin(key: string, digest: Digest, size: number): Promise<Opened | undefined> {
    const opening = this.#open(key, digest, size).then(
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

  async #open(key: string, digest: Digest, size: number): Promise<Opened | undefined> {
    const { asking, spool, metadata, queue, quota, meter, log } = this.#options;
    let lease: Lease | undefined;
    try {
      lease = await metadata.acquireLease(key);
      if (lease === undefined) return undefined;
      const held = lease;
      const space = await quota.enter();
      const parts = await spool.parts(held, size);
      const blob = new PartialBlob({ asking, queue, meter, log, digest, size, parts, space });
      return new Opened(blob, isKept => this.#letGo(key, held, isKept), log);
    } catch (error) {
      if (lease !== undefined) await metadata.release(lease);
      // A Fill copes with a full disk.
      if (isStorageClosed(error)) return undefined;
      throw error;
    }
  }

  async #letGo(key: string, lease: Lease, isKept: boolean): Promise<void> {
    const { metadata } = this.#options;
    try {
      await (isKept ? metadata.setAside(lease) : metadata.release(lease));
    } finally {
      this.#opened.delete(key);
      this.#live.delete(key);
    }
  }
}

/** An open PartialBlob with its users. It closes some time after the last has left. */
class Opened {
  readonly blob: PartialBlob;
  /** Called when it is closed. */
  readonly #letGo: (isKept: boolean) => Promise<void>;
  readonly #log: Log;
  #users = 0;
  #idle: NodeJS.Timeout | undefined;
  #closed: Promise<void> | undefined;

  constructor(blob: PartialBlob, letGo: (isKept: boolean) => Promise<void>, log: Log) {
    this.blob = blob;
    this.#letGo = letGo;
    this.#log = log;
  }

  /** Resolves when it is closed; `undefined` as long as it may be used. */
  get closed(): Promise<void> | undefined {
    return this.#closed;
  }

  use(): PartialUse {
    clearTimeout(this.#idle);
    this.#users += 1;
    let isUsed = true;
    const leave = (): void => {
      if (!isUsed) return;
      isUsed = false;
      this.#users -= 1;
      if (this.#users > 0) return;
      if (this.blob.isOver) this.#close();
      else this.#idle = setTimeout(() => this.#close(), IDLE_MS);
    };
    return { blob: this.blob, leave };
  }

  /** Closes it if it has no users, or if there is a `reason` for them to stop. */
  end(reason: Error | undefined): void {
    if (this.#users > 0 && reason === undefined) return;
    if (reason !== undefined) this.blob.stop(reason);
    this.#close();
  }

  #close(): void {
    clearTimeout(this.#idle);
    this.#closed ??= this.#closeNow();
  }

  async #closeNow(): Promise<void> {
    let isKept = false;
    try {
      isKept = await this.blob.close();
    } catch (error) {
      this.#log.info({ err: error, digest: this.blob.digest }, 'parts of a blob were not kept');
    }
    await this.#letGo(isKept).catch((error: unknown) => {
      this.#log.info({ err: error, digest: this.blob.digest }, 'a lease could not be given back');
    });
  }
}

/** The key of the PartialBlob for requesters like this one. */
export function partialKey({ repository, right, settled }: RangeAsker, digest: Digest): string {
  const source = [repositoryText(repository)];
  if (!right.proved && !settled) source.push(...right.credentials.map(credentialId));
  return partsKey(source.join(' '), digest);
}
