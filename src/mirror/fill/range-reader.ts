import { isStorageClosed } from '../../blobs/storage-full.ts';
import type { BlobReader } from '../../lib/blob-reader.ts';
import { Changes } from '../../lib/changes.ts';
import { type Extent, Extents } from '../../lib/extents.ts';
import { LeaseLost } from '../../lib/lease.ts';
import { ociErrorOf, UpstreamFailure } from '../../upstream/failures.ts';
import type { Fill } from './fill.ts';
import type { PartialBlob } from './partial-blob.ts';
import type { PartialUse } from './partials.ts';
import { planRanges } from './plan-ranges.ts';
import { type RangeAsker, type RangeRequest, RangesUnusable } from './range-request.ts';

/** How many ranges one reader requests at a time: enough to hide the round trips, few enough for others to have a turn. */
const MAX_REQUESTS = 4;
/** A range is left to a Fill if that will be there within this time, which a request of its own would take, too. */
export const NEAR_MS = 200;
/** The same for a Fill whose rate is not known yet. */
export const NEAR_BYTES = 256 * 1024;
/** When a range is about to be requested, the Fill may have come nearer; but not so near that it could pass it unawares. */
const TOO_NEAR_MS = 150;

/** A download of the whole blob that somebody may read as it is, and the way to give it up. */
export interface Along {
  readonly fill: Fill;
  readonly leave: () => void;
}

export interface RangeReaderOptions {
  readonly use: PartialUse;
  /** The bytes that will be read, in that order. */
  readonly wanted: readonly Extent[];
  readonly asker: RangeAsker;
  readonly along: Along | undefined;
  /** Looks for a download that has begun since, or has come near, or whether the blob is stored by now. */
  readonly findWhole: () => Promise<Along | 'stored' | undefined>;
  /** Opens another reader of the same bytes after a failure for which `endsKeeping` is true. */
  readonly instead: (failure: unknown) => Promise<BlobReader>;
}

/**
 * Reads ranges of a blob: what is there, what others are requesting, what a Fill brings soon; and requests the rest. What
 * only this reader wants ends when it is closed.
 */
export class RangeReader implements BlobReader {
  readonly size: number;
  readonly #blob: PartialBlob;
  readonly #options: RangeReaderOptions;
  /** All that is wanted, whatever the order: a thousand ranges are looked through for each request of anybody. */
  readonly #wanted: Extents;
  /** The requests that it waits for, its own and others', with the way to give each up. */
  readonly #requests = new Map<RangeRequest, () => void>();
  readonly #changes = new Changes();
  readonly #closing = new AbortController();
  /** What is called in the end. */
  readonly #leaves: (() => void)[] = [];
  #along: Along | undefined;
  /** Which of the wanted extents is being read, and from where on. */
  #reading = { index: 0, position: 0 };
  #running = 0;
  #hasRequested = false;
  #failure: { readonly cause: unknown } | undefined;
  #instead: BlobReader | undefined;
  /** Set while another process brings what is read next. */
  #unfollow: (() => void) | undefined;

  constructor(options: RangeReaderOptions) {
    const { use, along } = options;
    this.#options = options;
    this.#blob = use.blob;
    this.#wanted = new Extents(options.wanted);
    this.size = use.blob.size;
    this.#leaves.push(
      () => use.leave(),
      use.blob.changes.listen(() => this.#changes.tell()),
    );
    if (along !== undefined) this.#join(along);
    this.#request();
  }

