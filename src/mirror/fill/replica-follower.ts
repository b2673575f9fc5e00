import type { BlobStore } from '../../blobs/blob-store.ts';
import type { Ingest, Spool } from '../../blobs/spool.ts';
import { isStorageClosed } from '../../blobs/storage-full.ts';
import type { Clock, Timer } from '../../lib/clock.ts';
import type { Lease } from '../../lib/lease.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import { OciError } from '../../oci/errors.ts';
import type { FillSharing } from './fill-sharing.ts';
import { type Fill, wrongBytes } from './fill.ts';
import { type RemoteBytes, type RemoteFill, ReplicaAway, type Replicas } from './replicas.ts';

/** After so long without a byte, the index is asked whether the holder is still the same. */
const SILENT_MS = 1_000;
/** The pause before another attempt to acquire the Lease, or to reach its holder. */
const RETRY_MS = 500;

export interface ReplicaFollowerOptions {
  /** The key of the Lease and its ingests. */
  readonly key: string;
  readonly fill: Fill;
  readonly sharing: FillSharing;
  readonly replicas: Replicas;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly clock: Clock;
  readonly meter: Meter;
  readonly log: Log;
  /** Aborts when the Fill is stopped. */
  readonly signal: AbortSignal;
}

/** What a holder sends, and the ingest that it is written to. */
interface Received {
  readonly ingest: Ingest;
  readonly bytes: RemoteBytes;
}

/**
 * Lets a Fill have what another replica downloads. The bytes go into an ingest of this replica's own, are verified here,
 * and stay as a copy once the holder has stored the blob. If that replica ends, the next holder of the Lease, this
 * replica or a third one, continues from its own ingest: nothing that has arrived here is sent again.
 */
export class ReplicaFollower {
  readonly #options: ReplicaFollowerOptions;
  /** What was received, or written before another replica took over. Its epoch is that of the Lease of whoever sent it. */
  #received: { readonly epoch: number; readonly ingest: Ingest | undefined } | undefined;
  #holder: string | undefined;

  constructor(options: ReplicaFollowerOptions) {
    this.#options = options;
  }

  /** The process that is followed, as in `LeaseState`; `undefined` if there is none. */
  get holder(): string | undefined {
    return this.#holder;
  }

  /**
   * Follows a Fill in another replica, as long as that is its holder. True if the blob is stored, false if it is time to try
   * to acquire the Lease. Rejects if the bytes are wrong, or upstream has refused everybody here.
   */
  async follow(remote: RemoteFill, holder: string | undefined): Promise<boolean> {
    const { log, clock, metadata, signal } = this.#options;
    if (this.#holder !== holder) log.info({ holder }, 'following the download of another replica');
    this.#holder = holder;
    const leaving = new AbortController();
    const watch = new Watch(() => this.#isHolder(remote), clock, leaving);
    const either = AbortSignal.any([signal, leaving.signal]);
    try {
      return await this.#receiveFrom(remote, watch, either);
    } catch (error) {
      signal.throwIfAborted();
      if (isStorageClosed(error)) await this.discard();
      if (!(error instanceof ReplicaAway)) throw error;
      log.debug({ err: error }, 'the download of another replica cannot be followed for now');
      if (await this.#settled()) return true;
      if (error.isRefused && (await metadata.endLeaseOfGone(remote).catch(() => false))) {
        log.info({ holder }, 'the replica that downloads this blob is gone: its download ends');
        return false;
      }
      // Unless it is over there, or in other hands.
      if (await this.#isHolder(remote).catch(() => true)) await clock.sleep(RETRY_MS, { signal });
      return false;
    } finally {
      watch.end();
    }
  }

  /** Call when this process has the Lease. Returns it with what was received as what its last holder has left. */
  async takeOver(lease: Lease): Promise<Lease> {
    this.#holder = undefined;
    const received = this.#received;
    if (received === undefined) return lease;
    this.#received = undefined;
    await received.ingest?.suspend();
    return { ...lease, left: { epoch: received.epoch, mayWrite: false } };
  }

  /** Call when another process has taken over what this one wrote under the Lease with this epoch. */
  lost(epoch: number): void {
    this.#received = { epoch, ingest: undefined };
  }

  /** Call when what was received is of no use: the blob is stored, or the bytes are wrong. */
  async discard(): Promise<void> {
    const received = this.#received;
    this.#received = undefined;
    if (received === undefined) return;
    const { key, spool } = this.#options;
    const ingest =
      received.ingest ?? (await spool.ingest(leaseOf(key, received), { isStoredElsewhere: true }));
    await ingest.abort();
    if (received.ingest === undefined) await ingest.close();
  }

  /** Call at the end: what is not stored is kept for the next one who downloads the blob. */
  async end(): Promise<void> {
    const ingest = this.#received?.ingest;
    await (ingest?.offset === 0 ? ingest.abort() : ingest?.suspend());
  }

  async #receiveFrom(remote: RemoteFill, watch: Watch, signal: AbortSignal): Promise<boolean> {
    const { fill, sharing } = this.#options;
    const { ingest, bytes } = await this.#begin(remote, signal);
    try {
      if (fill.size === undefined && bytes.size !== undefined) fill.learnSize(bytes.size);
      sharing.givenElsewhere(bytes.repositories);
      if (sharing.isAwaited) await sharing.ask();
      await this.#receive(bytes, ingest, watch);
    } finally {
      bytes.close();
    }
    return this.#settled();
  }

  /** Asks the holder for what is missing here. That is usually everything, so it is requested while the ingest is looked up. */
  async #begin(remote: RemoteFill, signal: AbortSignal): Promise<Received> {
    const { replicas } = this.#options;
    if (this.#received === undefined) {
      const leaving = new AbortController();
      const asking = replicas.read(remote, 0, AbortSignal.any([signal, leaving.signal]));
      asking.catch(() => {});
      let ingest: Ingest | undefined;
      try {
        ingest = await this.#ingestOf(remote);
        if (ingest.offset === 0) return { ingest, bytes: await asking };
      } finally {
        if (ingest?.offset !== 0) leaving.abort(new ReplicaAway('only the rest is requested'));
      }
    }
    const ingest = await this.#ingestOf(remote);
    return { ingest, bytes: await replicas.read(remote, ingest.offset, signal) };
  }

  /** Until the end of what the holder sends. */
  async #receive(bytes: RemoteBytes, ingest: Ingest, watch: Watch): Promise<void> {
    const { fill, sharing, spool, meter } = this.#options;
    const { limitBytes = ingest.offset } = sharing;
    // For the whole blob at once, so that one that cannot fit displaces nothing.
    if (limitBytes > ingest.offset) await spool.space.admit(limitBytes - ingest.offset);
    for (;;) {
      if (fill.size !== undefined && ingest.offset >= fill.size && fill.state !== 'verified')
        await this.#verify(ingest);
      else if (sharing.isAwaited && sharing.isShowable && fill.size !== undefined)
        await sharing.show({ isVerified: false });
      const piece = await bytes.next();
      if (piece === undefined) return;
      watch.heard();
      if (ingest.offset + piece.length > (sharing.limitBytes ?? Number.POSITIVE_INFINITY))
        throw await this.#wrong();
      fill.growSoonBy(piece);
      await ingest.write([piece]);
      fill.grow(ingest.offset);
      meter.count('bytes_from_replicas_total', {}, piece.length);
    }
  }

  /** All bytes are there. */
  async #verify(ingest: Ingest): Promise<void> {
    const { fill, sharing } = this.#options;
    if ((await ingest.hash(fill.digest)) !== fill.digest) throw await this.#wrong();
    if (sharing.isAwaited) await sharing.show({ isVerified: true });
    fill.verify();
    void sharing.linkShown();
  }

