import type { OutgoingHttpHeaders } from 'node:http';
import { readerOfBytes } from '../lib/bytes-reader.ts';
import type { MemoryBudget, MemoryLease } from '../lib/memory-budget.ts';
import { refusingWhenBusy } from '../oci/busy.ts';
import type { Digest } from '../oci/digest.ts';
import { memoryHolder, type Requester } from '../oci/requester.ts';
import { answer } from './answer.ts';
import type { BodyWriter } from './body-writer.ts';
import type { Exchange } from './exchange.ts';

/** A smaller one goes to the kernel at once, for the most part. */
const SMALL_BYTES = 64 * 1024;

/** A body that is in memory as a whole. */
export interface WholeBody {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  readonly bytes: Uint8Array;
  /** Of what has one: many who are sent the same bytes then share them. */
  readonly digest?: Digest;
  readonly requester: Requester;
}

/** A document as the body of a 200. */
export function jsonBody(headers: OutgoingHttpHeaders, document: unknown, requester: Requester): WholeBody {
  headers['Content-Type'] ??= 'application/json; charset=utf-8';
  return { status: 200, headers, bytes: Buffer.from(JSON.stringify(document)), requester };
}

interface Shared {
  readonly bytes: Uint8Array;
  readonly lease: MemoryLease;
  senders: number;
}

/**
 * Answers whose body is in memory until its client has read it, which may be never. Large ones take of the memory budget
 * and go out in pages like a blob's, so that a slow client costs no second copy.
 */
export class WholeBodies {
  readonly #memory: MemoryBudget;
  readonly #writer: BodyWriter;
  readonly #shared = new Map<Digest, Shared>();

  constructor(memory: MemoryBudget, writer: BodyWriter) {
    this.#memory = memory;
    this.#writer = writer;
  }

  /** TOOMANYREQUESTS or UNAVAILABLE when there is no memory for another body. */
  async send(exchange: Exchange, { status, headers, bytes, digest, requester }: WholeBody): Promise<void> {
    if (exchange.bodyless || bytes.byteLength <= SMALL_BYTES) {
      answer(exchange, status, headers, bytes);
      return;
    }
    const body = await refusingWhenBusy(() => this.#hold(bytes, digest, requester));
    try {
      const reader = { ...readerOfBytes(body.bytes), shares: body };
      await this.#writer.write(exchange, { status, headers, reader, start: 0, length: reader.size });
    } finally {
      this.#leave(body, digest);
    }
  }

  /** Bytes of a digest that is being sent already are dropped for those that are in memory. */
  #hold(bytes: Uint8Array, digest: Digest | undefined, requester: Requester): Shared {
    const shared = digest && this.#shared.get(digest);
    if (shared !== undefined) {
      shared.senders += 1;
      return shared;
    }
    const lease = this.#memory.leaseNow(memoryHolder(requester), bytes.byteLength);
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
