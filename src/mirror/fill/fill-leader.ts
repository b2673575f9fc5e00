import type { BlobStore } from '../../blobs/blob-store.ts';
import type { Ingest, Spool } from '../../blobs/spool.ts';
import { isStorageClosed } from '../../blobs/storage-full.ts';
import { type Lease, LeaseLost } from '../../lib/lease.ts';
import type { Meter } from '../../lib/meter.ts';
import type { MetadataStore } from '../../metadata/metadata-store.ts';
import type { Digest } from '../../oci/digest.ts';
import { OciError } from '../../oci/errors.ts';
import { repositoryText } from '../../oci/repository.ts';
import { UpstreamFailure } from '../../upstream/failures.ts';
import type { Links } from '../links.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import { MoreThanNamed, OtherBytes, OVERLAP_BYTES } from './download.ts';
import type { FillOutcome } from './fill-outcome.ts';
import type { FillPieces } from './fill-pieces.ts';
import type { FillQuota, FillSpace } from './fill-quota.ts';
import type { FillSharing } from './fill-sharing.ts';
import { type FillTransfer, Unwanted } from './fill-transfer.ts';
import { type Fill, wrongBytes } from './fill.ts';

/**
 * What became of an ingest: `done`: it is stored or removed; `left`: the next holder of the Lease can continue it;
 * `lost`: another process has taken the Lease over, and continues from a copy of the valid bytes.
 */
export type Led = 'done' | 'left' | 'lost';

export interface FillLeaderOptions {
  readonly fill: Fill;
  readonly sharing: FillSharing;
  readonly asking: Pick<UpstreamRequests, 'broke'>;
  readonly transfer: FillTransfer;
  readonly pieces: FillPieces;
  readonly outcome: FillOutcome;
  readonly spool: Spool;
  readonly blobs: BlobStore;
  readonly metadata: MetadataStore;
  readonly links: Links;
  readonly quota: FillQuota;
  readonly meter: Meter;
  /** The endpoints that sent wrong bytes. */
  readonly skipEndpoints: Set<number>;
  /** Aborts when the Fill is stopped. */
  readonly signal: AbortSignal;
}

/**
 * Fills under a Lease: begins an ingest or continues one that was left, lets the transfer complete it, and stores it if
 * the digest is right. It tells the outcome before it ends the ingest, so that readers do not see that first.
 */
export class FillLeader {
  readonly #options: FillLeaderOptions;

  constructor(options: FillLeaderOptions) {
    this.#options = options;
  }

  /**
   * Rejects if there is no ingest to work on; with LeaseLost before it begins; or if readers must not continue with what
   * the process that has taken over downloads.
   */
  async lead(lease: Lease): Promise<Led> {
    // Kept until the ingest is removed or stored: otherwise another Fill would take the same space again.
    const { quota, pieces } = this.#options;
    const space = await quota.enter();
    try {
      await pieces.find();
      return await this.#leadIn(space, lease);
    } finally {
      pieces.end();
      space.leave();
    }
  }

