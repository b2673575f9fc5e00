import type { Extent } from '../../lib/extents.ts';
import type { Log } from '../../lib/log.ts';
import type { UpstreamRequests } from '../upstream-requests.ts';
import type { ConnectionTrials } from './connection-trials.ts';
import { type Fill, wrongBytes } from './fill.ts';
import type { FillSharing } from './fill-sharing.ts';
import type { PartialBlob } from './partial-blob.ts';
import type { Partials, PartialUse } from './partials.ts';
import { NEAR_MS } from './range-reader.ts';
import { RangesUnusable } from './range-request.ts';

/** A piece of at most this size is never left out of a request: it costs less than another request. */
const MIN_LEFT_OUT_BYTES = 16 * 1024;
/**
 * Up to this size, a piece must also be a thousandth of the blob, since requests are made one after the other. Lazy
 * clients request 50 KB and more at once.
 */
const MAX_LEFT_OUT_BYTES = 32 * 1024;
const LEFT_OUT_SHARE = 1 / 1_000;
const COPY_BYTES = 1024 * 1024;
/** How often it is looked whether other processes have begun to bring some: they leave what the Fill has within this time to it. */
const LOOK_EACH_MS = NEAR_MS / 2;

/** Where a Fill is written, and read meanwhile. */
export interface FillWriter {
  /** How much is written. */
  readonly length: number;
  /** Resolves when the bytes are written, and their memory may be used for something else. One call at a time. */
  add(bytes: Uint8Array): Promise<void>;
}

export interface FillPiecesOptions {
  readonly fill: Fill;
  readonly sharing: FillSharing;
  readonly partials: Partials;
  readonly trials: ConnectionTrials;
  readonly asking: UpstreamRequests;
  readonly log: Log;
}

/**
 * The pieces of a Fill's blob that were requested as ranges, before it or meanwhile, for those who may read what its
 * starter may. The Fill copies each when it comes to it, and only downloads the rest.
 */
export class FillPieces {
  readonly #options: FillPiecesOptions;
  readonly #key: string;
  #use: PartialUse | undefined;
  #hasCopied = false;
  #hasOpened = false;
  #isOver = false;
  #buffer: Uint8Array | undefined;
  #lookedAtMs = Number.NEGATIVE_INFINITY;
  #looking: Promise<void> | undefined;

  constructor(options: FillPiecesOptions) {
    this.#options = options;
    this.#key = options.partials.keyOf(options.sharing.starter, options.fill.digest);
  }

