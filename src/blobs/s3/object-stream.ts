import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../../lib/backoff.ts';
import type { HttpResponse } from '../../lib/http-message.ts';
import { type Bucket, isTransient } from './bucket.ts';
import type { ByteSpan } from './payload.ts';
import { S3Failure } from './s3-failure.ts';

/** How often a broken body is continued without a byte in between. */
const MAX_FAILURES = 5;
const BACKOFF = { firstMs: 50, maxMs: 2_000 };

/** An object that is read, as far as its row says what it is. */
export interface StoredObject {
  readonly bucket: Pick<Bucket, 'get'>;
  readonly key: string;
  /** Bytes. */
  readonly size: number;
}

/**
 * The bytes of a span of an object, in order, by one request. If its body breaks, another one continues where it was.
 * Methods reject with an S3Failure, or with the reason of the signal; they are called one after the other.
 */
export class ObjectStream {
  readonly #object: StoredObject;
  #end: number;
  readonly #signal: AbortSignal;
  #at: number;
  #body: Body | undefined;
  #failures = 0;
  #piece: Uint8Array | undefined;
  #taken = 0;
  #isLeft = false;

  constructor(object: StoredObject, { start, end }: ByteSpan, signal: AbortSignal) {
    this.#object = object;
    this.#at = start;
    this.#end = end;
    this.#signal = signal;
  }

  /** Sends the request; false if there is no such object, or it has another size. */
  async begin(): Promise<boolean> {
    this.#body = await this.#request();
    return this.#body !== undefined;
  }

  /** The next piece, for a caller that releases it; `undefined` at the end. */
  async next(): Promise<Uint8Array | undefined> {
    while (this.#at < this.#end) {
      try {
        const piece = await (this.#body ??= await this.#requireBody()).next();
        const missing = this.#end - this.#at;
        this.#at += piece.byteLength;
        this.#failures = 0;
        // If it is not the end of the body, too, nobody wants the rest.
        if (piece.byteLength >= missing) this.#body.leave();
        return piece.byteLength > missing ? piece.subarray(0, missing) : piece;
      } catch (error) {
        await this.#recover(error);
      }
    }
    return undefined;
  }

  /** Ends the span earlier, but behind all that `next` has returned. */
  endAt(end: number): void {
    this.#end = end;
  }

  /** Tells that a piece from `next` will not be looked at again. */
  release(piece: Uint8Array): void {
    this.#body?.release(piece);
  }

  /** Copies at least one byte, and returns how many; 0 at the end. */
  async take(buffer: Uint8Array): Promise<number> {
    const piece = (this.#piece ??= await this.next());
    if (piece === undefined) return 0;
    const bytes = piece.subarray(this.#taken, this.#taken + buffer.byteLength);
    buffer.set(bytes);
    this.#taken += bytes.byteLength;
    if (this.#taken === piece.byteLength) {
      this.#piece = undefined;
      this.#taken = 0;
      this.release(piece);
    }
    return bytes.byteLength;
  }

  /** Ends the request, also one that is not answered yet. Nothing is read afterwards. */
  leave(): void {
    this.#isLeft = true;
    this.#leaveBody();
  }

  async #request(): Promise<Body | undefined> {
    const { bucket, key, size } = this.#object;
    const span = { start: this.#at, end: this.#end };
    const response = await bucket.get(key, span, { size, signal: this.#signal });
    const body = response && new Body(response, span);
    if (!this.#isLeft) return body;
    body?.leave();
    throw new Error('nobody reads the object any more');
  }

  #leaveBody(): void {
    this.#body?.leave();
    this.#body = undefined;
  }

  async #requireBody(): Promise<Body> {
    const body = await this.#request();
    if (body !== undefined) return body;
    throw new S3Failure(`${this.#object.key} was removed while it was read`, { status: 404 });
  }

  async #recover(error: unknown): Promise<void> {
    this.#leaveBody();
    this.#signal.throwIfAborted();
    this.#failures += 1;
    if (!(error instanceof S3Failure) || !isTransient(error) || this.#failures === MAX_FAILURES) throw error;
    await sleep(jittered(backoffMs(BACKOFF, this.#failures), 0.5), undefined, { signal: this.#signal });
  }
}

/** The body of an answer with the bytes of a span. */
class Body {
  readonly #body: Readable;
  readonly #pieces: AsyncIterator<Uint8Array>;
  readonly #release: NonNullable<HttpResponse['release']>;
  /** How much has not arrived yet. */
  #missing: number;

  constructor({ body, release }: HttpResponse, { start, end }: ByteSpan) {
    this.#body = body;
    // Without somebody who listens, an error after `leave` would be nobody's.
    body.on('error', () => {});
    this.#pieces = body[Symbol.asyncIterator]();
    this.#release = release ?? (() => {});
    this.#missing = end - start;
  }

  /** The next piece. Throws an S3Failure if it does not come. */
  async next(): Promise<Uint8Array> {
    const piece = await this.#arrival();
    if (piece === undefined) throw new S3Failure('S3 sent fewer bytes than announced');
    this.#missing -= piece.byteLength;
    // Once its end is read, too, the connection can be used again.
    if (this.#missing < 0 || (this.#missing === 0 && (await this.#arrival()) !== undefined)) {
      throw new S3Failure('S3 sent more bytes than announced');
    }
    return piece;
  }

  release(piece: Uint8Array): void {
    this.#release(piece);
  }

  leave(): void {
    this.#body.destroy();
  }

  async #arrival(): Promise<Uint8Array | undefined> {
    try {
      const { value, done } = await this.#pieces.next();
      return done === true ? undefined : value;
    } catch (error) {
      throw new S3Failure(error instanceof Error ? error.message : String(error), { cause: error });
    }
  }
}
