import type { OutgoingHttpHeaders } from 'node:http';
import type { BlobReader } from '../lib/blob-reader.ts';
import type { Meter } from '../lib/meter.ts';
import { withCommonHeaders } from './answer.ts';
import type { BodyMemory } from './body-memory.ts';
import type { Exchange } from './exchange.ts';

/** An answer whose body is `length` bytes of `reader` from `start`. Headers without Content-Length. */
export interface StreamedAnswer {
  readonly status: number;
  readonly headers: OutgoingHttpHeaders;
  /** Closed at the end, whatever happens, and at once when the client leaves, even while a read is waiting. */
  readonly reader: BlobReader;
  readonly start: number;
  readonly length: number;
}

/** Two: one is read into while the kernel takes the other. */
const BUFFERS_PER_BODY = 2;

/** Writes bodies: the only place that does. Memory is `BodyMemory`'s; a buffer is refilled only after the kernel took it. */
export class BodyWriter {
  readonly #memory: BodyMemory;
  readonly #meter: Meter;
  readonly #headersAfterMs: number;

  /** `headersAfterMs`: when a body that has no first byte yet sends its headers nevertheless. */
  constructor(memory: BodyMemory, meter: Meter, headersAfterMs: number) {
    this.#memory = memory;
    this.#meter = meter;
    this.#headersAfterMs = headersAfterMs;
  }

  /**
   * Answers, and resolves when the kernel has the last byte or the client is gone. Rejects only while no header is
   * sent, so the error can be answered; later, the socket is destroyed: a wrong body is never complete.
   */
  async write(exchange: Exchange, answer: StreamedAnswer): Promise<void> {
    const transfer = new Transfer(exchange, answer, this.#memory);
    const headersInMs = exchange.startedAtMs + this.#headersAfterMs - performance.now();
    const timer = setTimeout(() => transfer.sendHead(), Math.max(0, headersInMs));
    this.#memory.enter();
    this.#sample();
    try {
      await transfer.run(() => clearTimeout(timer));
    } catch (error) {
      if (!exchange.res.headersSent && !transfer.isClientGone) throw error;
      exchange.failure ??= transfer.isClientGone ? undefined : error;
      exchange.res.destroy();
    } finally {
      clearTimeout(timer);
      transfer.release();
      this.#memory.leave();
      this.#sample();
      await answer.reader.close();
    }
  }

  #sample(): void {
    this.#meter.gauge('http_bodies_open', this.#memory.bodies);
    this.#meter.gauge('http_body_memory_bytes', this.#memory.lentBytes);
  }
}

class Transfer {
  readonly #exchange: Exchange;
  readonly #answer: StreamedAnswer;
  readonly #memory: BodyMemory;
  readonly #end: number;
  #position: number;
  readonly #free: Buffer[] = [];
  /** Handed to the kernel. */
  readonly #inFlight = new Set<Buffer>();
  #isReleased = false;
  #isClientGone = false;
  /** Called when a buffer comes back, or the client is gone. */
  #wake: () => void = () => {};
  #cancelWaiting: () => void = () => {};

  constructor(exchange: Exchange, answer: StreamedAnswer, memory: BodyMemory) {
    this.#exchange = exchange;
    this.#answer = answer;
    this.#memory = memory;
    this.#position = answer.start;
    this.#end = answer.start + answer.length;
  }

  get isClientGone(): boolean {
    return this.#isClientGone;
  }

  sendHead(): void {
    const { res } = this.#exchange;
    if (res.headersSent || res.destroyed) return;
    const { status, headers, length } = this.#answer;
    headers['Content-Length'] = length;
    res.writeHead(status, withCommonHeaders(this.#exchange, headers));
    res.flushHeaders();
  }

  async run(onFirstByte: () => void): Promise<void> {
    const { res } = this.#exchange;
    if (res.destroyed) return;
    const onClose = (): void => this.#clientGone();
    res.once('close', onClose);
    try {
      if (!(await this.#waitForMemory())) return;
      while (this.#position < this.#end && !this.#isClientGone) {
        const buffer = this.#nextBuffer();
        if (buffer === undefined) await this.#change();
        else await this.#copy(buffer, onFirstByte);
      }
      if (this.#isClientGone) return;
      this.#sendHeadBeforeBody();
      res.end();
      while (this.#inFlight.size > 0 && !this.#isClientGone) await this.#change();
    } finally {
      res.removeListener('close', onClose);
    }
  }

  /** Gives back what the kernel does not hold. Callbacks that come later find nothing to do. */
  release(): void {
    this.#isReleased = true;
    for (const buffer of this.#free) this.#memory.give(buffer);
    for (const buffer of this.#inFlight) this.#memory.forget(buffer);
    this.#free.length = 0;
    this.#inFlight.clear();
  }

  async #waitForMemory(): Promise<boolean> {
    const first = await this.#memory.takeFirst(this.#answer.length, cancel => {
      this.#cancelWaiting = cancel;
    });
    if (first !== undefined) this.#free.push(first);
    return first !== undefined;
  }

  #nextBuffer(): Buffer | undefined {
    const remainingBytes = this.#end - this.#position;
    const free = this.#free.pop();
    if (free !== undefined) return this.#memory.renew(free, remainingBytes);
    return this.#inFlight.size < BUFFERS_PER_BODY ? this.#memory.take(remainingBytes) : undefined;
  }

  async #copy(buffer: Buffer, onFirstByte: () => void): Promise<void> {
    const wanted = Math.min(buffer.byteLength, this.#end - this.#position);
    let count: number;
    try {
      count = await this.#answer.reader.read(buffer.subarray(0, wanted), this.#position);
    } catch (error) {
      this.#free.push(buffer);
      throw error;
    }
    if (count === 0 || this.#isClientGone) {
      this.#free.push(buffer);
      if (count === 0) throw new Error(`the blob ended at byte ${this.#position} of ${this.#end}`);
      return;
    }
    onFirstByte();
    this.#position += count;
    this.#sendHeadBeforeBody();
    this.#send(buffer, count);
  }

  /** Unflushed, so that head and first bytes leave in one packet. */
  #sendHeadBeforeBody(): void {
    const { res } = this.#exchange;
    if (res.headersSent) return;
    const { status, headers, length } = this.#answer;
    headers['Content-Length'] = length;
    res.writeHead(status, withCommonHeaders(this.#exchange, headers));
  }

  #send(buffer: Buffer, count: number): void {
    this.#inFlight.add(buffer);
    this.#exchange.res.write(buffer.subarray(0, count), error => {
      if (error === null || error === undefined) this.#exchange.bytesSent += count;
      if (this.#isReleased) return;
      this.#inFlight.delete(buffer);
      this.#free.push(buffer);
      this.#wake();
    });
  }

  #change(): Promise<void> {
    return new Promise(resolve => {
      this.#wake = resolve;
    });
  }

  #clientGone(): void {
    this.#isClientGone = true;
    this.#cancelWaiting();
    this.#wake();
    // Ends a read that waits for a download; the writer closes it once more, and that is fine.
    this.#answer.reader.close().catch(() => {});
  }
}
