import { isStorageClosed } from '../../blobs/storage-full.ts';
import { hasBytes } from '../../lib/bytes-reader.ts';
import { type Extent, Extents } from '../../lib/extents.ts';
import type { Log } from '../../lib/log.ts';
import type { Meter } from '../../lib/meter.ts';
import { repositoryText } from '../../oci/repository.ts';
import { UpstreamFailure } from '../../upstream/failures.ts';
import type { HostETag } from '../../upstream/upstream.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { ConnectionTrials, Further, Sharer } from './connection-trials.ts';
import { type Delivery, OVERLAP_BYTES } from './download.ts';
import { FillPace, SlowWatch } from './fill-pace.ts';
import type { FillPieces } from './fill-pieces.ts';
import type { FillQuota } from './fill-quota.ts';
import type { FillSharing } from './fill-sharing.ts';
import type { Fill } from './fill.ts';
import { FurtherConnection, heldPlace, NO_QUEUE } from './further-connection.ts';
import type { PartialBlob } from './partial-blob.ts';
import { type PullPlace, type PullTurns, waiterOf } from './pull-queue.ts';
import { type RangeRequest, RangesUnusable } from './range-request.ts';

/** Smaller blobs come over one connection: images have many of them, which come at the same time. */
const MIN_BLOB_BYTES = 32 * 1024 * 1024;
/** Finding out whether another connection helps takes about a second, which must be worth it. */
const MIN_REST_MS = 3_000;
/** How long a connection brings one stripe: the time in which a request costs little, and after which readers get on. */
const STRIPE_MS = 2_000;
const MIN_STRIPE_BYTES = 8 * 1024 * 1024;
/** Smaller gaps are left to the connection that writes in order. */
const MIN_GAP_BYTES = 1024 * 1024;
/**
 * A response is broken off if it would bring more than this of what is there already. That costs what is on its way (150 to
 * 960 KiB at 12.5 to 125 MB/s from an upstream next door), and a new connection, which takes some round trips to become fast.
 */
const WORTH_BREAKING_BYTES = 1024 * 1024;
/** At most so many bytes of a response come at once. */
const MAX_CHUNK_BYTES = 1024 * 1024;
/** What comes ahead is written twice, so at most this share of the free space is taken by it. */
const SPARE_SHARE = 0.25;

export interface FillConnectionsOptions {
  readonly fill: Fill;
  readonly sharing: FillSharing;
  readonly pieces: FillPieces;
  readonly asking: UpstreamRequests;
  readonly queue: PullTurns;
  readonly quota: FillQuota;
  readonly trials: ConnectionTrials;
  /** How many connections one blob may have at most, the first included; called each time. */
  readonly limit: () => number;
  /** The endpoints that sent wrong bytes. */
  readonly skipEndpoints: ReadonlySet<number>;
  readonly meter: Meter;
  readonly log: Log;
  readonly signal: AbortSignal;
}

/** A request for whose bytes a Fill may wait. */
type Awaited = Pick<RangeRequest, 'extent' | 'isSpare' | 'receivedBytes' | 'isOver'>;

/** A request that another process makes for a client, as far as is known of it. */
class RequestElsewhere implements Awaited {
  readonly extent: Extent;
  readonly isSpare = false;
  readonly #blob: PartialBlob;

  constructor(blob: PartialBlob, extent: Extent) {
    this.#blob = blob;
    this.extent = extent;
  }

