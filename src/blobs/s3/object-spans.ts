import { ObjectStream, type StoredObject } from './object-stream.ts';
import type { ByteSpan } from './payload.ts';

const MIB = 1024 * 1024;
/** Asked for by one request: much more than arrives until the next one is answered, and so little that it can wait in memory. */
const SPAN_BYTES = 8 * MIB;
/** So much of the first span tells whether it comes slowly: further requests are answered while its rest comes. */
const JUDGED_SHARE = 0.5;
/** A connection to S3 brings some 90 MB/s: four fill a line of 3 Gbit/s. */
const MAX_AT_ONCE = 4;
/** A connection that is faster, as to an S3 nearby, is not what limits: others would only take memory. */
const FAST_BYTES_PER_S = 250e6;
/** With all that they may have received, 48 MiB. */
const MAX_FURTHER = 6;

/** The requests that all transfers of a process may have beyond their first ones: what these bring waits in memory for its turn. */
export class FurtherRequests {
  #free: number;

  constructor(max = MAX_FURTHER) {
    this.#free = max;
  }

  get areFree(): boolean {
    return this.#free > 0;
  }

  /** False, without taking one, if none is free. */
  take(): boolean {
    if (this.#free === 0) return false;
    this.#free -= 1;
    return true;
  }

  give(count: number): void {
    this.#free += count;
  }
}

export interface ObjectSpansOptions {
  readonly further: FurtherRequests;
  readonly signal: AbortSignal;
  /** Default: SPAN_BYTES. */
  readonly spanBytes?: number;
  /** Default: FAST_BYTES_PER_S. */
  readonly fastBytesPerS?: number;
}

/**
 * The bytes of an object, in order, as from an ObjectStream. The first request is for all of them. If they come slowly, it
 * ends with the first span, and the others are asked for by several requests at a time, since S3 limits the rate of a connection.
 */
export class ObjectSpans {
  readonly #object: StoredObject;
  readonly #further: FurtherRequests;
  readonly #signal: AbortSignal;
  readonly #spanBytes: number;
  readonly #fastBytesPerS: number;
  /** What has come by the first request before that was judged, and how long it took: the caller may be slower. */
  #come: { readonly bytes: number; readonly ms: number } | undefined = { bytes: 0, ms: 0 };
  /** In order. The first one has its turn; for each of the others, a further request is taken. */
  #spans: Span[] = [];
  /** Where the next one begins. */
  #at = 0;
  readonly #from = new Map<Uint8Array, Span>();

  constructor(
    object: StoredObject,
    { further, signal, spanBytes = SPAN_BYTES, fastBytesPerS = FAST_BYTES_PER_S }: ObjectSpansOptions,
  ) {
    this.#fastBytesPerS = fastBytesPerS;
    this.#object = object;
    this.#further = further;
    this.#signal = signal;
    this.#spanBytes = spanBytes;
  }

  /** Sends the first request; false if there is no such object, or it has another size. */
  begin(): Promise<boolean> {
    return this.#open(this.#object.size).begin();
  }

  /** The next piece, for a caller that releases it; `undefined` at the end. */
  async next(): Promise<Uint8Array | undefined> {
    for (let [first] = this.#spans; first !== undefined; [first] = this.#spans) {
      const askedAtMs = performance.now();
      const piece = await first.next();
      if (piece !== undefined) {
        this.#from.set(piece, first);
        this.#judge(first, piece.byteLength, performance.now() - askedAtMs);
        return piece;
      }
      this.#spans.shift();
      if (this.#spans.length > 0) this.#further.give(1);
      this.#openMore();
    }
    return undefined;
  }

  /** Tells that a piece from `next` will not be looked at again. */
  release(piece: Uint8Array): void {
    this.#from.get(piece)?.release(piece);
    this.#from.delete(piece);
  }

  /** Ends the requests. */
  leave(): void {
    for (const span of this.#spans) span.leave();
    this.#further.give(Math.max(0, this.#spans.length - 1));
    this.#spans = [];
    this.#at = this.#object.size;
  }

  /** Counts what has come by the first request; once that is enough to tell that it is slow, has others bring the rest. */
  #judge(first: Span, bytes: number, ms: number): void {
    if (this.#come === undefined) return;
    const come = { bytes: this.#come.bytes + bytes, ms: this.#come.ms + ms };
    this.#come = come;
    if (come.bytes < this.#spanBytes * JUDGED_SHARE) return;
    this.#come = undefined;
    if ((come.bytes * 1000) / come.ms >= this.#fastBytesPerS || !this.#further.areFree) return;
    const end = this.#endOfSpan(come.bytes);
    if (end === this.#object.size) return;
    first.endAt(end);
    this.#at = end;
    this.#openMore();
  }

  #openMore(): void {
    const { size } = this.#object;
    if (this.#spans.length === 0 && this.#at < size)
      this.#open(this.#further.areFree ? this.#endOfSpan(this.#at) : size);
    while (this.#spans.length < MAX_AT_ONCE && this.#at < size && this.#further.take()) {
      this.#open(this.#endOfSpan(this.#at)).readAhead();
    }
  }

  /** The end of the span that has the byte at `position`. The last one is longer, rather than followed by a short one. */
  #endOfSpan(position: number): number {
    const { size } = this.#object;
    const start = position - (position % this.#spanBytes);
    return size - start < 2 * this.#spanBytes ? size : start + this.#spanBytes;
  }

  /** The next span. */
  #open(end: number): Span {
    const span = new Span(this.#object, { start: this.#at, end }, this.#signal);
    this.#at = end;
    this.#spans.push(span);
    return span;
  }
}

/** What one request brings. Before its turn it is received as fast as it comes; then, as fast as it is read. */
class Span {
  readonly #stream: ObjectStream;
  readonly #pieces: Uint8Array[] = [];
  #isAhead = false;
  #receiving: Promise<void> | undefined;
  #isOver = false;
  #failure: { readonly cause: unknown } | undefined;

  constructor(object: StoredObject, span: ByteSpan, signal: AbortSignal) {
    this.#stream = new ObjectStream(object, span, signal);
  }

  begin(): Promise<boolean> {
    return this.#stream.begin();
  }

  readAhead(): void {
    this.#isAhead = true;
    void this.#receive();
  }

  async next(): Promise<Uint8Array | undefined> {
    this.#isAhead = false;
    while (this.#pieces.length === 0 && !this.#isOver) await this.#receive();
    const piece = this.#pieces.shift();
    if (piece === undefined && this.#failure !== undefined) throw this.#failure.cause;
    return piece;
  }

  /** As of an ObjectStream. */
  endAt(end: number): void {
    this.#stream.endAt(end);
  }

  release(piece: Uint8Array): void {
    this.#stream.release(piece);
  }

  leave(): void {
    this.#isOver = true;
    this.#stream.leave();
  }

  /** Resolves when there is another piece, or none will come; never rejects. */
  #receive(): Promise<void> {
    this.#receiving ??= this.#receiveOne();
    return this.#receiving;
  }

  async #receiveOne(): Promise<void> {
    try {
      const piece = await this.#stream.next();
      if (piece === undefined) this.#isOver = true;
      else this.#pieces.push(piece);
    } catch (cause) {
      this.#failure = { cause };
      this.#isOver = true;
    }
    this.#receiving = undefined;
    if (this.#isAhead && !this.#isOver) void this.#receive();
  }
}
