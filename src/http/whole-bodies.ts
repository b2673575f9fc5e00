import type { OutgoingHttpHeaders } from 'node:http';
import type { MemoryBudget, MemoryLease } from '../lib/memory-budget.ts';
import { refusingWhenBusy } from '../oci/busy.ts';
import type { Digest } from '../oci/digest.ts';
import { answer, withCommonHeaders } from './answer.ts';
import type { Exchange } from './exchange.ts';
import type { HttpLimits } from './limits.ts';

/** A smaller body usually goes to the kernel at once. */
const SMALL_BYTES = 64 * 1024;

/** How much is given to the kernel at a time, so that the client's pace can be measured. */
const SLICE_BYTES = 64 * 1024;

/** A body that is in memory as a whole. */
export interface WholeBody {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly bytes: Uint8Array;
  /** The part to send; all if absent. */
  readonly part?: { readonly start: number; readonly length: number } | undefined;
  /** The digest of all bytes, if known, by which equal bodies share their memory. */
  readonly digest?: Digest;
}

/** A body that is put together in memory, once there is some for it. */
export interface ComposedBody extends Pick<WholeBody, 'status' | 'headers'> {
  /** Bytes. */
  readonly length: number;
  readonly compose: () => Uint8Array;
}

/** A JSON document as the body of a 200. */
export function jsonBody(headers: OutgoingHttpHeaders, document: unknown): WholeBody {
  headers['Content-Type'] ??= 'application/json; charset=utf-8';
  return { status: 200, headers, bytes: Buffer.from(JSON.stringify(document)) };
}

/** A body without its bytes. */
interface Head extends Pick<WholeBody, 'status' | 'headers'> {
  readonly part: NonNullable<WholeBody['part']>;
  readonly digest: Digest | undefined;
}

interface Shared {
  readonly bytes: Uint8Array;
  readonly lease: MemoryLease;
  senders: number;
}

const SENT = Promise.resolve();

type Pace = Pick<HttpLimits, 'wholeBodyBytesPerS' | 'wholeBodyFreeMs'>;

/**
 * Sends responses whose body is in memory until the client has received it. Large ones count against their requester's
 * share of the memory budget, and a client that is too slow is disconnected.
 */
export class WholeBodies {
  readonly #memory: MemoryBudget;
  readonly #pace: Pace;
  readonly #shared = new Map<Digest, Shared>();

  constructor(memory: MemoryBudget, pace: Pace) {
    this.#memory = memory;
    this.#pace = pace;
  }

  /**
   * Throws TOOMANYREQUESTS or UNAVAILABLE if there is no memory for another body. Call it last and return its promise:
   * a function that awaits it keeps its own bytes in memory, although those of another sender are used.
   */
  send(exchange: Exchange, body: WholeBody): Promise<void> {
    const { status, headers, bytes, part } = body;
    const length = part?.length ?? bytes.byteLength;
    if (!exchange.bodyless && length > SMALL_BYTES) return this.#sendLarge(exchange, body);
    const isPart = part !== undefined && length < bytes.byteLength;
    answer(exchange, status, headers, isPart ? copyOf(bytes, part) : bytes);
    return SENT;
  }

  async #sendLarge(exchange: Exchange, body: WholeBody): Promise<void> {
    const { status, headers, bytes, digest } = body;
    const { start, length } = body.part ?? { start: 0, length: bytes.byteLength };
    headers['Content-Length'] = length;
    const shared = await refusingWhenBusy(() => this.#hold(exchange, bytes, digest));
    return this.#write(exchange, shared, { status, headers, part: { start, length }, digest });
  }

  /** As `send`, for bytes that nobody else sends. They are only put together if there is memory for them. */
  async sendComposed(exchange: Exchange, { status, headers, length, compose }: ComposedBody): Promise<void> {
    if (exchange.bodyless || length <= SMALL_BYTES) return answer(exchange, status, headers, compose());
    headers['Content-Length'] = length;
    const lease = await refusingWhenBusy(() => this.#memory.leaseNow(exchange.memoryHolder, length));
    const shared = { bytes: compose(), lease, senders: 1 };
    return this.#write(exchange, shared, { status, headers, part: { start: 0, length }, digest: undefined });
  }

  async #write(exchange: Exchange, shared: Shared, body: Head): Promise<void> {
    const { status, headers, part, digest } = body;
    const { start, length } = part;
    try {
      exchange.res.writeHead(status, withCommonHeaders(exchange, headers));
      exchange.noteByte();
      await write(exchange, shared.bytes.subarray(start, start + length), this.#pace);
    } finally {
      this.#leave(shared, digest);
    }
  }

  /** If bytes with this digest are being sent already, uses those. */
  #hold(exchange: Exchange, bytes: Uint8Array, digest: Digest | undefined): Shared {
    const shared = digest && this.#shared.get(digest);
    if (shared !== undefined) {
      shared.senders += 1;
      return shared;
    }
    const lease = this.#memory.leaseNow(exchange.memoryHolder, bytes.byteLength);
    const body = { bytes, lease, senders: 1 };
    if (digest !== undefined) this.#shared.set(digest, body);
    return body;
  }

  #leave(body: Shared, digest: Digest | undefined): void {
    body.senders -= 1;
    if (body.senders > 0) return;
    body.lease.release();
    if (digest !== undefined) this.#shared.delete(digest);
  }
}

/**
 * Writes the body after its headers; resolves when the kernel has the last byte or the client has disconnected. A
 * client that is slower than `pace` is disconnected.
 */
async function write(exchange: Exchange, bytes: Uint8Array, pace: Pace): Promise<void> {
  const { res } = exchange;
  const sinceMs = performance.now();
  const cut = (): void => {
    exchange.failure ??= new Error(`the client read fewer than ${pace.wholeBodyBytesPerS} bytes per second`);
    res.destroy();
  };
  for (let at = 0; at < bytes.byteLength && !res.destroyed; at += SLICE_BYTES) {
    const dueMs = pace.wholeBodyFreeMs + (at / pace.wholeBodyBytesPerS) * 1000;
    const timer = setTimeout(cut, Math.max(0, sinceMs + dueMs - performance.now()));
    const slice = bytes.subarray(at, at + SLICE_BYTES);
    await taken(exchange, slice);
    clearTimeout(timer);
  }
  if (!res.destroyed) res.end();
}

/** Resolves when the kernel has the bytes, or the client has disconnected. */
function taken(exchange: Exchange, bytes: Uint8Array): Promise<void> {
  const { res } = exchange;
  return new Promise(resolve => {
    res.once('close', resolve);
    res.write(bytes, error => {
      res.removeListener('close', resolve);
      exchange.noteWritten(bytes.byteLength, error);
      resolve();
    });
  });
}

/** A view would keep all bytes in memory, until a client that reads nothing has what is left of the part. */
function copyOf(bytes: Uint8Array, { start, length }: NonNullable<WholeBody['part']>): Uint8Array {
  // Not `slice`, which is a view if they are a Buffer.
  return new Uint8Array(bytes.subarray(start, start + length));
}