  get receivedBytes(): number {
    const { start, end } = this.extent;
    return end - start - bytesOf(this.#blob.missing(this.extent));
  }

  get isOver(): boolean {
    const { start, end } = this.extent;
    return !this.#blob.elsewhere.some(coming => coming.start === start && coming.end === end);
  }
}

/**
 * The further connections of a Fill, for as long as one connection is the bottleneck. Each brings stripes from just ahead of
 * what is there, as pieces, which the Fill copies when it gets to them: so readers get on at the rate of all connections
 * together, while far parts would let them wait for the first one.
 *
 * The first connection continues in order until it comes to the first stripe. It reads a little of that, too: an upstream
 * that sends other ranges than it was asked for is found out before anybody gets such bytes.
 *
 * What clients are getting is left to them like stripes, as long as it is not slow.
 */
export class FillConnections implements Sharer {
  readonly #options: FillConnectionsOptions;
  readonly #pace: FillPace;
  readonly #further = new Set<FurtherConnection>();
  /** What uses the Fill's own place while the Fill waits for stripes of others. */
  #own: FurtherConnection | undefined;
  #blob: PartialBlob | undefined;
  #etag: HostETag | undefined;
  #leave: (() => void) | undefined;
  /** Where the first stripe begins, until its beginning was compared with what the first connection brings. */
  #doubtedAt: number | undefined;
  #hasStripes = false;
  /** What other processes are requesting, by its place in the blob. */
  #elsewhere = new Map<string, RequestElsewhere>();
  /** The request for whose bytes the Fill waits, and which it copies as they come. */
  #followed: Awaited | undefined;
  /** How many bytes a client's request had brought at the end of the last window. */
  #counted: { readonly request: Awaited; readonly bytes: number } | undefined;
  /** Requests of clients for which the Fill does not wait any more. */
  readonly #tooSlow = new WeakSet<Awaited>();
  /** Where what was there could not be copied. */
  #uncopiedAt: number | undefined;
  readonly #followedWatch = new SlowWatch();
  readonly #firstWatch = new SlowWatch();
  /** What the first connection has brought in the last window. */
  #firstBytes = 0;
  /** The same as a rate, of the last window in which the Fill did not wait for others. */
  #firstBytesPerSecond = 0;
  #isOver = false;
  /** Set when a connection has failed: this blob gets no more. */
  #hasFailed = false;

  constructor(options: FillConnectionsOptions) {
    this.#options = options;
    this.#pace = new FillPace(options.fill);
  }

  /** Upstream begins to send over the first connection. */
  begin({ answer }: Delivery): void {
    this.#etag = answer.etag;
    this.#leave ??= this.#options.trials.enter(this);
  }

  /** The first connection has brought bytes, and writing them took so long. */
  received(bytes: number, writingMs: number): void {
    this.#pace.received(bytes, writingMs);
  }