  /** Whether everything was there from the start, and if not, whether it took requests of its own. */
  get needs(): 'nothing' | 'others' | 'requests' {
    if (this.#hasRequested) return 'requests';
    const isThere = this.#options.wanted.every(({ start, end }) => (this.#thereFrom(start) ?? 0) >= end);
    return isThere ? 'nothing' : 'others';
  }

  /** Resolves when the first byte is there; rejects with the failure of the request for it. */
  begin(): Promise<unknown> {
    return this.#thereBehind(this.#options.wanted[0]?.start ?? 0);
  }

  /** Only what was wanted. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    if (position >= this.size) return 0;
    if (this.#instead !== undefined) return this.#instead.read(buffer, position);
    try {
      return await this.#read(buffer, position);
    } catch (failure) {
      if (!endsKeeping(failure)) throw this.#clientErrorOf(failure);
      this.#instead = await this.#options.instead(failure);
      if (this.#closing.signal.aborted) await this.#instead.close();
      return this.#instead.read(buffer, position);
    }
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(new Error('the reader was closed'));
    this.#unfollow?.();
    for (const leave of [...this.#requests.values(), ...this.#leaves.toReversed()]) leave();
    await this.#instead?.close();
  }

  async #read(buffer: Uint8Array, position: number): Promise<number> {
    this.#noteReading(position);
    for (;;) {
      const end = await this.#thereBehind(position);
      const part = buffer.subarray(0, end - position);
      const count = await this.#blob.read(part, position);
      if (count > 0) return count;
      if ((this.#fill?.readable ?? 0) > position) return this.#fill?.read(part, position) ?? 0;
    }
  }

  /** The end of what is there from `position` on, as soon as that is something. */
  async #thereBehind(position: number): Promise<number> {
    if ((this.#wanted.next(position)?.start ?? this.size) > position)
      throw new Error(`internal error: byte ${position} was read, which is in no requested range`);
    const found = this.#changes.until(() => {
      if (this.#blob.failure !== undefined) throw this.#blob.failure;
      const end = this.#thereFrom(position);
      if (end !== undefined) return end;
      if (this.#fill?.state === 'verified')
        throw new RangesUnusable('the blob is smaller than its manifest says');
      if (this.#blob.isComing(position)) this.#unfollow ??= this.#blob.follow();
      // What another process had saved, or was requesting, may be gone.
      if (this.#requests.size === 0) this.#request();
      if (this.#failure !== undefined) throw this.#failure.cause;
      return undefined;
    }, this.#closing.signal);
    return found.finally(() => {
      this.#unfollow?.();
      this.#unfollow = undefined;
    });
  }

  /** What was read before is not wanted any more, unless it is read again. */
  #noteReading(position: number): void {
    const { wanted } = this.#options;
    const index = wanted.findIndex(
      ({ start, end }, at) => at >= this.#reading.index && start <= position && position < end,
    );
    this.#reading = index === -1 ? { index: 0, position: 0 } : { index, position };
  }

  /** The end of what is there at `position`; `undefined` if nothing is. */
  #thereFrom(position: number): number | undefined {
    const part = this.#blob.next(position);
    if (part !== undefined && part.start <= position) return part.end;
    const readable = this.#fill?.readable ?? 0;
    return readable > position ? readable : undefined;
  }

  /** Joins what others are requesting, and requests what nobody brings, a few ranges at a time. */
  #request(): void {
    const { wanted, asker } = this.#options;
    const isWanted = ({ extent, reach }: RangeRequest): boolean =>
      (this.#wanted.next(extent.start)?.start ?? reach) < reach;
    for (const request of this.#blob.requests) {
      if (!this.#requests.has(request) && isWanted(request)) void this.#await(request);
    }
    while (this.#running < MAX_REQUESTS && this.#failure === undefined) {
      const { index, position } = this.#reading;
      const reach = this.#reachIn(NEAR_MS);
      const ahead = wanted.slice(index).map(({ start, end }, at) => ({
        start: Math.max(start, reach, at === 0 ? position : 0),
        end,
      }));
      // Where the reach cuts a range is a guess, and soon another: what is left of it has to be worth a request.
      const isScrap = ({ start, end }: Extent): boolean =>
        reach > 0 && start === reach && end - start < NEAR_BYTES;
      const next = planRanges(ahead, this.#blob.knownSoon).find(range => !isScrap(range));
      if (next === undefined) return;
      this.#hasRequested = true;
      void this.#awaitOwn(
        this.#blob.request(next, asker, { isOvertaken: () => this.#isOvertaken(next.start) }),
      );
    }
  }

  async #isOvertaken(position: number): Promise<boolean> {
    await this.#lookForWhole();
    return this.#failure !== undefined || position < this.#reachIn(TOO_NEAR_MS);
  }

  async #lookForWhole(): Promise<void> {
    // One that has failed, or has stalled elsewhere, would be found again.
    if (this.#along !== undefined) return;
    const found = await this.#options.findWhole().catch((cause: unknown) => {
      this.#failure ??= { cause };
      return undefined;
    });
    if (found === 'stored')
      this.#failure ??= { cause: new RangesUnusable('the whole blob is stored by now') };
    else if (this.#closing.signal.aborted) found?.leave();
    else if (found !== undefined) this.#join(found);
  }

  #join(along: Along): void {
    this.#along = along;
    this.#leaves.push(
      () => along.leave(),
      along.fill.changes.listen(() => this.#fillChanged(along.fill)),
    );
  }

  async #awaitOwn(request: RangeRequest): Promise<void> {
    this.#running += 1;
    await this.#await(request, () => {
      this.#running -= 1;
      this.#failure ??= request.failure;
    });
  }

  /** Wants the bytes of a request until it has ended. `onEnd` is called then. */
  async #await(request: RangeRequest, onEnd: () => void = () => {}): Promise<void> {
    this.#requests.set(request, request.want());
    await request.done;
    this.#requests.delete(request);
    onEnd();
    if (request.isLeft) await this.#lookForWhole();
    // What is wrong with the blob or the disk, rather than with a credential, is so for everybody.
    if (endsKeeping(request.failure?.cause)) this.#failure ??= request.failure;
    if (this.#closing.signal.aborted) return;
    this.#request();
    this.#changes.tell();
  }

  /** Up to where the Fill will be in `ms`: requesting what it will have in a moment would not be faster. */
  #reachIn(ms: number): number {
    const fill = this.#fill;
    if (fill === undefined || fill.state === 'queued') return 0;
    return fill.length + Math.ceil(Math.max(NEAR_BYTES / NEAR_MS, fill.bytesPerSecond / 1000) * ms);
  }

  get #fill(): Fill | undefined {
    const fill = this.#along?.fill;
    return fill?.state === 'failed' ? undefined : fill;
  }

  #clientErrorOf(failure: unknown): unknown {
    if (!(failure instanceof UpstreamFailure)) return failure;
    return ociErrorOf(failure, 'BLOB_UNKNOWN', this.#options.asker.repository.upstream);
  }

  #fillChanged({ state }: Fill): void {
    if (state === 'failed') this.#request();
    this.#changes.tell();
  }
}

/** Whether ranges of the blob can no longer be had or kept, so that all who read them need another reader. */
export function endsKeeping(failure: unknown): boolean {
  return failure instanceof RangesUnusable || failure instanceof LeaseLost || isStorageClosed(failure);
}