  /** Whether the blob is verified here and stored by whoever has downloaded it. It is then kept here, too. */
  async #settled(): Promise<boolean> {
    const { fill, blobs, metadata } = this.#options;
    const ingest = this.#received?.ingest;
    if (ingest === undefined) return false;
    const row = await metadata.statBlob(fill.digest);
    if (row === undefined || row.size !== ingest.offset) return false;
    // Its size was not known before.
    if (fill.state !== 'verified') await this.#verify(ingest);
    this.#received = undefined;
    await (blobs.keepLocally?.(fill.digest, ingest) ?? ingest.abort());
    return true;
  }

  /** The ingest for what is sent under this epoch, with what is there already. */
  async #ingestOf({ key, epoch }: RemoteFill): Promise<Ingest> {
    const { fill, spool } = this.#options;
    const before = this.#received;
    if (before?.epoch === epoch && before.ingest !== undefined) return before.ingest;
    await before?.ingest?.suspend();
    const lease = leaseOf(key, { epoch, left: before });
    const ingest = await spool.ingest(lease, { digest: fill.digest, isStoredElsewhere: true });
    const seen = fill.length;
    if (ingest.offset < seen) {
      await ingest.suspend();
      await ingest.close();
      throw new OciError('UNAVAILABLE', {
        message: 'another replica has begun this download anew: try again',
        headers: { 'Retry-After': '1' },
      });
    }
    this.#received = { epoch, ingest };
    fill.begin(ingest, ingest.offset);
    return ingest;
  }

  /** Whether the Lease is still that of the replica that is followed. */
  async #isHolder({ key, epoch, address }: RemoteFill): Promise<boolean> {
    const lease = await this.#options.metadata.readLease(key);
    return lease?.epoch === epoch && lease.elsewhere === address;
  }

  async #wrong(): Promise<OciError> {
    await this.discard();
    return wrongBytes(this.#options.fill.digest);
  }
}

/**
 * The Lease of a holder, as it stands for what is received of its ingest. Whoever else of this replica may write the file of
 * that name, writes the same bytes.
 */
function leaseOf(
  key: string,
  { epoch, left }: { readonly epoch: number; readonly left?: { readonly epoch: number } | undefined },
): Lease {
  return { key, epoch, left: left && { epoch: left.epoch, mayWrite: false }, confirm: () => undefined };
}

/** Ends an attempt when nothing arrives, and the sender is not the holder any more: it may be suspended, or cut off. */
class Watch {
  readonly #isHolder: () => Promise<boolean>;
  readonly #clock: Clock;
  readonly #leaving: AbortController;
  #heardAtMs: number;
  #timer: Timer | undefined;
  #isOver = false;

  constructor(isHolder: () => Promise<boolean>, clock: Clock, leaving: AbortController) {
    this.#isHolder = isHolder;
    this.#clock = clock;
    this.#leaving = leaving;
    this.#heardAtMs = clock.monotonicMs();
    this.#schedule();
  }

  heard(): void {
    this.#heardAtMs = this.#clock.monotonicMs();
  }

  end(): void {
    this.#isOver = true;
    this.#timer?.cancel();
  }

  #schedule(): void {
    if (!this.#isOver) this.#timer = this.#clock.after(SILENT_MS, () => void this.#look());
  }

  async #look(): Promise<void> {
    const isSilent = this.#clock.monotonicMs() - this.#heardAtMs >= SILENT_MS;
    // While the index cannot be reached, nobody takes over.
    const isHolder = !isSilent || (await this.#isHolder().catch(() => true));
    if (!isHolder) this.#leaving.abort(new ReplicaAway('the replica does not hold the lease any more'));
    else this.#schedule();
  }
}