  /** Where the first connection has to stop: before what is there, or what others are bringing. See `DownloadOptions`. */
  endBefore(position: number, underWayTo?: number): number | undefined {
    if (underWayTo !== undefined) this.#passOver(position + MAX_CHUNK_BYTES);
    const doubtedAt = this.#doubt();
    if (doubtedAt !== undefined && position < doubtedAt + OVERLAP_BYTES) {
      const [there] = this.#leftOut(position, [], underWayTo);
      return there !== undefined && there.start < doubtedAt ? there.start : doubtedAt + OVERLAP_BYTES;
    }
    const stripes = this.#stripes.flatMap(({ extent }) => from(position, extent));
    const left = [...stripes, ...this.#leftOut(position, this.#clientRequests, underWayTo)];
    // A request that ended where it begins would bring nothing, again and again.
    const ends = left
      .map(({ start }) => start)
      .filter(end => end > position || position !== this.#uncopiedAt);
    return ends.length === 0 ? undefined : Math.min(...ends);
  }

  /**
   * What is not to be downloaded from `position` on, since it is there or `requests` bring it, as far as that is known. Of a
   * response that is under way, it is nothing unless there is so much before its end that it is worth to break it off: then
   * its rest is requested in parts, which end by themselves.
   */
  #leftOut(position: number, requests: readonly Awaited[], underWayTo?: number): readonly Extent[] {
    const { pieces } = this.#options;
    const isWorthIt = (extent: Extent): boolean => pieces.isWorthLeavingOut(extent);
    const requested = requests.flatMap(({ extent }) => from(position, extent)).filter(isWorthIt);
    if (underWayTo === undefined) {
      const [first] = pieces.worthLeavingOut(position);
      return first === undefined ? requested : [first, ...requested];
    }
    const left = new Extents(requested.filter(({ start }) => start < underWayTo));
    for (const piece of pieces.worthLeavingOut(position)) {
      if (piece.start >= underWayTo || left.bytes > WORTH_BREAKING_BYTES) break;
      left.add(piece);
    }
    return left.bytes > WORTH_BREAKING_BYTES ? [...left] : [];
  }

  /**
   * Up to where what is there from `position` on may be copied: not the first stripe, before the first connection has brought
   * a little of it, too, and that is the same.
   */
  async copyableUpTo(position: number): Promise<number> {
    const doubtedAt = this.#doubt();
    if (doubtedAt === undefined) return Number.POSITIVE_INFINITY;
    if (position < doubtedAt + OVERLAP_BYTES) return Math.max(position, doubtedAt);
    await this.#compare(doubtedAt);
    return Number.POSITIVE_INFINITY;
  }

  /**
   * Waits for the byte at `position` if another connection is bringing it, and lets the Fill's own place be used meanwhile;
   * or if a client has requested it, unless that turns out to be slow. False if it has to be downloaded.
   */
  async follow(position: number): Promise<boolean> {
    const { sharing, signal, trials } = this.#options;
    const blob = this.#kept;
    if (blob === undefined) return false;
    if (blob.isOver || !sharing.mayTakePieces) await this.#endAll();
    const doubtedAt = this.#doubt();
    const isDoubted = doubtedAt !== undefined && position < doubtedAt + OVERLAP_BYTES;
    const request = [...this.#stripes, ...this.#clientRequests].find(
      ({ extent }) => extent.start <= position && position < extent.end,
    );
    const isUncopied = this.#uncopiedAt === position;
    if (request === undefined || isDoubted || isUncopied) {
      this.#followed = undefined;
      this.#own?.end();
      await this.#own?.done;
      if (isDoubted || isUncopied) return false;
    }
    // It came since it was looked for.
    if (this.#bytesAt(position) > 0) {
      this.#uncopiedAt = position;
      return true;
    }
    if (request === undefined) return false;
    if (request.isSpare) this.#own ??= this.#startOwn(blob);
    // Its rate is measured.
    else this.#leave ??= trials.enter(this);
    if (this.#followed !== request) this.#counted = { request, bytes: request.receivedBytes };
    this.#followed = request;
    const isOver = (): boolean => request.isOver || blob.isOver || this.#tooSlow.has(request);
    const unfollow = request instanceof RequestElsewhere ? blob.follow() : undefined;
    try {
      await blob.changes.until(() => this.#bytesAt(position) > 0 || isOver() || undefined, signal);
    } finally {
      unfollow?.();
    }
    return true;
  }

  /** Ends all; resolves when they have ended. Call it when the Fill needs no more bytes. */
  async end(): Promise<void> {
    this.#isOver = true;
    this.#leave?.();
    await this.#endAll();
  }

  get connections(): number {
    return 1 + this.#further.size;
  }

  get mayGrow(): boolean {
    const { fill, sharing, pieces, asking, limit, skipEndpoints } = this.#options;
    const { upstream } = sharing.starter.repository;
    const size = fill.size ?? 0;
    return (
      !this.#isOver &&
      !this.#hasFailed &&
      !this.#pace.isHeldUp &&
      this.#followed?.isSpare !== false &&
      size >= MIN_BLOB_BYTES &&
      this.connections < limit() &&
      sharing.mayTakePieces &&
      skipEndpoints.size === 0 &&
      pieces.mayBeRequested &&
      !asking.limitsBlobs(upstream) &&
      this.#restBytes * 1000 > this.#pace.bytesPerSecond * MIN_REST_MS
    );
  }

  grow(): Further {
    const { queue, sharing, trials } = this.#options;
    const { repository, right } = sharing.starter;
    const place = queue.enter({
      ...waiterOf(right.requester),
      repository: repositoryText(repository),
      isSpare: true,
    });
    const further = this.#start(place, this.#openBlob(), () => trials.opened());
    this.#further.add(further);
    return further;
  }

  shrink(): void {
    [...this.#further].at(-1)?.end();
  }

  measured(windowMs: number): number {
    const followed = this.#followed;
    const counts = this.#all.map(further => ({ request: further.request, bytes: further.takeCount() }));
    const clientBytes = followed?.isSpare === false ? this.#takeCount(followed) : 0;
    const aheadBytes = counts.reduce((sum, { bytes }) => sum + bytes, clientBytes);
    const followedBytes = counts.find(({ request }) => request === followed)?.bytes ?? clientBytes;
    this.#firstBytes = this.#pace.measured(windowMs, aheadBytes);
    const bytes = this.#firstBytes + aheadBytes;
    const averageBytes = bytes / this.#active;
    this.#firstWatch.measured(followed === undefined ? this : undefined, this.#firstBytes, averageBytes);
    // It would take long until it can be compared.
    if (this.#firstWatch.isSlow) this.#doubtedAt = undefined;
    if (followed === undefined) this.#firstBytesPerSecond = (this.#firstBytes * 1000) / Math.max(1, windowMs);
    // There may be no other to compare a client's request with than the first connection before.
    const firstBytes = followed?.isSpare === false ? (this.#firstBytesPerSecond * windowMs) / 1000 : 0;
    this.#followedWatch.measured(followed, followedBytes, Math.max(averageBytes, firstBytes));
    if (followed !== undefined && this.#followedWatch.isSlow) this.#giveUp(followed);
    return bytes;
  }

  get #all(): readonly FurtherConnection[] {
    return this.#own === undefined ? [...this.#further] : [...this.#further, this.#own];
  }

  /** How many connections bring bytes. */
  get #active(): number {
    return 1 + [...this.#further].filter(({ state }) => state === 'running').length;
  }

  /** What other connections are bringing. */
  get #stripes(): readonly RangeRequest[] {
    return this.#all.flatMap(({ request }) => request ?? []);
  }

  /**
   * What clients have requested, here or in other processes, and upstream is being asked for: the Fill must not wait for what
   * may wait for its place.
   */
  get #clientRequests(): readonly Awaited[] {
    const { blob } = this.#options.pieces;
    if (blob === undefined) return [];
    const here = [...blob.requests].filter(({ isSpare, isUnderWay }) => !isSpare && isUnderWay);
    return [...here, ...this.#requestsElsewhere(blob)].filter(request => !this.#tooSlow.has(request));
  }

  /** The same objects as before for the same requests. */
  #requestsElsewhere(blob: PartialBlob): Iterable<RequestElsewhere> {
    const before = this.#elsewhere;
    this.#elsewhere = new Map(
      blob.elsewhere.map(({ start, end }) => {
        const key = `${start}-${end}`;
        return [key, before.get(key) ?? new RequestElsewhere(blob, { start, end })];
      }),
    );
    return this.#elsewhere.values();
  }

  /** What keeps the pieces, for further connections or since clients have requested some. */
  get #kept(): PartialBlob | undefined {
    return this.#blob ?? this.#options.pieces.blob;
  }

  /** How many bytes nobody has brought or is bringing. */
  get #restBytes(): number {
    return bytesOf(this.#gaps);
  }

  get #gaps(): readonly Extent[] {
    const { length, size = length } = this.#options.fill;
    const rest = { start: length, end: size };
    return this.#blob?.known.missing(rest) ?? [rest];
  }

  /** How many bytes a client's request has brought since this was last called for it. */
  #takeCount(request: Awaited): number {
    const before = this.#counted?.request === request ? this.#counted.bytes : 0;
    this.#counted = { request, bytes: request.receivedBytes };
    return request.receivedBytes - before;
  }