  /** Looks for what earlier requests have left. Call it when a run begins, or continues after an `end`. */
  async find(): Promise<void> {
    const { fill, sharing, partials } = this.#options;
    this.#isOver = false;
    this.#lookedAtMs = this.#nowMs;
    if (!sharing.mayTakePieces) return;
    if (this.#use === undefined) this.#take(await partials.find(sharing.starter, fill.digest));
    await this.#use?.blob.othersSaved();
  }

  /** Looks for what other processes have begun to bring since, unless it did a moment ago. Never rejects. */
  look(): Promise<void> {
    this.#looking ??= this.#look()
      .catch((error: unknown) => {
        this.#options.log.debug({ err: error }, 'parts of a blob were not looked for');
      })
      .finally(() => {
        this.#looking = undefined;
      });
    return this.#looking;
  }

  /** Whether upstream may be asked for pieces: not if it is known to ignore ranges. */
  get mayBeRequested(): boolean {
    const { fill, sharing, partials } = this.#options;
    return !partials.ignoresRanges(sharing.starter.repository.upstream, fill.digest);
  }

  /** Opens what keeps pieces, even if there are none yet; `undefined` if none can be kept. */
  async open(): Promise<PartialBlob | undefined> {
    const { fill, sharing, partials } = this.#options;
    if (this.blob === undefined && fill.size !== undefined && sharing.mayTakePieces) {
      const use = await partials.openIfRoom(sharing.starter, fill.digest, fill.size);
      this.#hasOpened = use !== undefined;
      this.#take(use);
    }
    return this.blob;
  }

  /** The pieces from `position` on that are worth being left out of a request, in ascending order. */
  *worthLeavingOut(position: number): Iterable<Extent> {
    const { blob } = this;
    for (let piece = blob?.next(position); piece !== undefined; piece = blob?.next(piece.end)) {
      const extent = { start: Math.max(piece.start, position), end: piece.end };
      if (this.isWorthLeavingOut(extent)) yield extent;
    }
  }

  /** How many bytes are there behind the one at `position`, which is missing. */
  bytesBehind(position: number): number {
    const blob = this.#use?.blob;
    if (blob === undefined || blob.isOver || position >= blob.size) return 0;
    const missing = blob.missing({ start: position, end: blob.size });
    return missing.reduce((rest, { start, end }) => rest - (end - start), blob.size - position);
  }

  /** Whether it costs more to download these bytes again than to request what is after them by itself. */
  isWorthLeavingOut({ start, end }: Extent): boolean {
    const shareBytes = (this.blob?.size ?? 0) * LEFT_OUT_SHARE;
    return end - start > Math.min(Math.max(shareBytes, MIN_LEFT_OUT_BYTES), MAX_LEFT_OUT_BYTES);
  }

  /**
   * Copies the pieces that are there at the end of what is written, up to `end` at most. True if that is the end of the blob,
   * too.
   */
  async copyTo(
    writer: FillWriter,
    admit: (bytes: number) => Promise<void>,
    end = Number.POSITIVE_INFINITY,
  ): Promise<boolean> {
    const { fill, sharing } = this.#options;
    const { blob } = this;
    if (blob === undefined) return false;
    const restBytes = () => Math.max(0, Math.min(blob.size, end) - writer.length);
    const buffer = (this.#buffer ??= new Uint8Array(Math.min(COPY_BYTES, blob.size)));
    for (;;) {
      const count = await blob.read(buffer.subarray(0, restBytes()), writer.length).catch(this.#unread);
      if (count === 0) return writer.length === blob.size;
      if (fill.size === undefined) fill.learnSize(blob.size);
      this.#hasCopied = true;
      sharing.copied(writer.length);
      await admit(count);
      fill.noteCopied(count);
      await writer.add(buffer.subarray(0, count));
    }
  }

  /** Nothing, if pieces cannot be read any more: they are downloaded again. */
  readonly #unread = (failure: unknown): number => {
    if (!(failure instanceof RangesUnusable)) throw failure;
    this.#leave();
    return 0;
  };

  /** The Fill's bytes are not the blob: if any are of the pieces, these may be to blame. True if so; they are discarded. */
  discard(): boolean {
    if (!this.#hasCopied) return false;
    this.distrust();
    // They may have come over several connections.
    this.#options.trials.refuse();
    this.#hasCopied = false;
    return true;
  }

  /** The pieces are wrong: they are discarded. */
  distrust(): void {
    this.#use?.blob.fail(wrongBytes(this.#options.fill.digest));
  }

  /** There is no room for the Fill, nor for pieces that were only there for it. */
  drop(): void {
    if (this.#hasOpened) this.obsolete();
  }

  /** The whole blob is stored: nobody needs its pieces. */
  obsolete(): void {
    this.#use?.blob.obsolete();
  }

  /** Nobody needs the pieces any more. */
  end(): void {
    this.#isOver = true;
    this.#leave();
  }

  /** Keeps the first use: the pieces may have been found twice at the same time. */
  #take(use: PartialUse | undefined): void {
    if (this.#use === undefined) this.#use = use;
    else use?.leave();
  }

  #leave(): void {
    this.#use?.leave();
    this.#use = undefined;
  }

  get #nowMs(): number {
    return this.#options.asking.clock.monotonicMs();
  }

  async #look(): Promise<void> {
    const { fill, sharing, partials } = this.#options;
    if (this.#nowMs - this.#lookedAtMs < LOOK_EACH_MS) return;
    this.#lookedAtMs = this.#nowMs;
    const { blob } = this;
    if (blob !== undefined) return blob.look();
    if (fill.size === undefined || !sharing.mayTakePieces) return;
    const use = await partials.openIfElsewhere(sharing.starter, fill.digest, fill.size);
    if (this.#isOver) use?.leave();
    else this.#take(use);
  }

  /** What keeps the pieces; `undefined` if there are none that the Fill may have. */
  get blob(): PartialBlob | undefined {
    const { fill, sharing, partials } = this.#options;
    if (this.#use?.blob.isOver === true) this.#leave();
    if (!sharing.mayTakePieces) return undefined;
    this.#use ??= partials.peek(this.#key);
    const size = fill.size ?? sharing.agreedSize ?? this.#use?.blob.size;
    return this.#use?.blob.size === size ? this.#use?.blob : undefined;
  }
}
