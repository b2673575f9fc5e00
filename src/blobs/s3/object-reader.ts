import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../../lib/backoff.ts';
import type { BlobReader } from '../../lib/blob-reader.ts';
import type { HttpResponse } from '../../lib/http-message.ts';
import { type Bucket, isTransient } from './bucket.ts';
import type { ByteSpan } from './payload.ts';
import { S3Failure } from './s3-failure.ts';

/** How much the first request asks for: some clients want a few KiB, and what is not read costs a connection. */
const FIRST_SPAN_BYTES = 1024 * 1024;
/** A reader that goes on gets more with each request, so that their number does not matter. */
const SPAN_GROWTH = 8;
const MAX_SPAN_BYTES = 64 * 1024 * 1024;
/** How often a broken body is continued without a byte in between. */
const MAX_FAILURES = 5;
const BACKOFF = { firstMs: 50, maxMs: 2_000 };

export interface ObjectReaderParts {
  readonly bucket: Pick<Bucket, 'get'>;
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  readonly shares: object;
  readonly url: (() => Promise<string>) | undefined;
  /** The error that the caller of `read` gets for an S3Failure. */
  readonly failed: (failure: S3Failure) => Error;
  /** Called when the reader is closed. */
  readonly left: () => void;
}

/**
 * Reads an object by ranged requests, one at a time. One that breaks is continued from where it was; closing the reader
 * ends it.
 */
export class ObjectReader implements BlobReader {
  readonly size: number;
  readonly shares: object;
  readonly url: (() => Promise<string>) | undefined;
  readonly #parts: ObjectReaderParts;
  readonly #closing = new AbortController();
  /** One read after the other: they share the body. */
  #turn: Promise<unknown> = Promise.resolve();
  /** The position after the last byte that was read. */
  #at = 0;
  #spanBytes = FIRST_SPAN_BYTES;
  #body: Body | undefined;

  constructor(parts: ObjectReaderParts) {
    this.#parts = parts;
    this.size = parts.size;
    this.shares = parts.shares;
    this.url = parts.url;
  }

  read(buffer: Uint8Array, position: number): Promise<number> {
    const reading = this.#turn.then(() => this.#read(buffer, position));
    this.#turn = reading.catch(() => {});
    return reading;
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort(closed());
    this.#leaveBody();
    this.#parts.left();
  }

  async #read(buffer: Uint8Array, position: number): Promise<number> {
    const { signal } = this.#closing;
    if (signal.aborted) throw closed();
    if (position >= this.size || buffer.byteLength === 0) return 0;
    if (position !== this.#at) {
      this.#leaveBody();
      this.#at = position;
      this.#spanBytes = FIRST_SPAN_BYTES;
    }
    for (let failures = 1; ; failures++) {
      try {
        this.#body ??= await this.#openBody();
        const count = await this.#body.take(buffer);
        this.#at += count;
        if (this.#body.isRead) this.#body = undefined;
        return count;
      } catch (error) {
        this.#leaveBody();
        if (signal.aborted) throw closed();
        if (!(error instanceof S3Failure)) throw error;
        if (!isTransient(error) || failures === MAX_FAILURES) throw this.#parts.failed(error);
        await sleep(jittered(backoffMs(BACKOFF, failures), 0.5), undefined, { signal }).catch(() => {});
      }
    }
  }

  async #openBody(): Promise<Body> {
    const { bucket, key } = this.#parts;
    const span = { start: this.#at, end: Math.min(this.#at + this.#spanBytes, this.size) };
    this.#spanBytes = Math.min(this.#spanBytes * SPAN_GROWTH, MAX_SPAN_BYTES);
    const response = await bucket.get(key, span, this.#closing.signal);
    if (response === undefined) throw new S3Failure(`${key} was removed while it was read`, { status: 404 });
    return new Body(response, span);
  }

  #leaveBody(): void {
    this.#body?.leave();
    this.#body = undefined;
  }
}

/** The body of an answer with the bytes of a span. */
class Body {
  readonly #body: Readable;
  readonly #pieces: AsyncIterator<Uint8Array>;
  readonly #release: NonNullable<HttpResponse['release']>;
  /** How much has not arrived yet. */
  #missing: number;
  #piece: Uint8Array | undefined;
  #taken = 0;

  constructor({ body, release }: HttpResponse, { start, end }: ByteSpan) {
    this.#body = body;
    // Without somebody who listens, an error after `leave` would be nobody's.
    body.on('error', () => {});
    this.#pieces = body[Symbol.asyncIterator]();
    this.#release = release ?? (() => {});
    this.#missing = end - start;
  }

  get isRead(): boolean {
    return this.#missing === 0 && this.#piece === undefined;
  }

  /** Copies at least one byte, and returns how many. Throws an S3Failure if they do not come. */
  async take(buffer: Uint8Array): Promise<number> {
    const piece = (this.#piece ??= await this.#next());
    const bytes = piece.subarray(this.#taken, this.#taken + buffer.byteLength);
    buffer.set(bytes);
    this.#taken += bytes.byteLength;
    if (this.#taken === piece.byteLength) {
      this.#piece = undefined;
      this.#taken = 0;
      this.#release(piece);
    }
    return bytes.byteLength;
  }

  leave(): void {
    this.#body.destroy();
  }

  async #next(): Promise<Uint8Array> {
    const piece = await this.#arrival();
    if (piece === undefined) throw new S3Failure('S3 sent fewer bytes than announced');
    this.#missing -= piece.byteLength;
    // Once its end is read, too, the connection can be used again.
    if (this.#missing < 0 || (this.#missing === 0 && (await this.#arrival()) !== undefined)) {
      throw new S3Failure('S3 sent more bytes than announced');
    }
    return piece;
  }

  /** The next piece; `undefined` at the end. */
  async #arrival(): Promise<Uint8Array | undefined> {
    try {
      const { value, done } = await this.#pieces.next();
      return done === true ? undefined : value;
    } catch (error) {
      throw new S3Failure(error instanceof Error ? error.message : String(error), { cause: error });
    }
  }
}

function closed(): Error {
  return new Error('the reader is closed');
}
