import type { BlobReader } from '../../lib/blob-reader.ts';
import type { Extent } from '../../lib/extents.ts';
import { ObjectStream, type StoredObject } from './object-stream.ts';
import { S3Failure } from './s3-failure.ts';

/** How much a request asks for if it is not known how much will be read: some clients want a few KiB. */
const FIRST_SPAN_BYTES = 1024 * 1024;
/** A reader that continues gets more with each request, so that their number does not matter. */
const SPAN_GROWTH = 8;
const MAX_SPAN_BYTES = 64 * 1024 * 1024;

export interface ObjectReaderParts extends StoredObject {
  /** What will be read, in that order, as far as that is known. */
  readonly wanted?: readonly Extent[] | undefined;
  readonly shares: object;
  readonly url?: (() => Promise<string>) | undefined;
  /** The error that the caller of `read` gets for an S3Failure. */
  readonly failed: (failure: S3Failure) => Error;
  /** Called when the reader is closed. */
  readonly left: () => void;
}

/** Reads an object by ranged requests, one at a time. Closing the reader ends the one that is running. */
export class ObjectReader implements BlobReader {
  readonly size: number;
  readonly origin: string;
  readonly shares: object;
  readonly url: (() => Promise<string>) | undefined;
  readonly #parts: ObjectReaderParts;
  readonly #closing = new AbortController();
  /** One read after the other: they share the stream. */
  #turn: Promise<unknown> = Promise.resolve();
  /** The position after the last byte that was read. */
  #at = 0;
  #spanBytes = FIRST_SPAN_BYTES;
  #stream: ObjectStream | undefined;

  constructor(parts: ObjectReaderParts) {
    this.#parts = parts;
    this.size = parts.size;
    this.origin = parts.key;
    this.shares = parts.shares;
    this.url = parts.url;
  }

  /**
   * Sends the request for the first wanted bytes; false if there is no such object. Optional: the first read does so, and
   * takes a missing object for an error.
   */
  async begin(): Promise<boolean> {
    this.#at = this.#parts.wanted?.[0]?.start ?? 0;
    const stream = this.#streamFrom(this.#at);
    try {
      if (!(await stream.begin())) return false;
      this.#stream = stream;
      return true;
    } catch (error) {
      throw error instanceof S3Failure ? this.#parts.failed(error) : error;
    }
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    const reading = this.#turn.then(() => this.#read(buffer, position));
    this.#turn = reading.catch(() => {});
    return reading;
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(closed());
    this.#leaveStream();
    this.#parts.left();
  }

  async #read(buffer: Uint8Array, position: number): Promise<number> {
    if (this.#closing.signal.aborted) throw closed();
    if (position >= this.size || buffer.byteLength === 0) return 0;
    if (position !== this.#at) {
      this.#leaveStream();
      this.#at = position;
      this.#spanBytes = FIRST_SPAN_BYTES;
    }
    try {
      return await this.#take(buffer);
    } catch (error) {
      this.#leaveStream();
      if (this.#closing.signal.aborted) throw closed();
      throw error instanceof S3Failure ? this.#parts.failed(error) : error;
    }
  }

  async #take(buffer: Uint8Array): Promise<number> {
    const count = (await this.#stream?.take(buffer)) ?? 0;
    if (count > 0) {
      this.#at += count;
      return count;
    }
    this.#stream = this.#streamFrom(this.#at);
    return this.#take(buffer);
  }

  #streamFrom(start: number): ObjectStream {
    const { wanted } = this.#parts;
    const known = wanted?.find(extent => extent.start <= start && start < extent.end)?.end;
    const end = known ?? Math.min(start + this.#spanBytes, this.size);
    if (known === undefined) this.#spanBytes = Math.min(this.#spanBytes * SPAN_GROWTH, MAX_SPAN_BYTES);
    return new ObjectStream(this.#parts, { start, end }, this.#closing.signal);
  }

  #leaveStream(): void {
    this.#stream?.leave();
    this.#stream = undefined;
  }
}

function closed(): Error {
  return new Error('the reader is closed');
}