  /** The Fill does not wait for a slow request any more: what is left of it is requested again. A client keeps its own. */
  #giveUp(request: Awaited): void {
    this.#all.find(further => further.request === request)?.end();
    if (request.isSpare) return;
    this.#tooSlow.add(request);
    this.#kept?.changes.tell();
  }

  /** Opens what keeps the pieces, if there is room for it. */
  async #openBlob(): Promise<PartialBlob | undefined> {
    const { pieces, quota } = this.#options;
    const hasRoom = await quota.hasSpareRoomFor(this.#restBytes * 2, SPARE_SHARE);
    const blob = hasRoom ? await pieces.open() : undefined;
    this.#blob ??= blob;
    // Another than before: that one has failed.
    const isUsable = blob !== undefined && blob === this.#blob;
    this.#hasFailed ||= !isUsable;
    return isUsable ? blob : undefined;
  }

  /** The Fill's own place is free while it waits for others. */
  #startOwn(blob: PartialBlob): FurtherConnection {
    return this.#start(heldPlace(), Promise.resolve(blob), () => () => {});
  }

  #start(
    place: PullPlace,
    blob: Promise<PartialBlob | undefined>,
    opened: () => () => void,
  ): FurtherConnection {
    return new FurtherConnection({
      place,
      blob,
      next: blobNow => this.#requestStripe(blobNow),
      opened,
      failed: failure => this.#failed(failure),
      ended: further => {
        this.#further.delete(further);
        if (this.#own === further) this.#own = undefined;
      },
    });
  }

  #requestStripe(blob: PartialBlob): RangeRequest | undefined {
    const { meter, sharing } = this.#options;
    if (this.#isOver || blob.isOver || !sharing.mayTakePieces) return undefined;
    const stripe = this.#nextStripe();
    if (stripe === undefined) return undefined;
    meter.count('fill_stripes_total', { upstream: sharing.starter.repository.upstream });
    return blob.request(stripe, sharing.starter, { queue: NO_QUEUE, etag: this.#etag, isSpare: true });
  }

  /** The first bytes that nobody is bringing, behind what the first connection will have in the meantime. */
  #nextStripe(): Extent | undefined {
    const { fill } = this.#options;
    const perConnection = (this.#pace.bytesPerSecond * STRIPE_MS) / 1000 / this.#active;
    const share = this.#restBytes / (this.connections + 1);
    const stripeBytes = Math.round(Math.max(MIN_STRIPE_BYTES, Math.min(perConnection, share)));
    // A slow first connection only gets what it brings until the others have the rest.
    const firstBytes = this.#firstWatch.isSlow ? this.#firstBytes + OVERLAP_BYTES : stripeBytes;
    for (const gap of this.#gaps) {
      const isOfFirst = this.#followed === undefined && gap.start === fill.length;
      const start = Math.max(gap.start + (isOfFirst ? firstBytes : 0), this.#doubtedAt ?? 0);
      if (gap.end - start < MIN_GAP_BYTES) continue;
      // Comparing it elsewhere would mean to download what is there already.
      if (isOfFirst && !this.#hasStripes) this.#doubtedAt = start;
      this.#hasStripes = true;
      return { start, end: Math.min(gap.end, start + stripeBytes) };
    }
    return undefined;
  }

  #failed(failure: unknown): void {
    const { trials, log } = this.#options;
    this.#hasFailed = true;
    const isUpstreams = failure instanceof UpstreamFailure || failure instanceof RangesUnusable;
    log.info(
      isUpstreams ? { reason: failure.message } : { err: failure },
      'a further connection for a download has failed',
    );
    const isLimited =
      failure instanceof UpstreamFailure && (failure.status === 429 || failure.kind === 'limited');
    const isUnwanted = isLimited || failure instanceof RangesUnusable;
    if (isUnwanted) trials.refuse();
    if (isUnwanted || isStorageClosed(failure)) void this.#endAll();
  }

  /** Resolves when all have ended. */
  async #endAll(): Promise<void> {
    const all = this.#all;
    for (const further of all) further.end();
    await Promise.all(all.map(({ done }) => done));
  }

  /**
   * Where the first stripe begins, as long as it has to be compared. If hardly anything of it has come, that is not worth a
   * request.
   */
  #doubt(): number | undefined {
    const start = this.#doubtedAt;
    if (start === undefined) return undefined;
    const isRequested = this.#stripes.some(({ extent }) => extent.start === start);
    if (!isRequested && this.#bytesAt(start) <= WORTH_BREAKING_BYTES) this.#doubtedAt = undefined;
    return this.#doubtedAt;
  }

  /**
   * The first connection gets to `position`: if it comes to the first stripe, and hardly anything of that has come, it is not
   * worth to break off what it brings itself.
   */
  #passOver(position: number): void {
    const start = this.#doubtedAt;
    if (start === undefined || position < start || this.#bytesAt(start) > WORTH_BREAKING_BYTES) return;
    this.#doubtedAt = undefined;
    this.#hasFailed = true;
    this.#all.find(({ request }) => request?.extent.start === start)?.end();
  }

  /** How many bytes are there from `position` on. */
  #bytesAt(position: number): number {
    const piece = this.#kept?.next(position);
    return piece === undefined || piece.start > position ? 0 : piece.end - position;
  }

  /** Compares what the first connection has brought of the first stripe with what another one has. */
  async #compare(start: number): Promise<void> {
    const { fill, pieces, trials, log } = this.#options;
    this.#doubtedAt = undefined;
    const blob = this.#blob;
    if (blob === undefined || blob.isOver) return;
    const ours = new Uint8Array(Math.min(OVERLAP_BYTES, this.#bytesAt(start)));
    // Another connection that has brought nothing by now is of no use.
    if (ours.byteLength === 0) {
      await this.#endAll();
      return;
    }
    for (let count = 0; count < ours.byteLength; )
      count += await fill.read(ours.subarray(count), start + count);
    if (await hasBytes(blob, ours, start)) return;
    log.warn({}, 'upstream sends other bytes over further connections');
    trials.refuse();
    pieces.distrust();
    await this.#endAll();
  }
}

/** What `extent` has from `position` on; nothing if it ends before. */
function from(position: number, { start, end }: Extent): readonly Extent[] {
  return end > position ? [{ start: Math.max(start, position), end }] : [];
}

function bytesOf(extents: readonly Extent[]): number {
  return extents.reduce((sum, { start, end }) => sum + end - start, 0);
}