  async #leadIn(space: FillSpace, lease: Lease): Promise<Led> {
    const { fill, transfer, spool, signal } = this.#options;
    let ingest = await spool.ingest(lease, { digest: fill.digest });
    const seen = fill.length;
    const isSame = await fill.agreesWith(ingest, signal).catch(() => false);
    fill.begin(ingest, ingest.offset);
    let endpoint: number | undefined;
    let actual: Digest;
    try {
      if (ingest.offset < seen || !isSame) throw wrongBytes(fill.digest);
      const goneOn = await this.#goOn(ingest, space, seen);
      if (goneOn === undefined) ingest = await this.#anew(ingest);
      endpoint = goneOn === undefined ? await transfer.into(ingest, space) : goneOn.endpoint;
      actual = await ingest.hash(fill.digest);
    } catch (error) {
      return this.#end(ingest, error);
    }
    if (actual !== fill.digest) return this.#discard(ingest, { endpoint });
    fill.verify();
    await this.#commit(ingest);
    return 'done';
  }

  /**
   * Downloads what is missing after the bytes of an earlier run. Returns the index of the last endpoint, if any was asked;
   * `undefined` if those bytes turned out to be others than upstream's and no reader has received any of them. `seen`: how
   * many bytes readers may have received before.
   */
  async #goOn(
    ingest: Ingest,
    space: FillSpace,
    seen: number,
  ): Promise<{ readonly endpoint: number | undefined } | undefined> {
    const { fill, sharing, transfer, pieces, meter } = this.#options;
    if (ingest.offset === 0) return { endpoint: await transfer.into(ingest, space) };
    fill.grow(ingest.offset);
    try {
      // So few bytes prove nothing, and are soon downloaded again.
      if (ingest.offset < OVERLAP_BYTES && seen === 0) throw new OtherBytes();
      meter.count('fills_resumed_total');
      return { endpoint: await transfer.into(ingest, space) };
    } catch (error) {
      if (!(error instanceof OtherBytes || isInvalid(error)) || sharing.isGiven) throw error;
      pieces.discard();
      if (seen === 0 && fill.readable === 0) return undefined;
      throw error instanceof OtherBytes ? error : new OtherBytes({ cause: error });
    }
  }

  /**
   * A new ingest after one with wrong bytes. It has another file, and the old one stays empty: that is how a process
   * that follows it learns that its readers have wrong bytes, however long it was suspended.
   */
  async #anew(old: Ingest): Promise<Ingest> {
    const { fill, spool } = this.#options;
    await old.truncate(0);
    await old.abort();
    const ingest = await spool.ingest(old.lease, { digest: fill.digest, anew: true });
    fill.begin(ingest, 0);
    return ingest;
  }

  /** Stores the verified blob. Readers have all of it already, even if that fails. */
  async #commit(ingest: Ingest): Promise<void> {
    const { fill, sharing, pieces, outcome, blobs, metadata, links } = this.#options;
    const { digest, length } = fill;
    try {
      const [first, ...others] = await sharing.verified();
      for (const repository of others) links.add(repository, digest, length);
      // Before the row exists: whoever waits for that considers the repository complete.
      await sharing.linkShown();
      const stored = await blobs.put(digest, ingest);
      if (!(await metadata.putBlob(digest, length, first, stored))) {
        await ingest.abort().catch(() => {});
        return outcome.removed();
      }
    } catch (error) {
      await ingest.abort().catch(() => {});
      return error instanceof LeaseLost ? outcome.storedByAnother() : outcome.unstored(error);
    }
    pieces.obsolete();
    outcome.stored();
  }

  /** Ends an ingest after the failure of its download. */
  async #end(ingest: Ingest, error: unknown): Promise<Led> {
    if (error instanceof LeaseLost) {
      await ingest.suspend();
      // There are too few bytes to compare, so the other process starts again: its bytes are not for these readers.
      if (this.#options.sharing.isDoubtful) throw begunAnew(error);
      return 'lost';
    }
    if (error instanceof OtherBytes) return this.#discard(ingest, { cause: error });
    if (error instanceof MoreThanNamed) {
      return this.#discard(ingest, { endpoint: error.endpoint, cause: error });
    }
    // They may be of another blob than what upstream sends now.
    if (isInvalid(error)) this.#options.pieces.discard();
    this.#options.outcome.failed(error);
    // A full disk gets its space back, which the index and pushes need; readers continue straight from upstream.
    const isDropped = isStorageClosed(error) || error instanceof Unwanted;
    if (isDropped) this.#options.pieces.drop();
    await (isDropped ? ingest.abort() : ingest.suspend());
    return isDropped ? 'done' : 'left';
  }

  /**
   * Removes an ingest whose bytes are not the blob, and the pieces that it was made of. `endpoint`, if it sent the rest, is
   * not trusted any more, unless the pieces may be to blame.
   */
  async #discard(
    ingest: Ingest,
    { endpoint, cause }: { readonly endpoint?: number | undefined; readonly cause?: Error },
  ): Promise<Led> {
    const { fill, outcome, pieces, skipEndpoints } = this.#options;
    const isByPieces = pieces.discard();
    if (endpoint !== undefined && !isByPieces) {
      skipEndpoints.add(endpoint);
      this.#blameUpstream(endpoint);
    }
    outcome.failed(wrongBytes(fill.digest, cause));
    // Truncated first: that tells processes that follow the ingest that their readers have wrong bytes. If the Lease
    // belongs to another process by now, nobody follows it.
    await ingest.truncate(0).catch(() => {});
    await ingest.abort();
    return 'done';
  }

  #blameUpstream(endpoint: number): void {
    const { fill, sharing, asking } = this.#options;
    const { repository } = sharing.starter;
    const reason = `${repositoryText(repository)} blobs/${fill.digest}: the content does not match the digest`;
    asking.broke(repository, new UpstreamFailure('invalid', reason, { endpoint }));
  }
}

/** Whether upstream's response contradicts what was asked, or what is known. */
function isInvalid(error: unknown): boolean {
  return error instanceof UpstreamFailure && error.kind === 'invalid';
}

/** The error when another process has taken over and there is too little to compare with its bytes. */
function begunAnew(cause: LeaseLost): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'another process has taken over this download: try again',
    headers: { 'Retry-After': '1' },
    cause,
  });
}
