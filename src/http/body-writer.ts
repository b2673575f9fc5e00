import type { OutgoingHttpHeaders } from 'node:http';
import type { BlobReader, LentBytes } from '../lib/blob-reader.ts';
import type { Log } from '../lib/log.ts';
import type { Meter } from '../lib/meter.ts';
import { withCommonHeaders } from './answer.ts';
import type { BlobPart, Framing } from './blob-parts.ts';
import type { BodyMemory } from './body-memory.ts';
import type { Exchange } from './exchange.ts';
import type { SharedBuffer } from './shared-buffer.ts';

/** A response whose body is parts of `reader`. */
export interface StreamedAnswer {
  readonly status: number;
  /** With Content-Length. */
  readonly headers: OutgoingHttpHeaders;
  /** Always closed at the end, and at once when the client disconnects, even during a read. */
  readonly reader: BlobReader;
  readonly parts: readonly BlobPart[];
  /** If it is multipart. */
  readonly framing?: Framing | undefined;
}

/** One is filled while the kernel takes the other. */
const PAGES_PER_BODY = 2;

/**
 * The only place where bodies are read while they are sent. Memory comes from `BodyMemory`, or is lent by the reader; it is
 * given back only after the kernel has taken it.
 */
export class BodyWriter {
  readonly #memory: BodyMemory;
  readonly #meter: Meter;
  readonly #log: Log;
  readonly #headersAfterMs: number;

  /** `headersAfterMs`: how long to wait for the first byte of a body before sending its headers. */
  constructor(
    memory: BodyMemory,
    { meter, log }: { readonly meter: Meter; readonly log: Log },
    headersAfterMs: number,
  ) {
    this.#memory = memory;
    this.#meter = meter;
    this.#log = log;
    this.#headersAfterMs = headersAfterMs;
  }

  /**
   * Sends the response; resolves when the kernel has the last byte or the client has disconnected. Rejects only while
   * no header was sent, so that the error can be answered. After that the socket is destroyed, so that a wrong body is
   * never complete.
   */
  async write(exchange: Exchange, answer: StreamedAnswer): Promise<void> {
    const transfer = new Transfer(exchange, answer, this.#memory);
    const headersInMs = exchange.startedAtMs + this.#headersAfterMs - performance.now();
    const timer = setTimeout(() => transfer.sendHead(), Math.max(0, headersInMs));
    this.#memory.enter();
    this.#sample();
    try {
      await transfer.run(() => {
        clearTimeout(timer);
        exchange.noteByte();
      });
    } catch (error) {
      if (!exchange.res.headersSent && !transfer.isClientGone) throw error;
      exchange.failure ??= transfer.isClientGone ? undefined : error;
      exchange.res.destroy();
    } finally {
      clearTimeout(timer);
      transfer.release();
      this.#memory.leave();
      this.#sample();
      await this.#close(answer.reader);
    }
  }

  /** What was sent is right whether or not the reader can be closed. */
  async #close(reader: BlobReader): Promise<void> {
    try {
      await reader.close();
    } catch (error) {
      this.#log.warn({ err: error }, 'a blob that was sent could not be closed');
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
  readonly #owner: string;
  /** Where the present part ends. */
  #end = 0;
  #position = 0;
  /** What the kernel is taking. */
  readonly #inFlight = new Set<LentBytes>();
  /** The header of the present part, which is sent with its first bytes. */
  #unsent: Uint8Array | undefined;
  #isReleased = false;
  #isClientGone = false;
  /** Called when a page is given back or filled, or the client has disconnected. */
  #wake: () => void = () => {};

  constructor(exchange: Exchange, answer: StreamedAnswer, memory: BodyMemory) {
    this.#exchange = exchange;
    this.#answer = answer;
    this.#memory = memory;
    this.#owner = exchange.memoryHolder.name;
  }

  get isClientGone(): boolean {
    return this.#isClientGone;
  }

  sendHead(): void {
    const { res } = this.#exchange;
    if (res.headersSent || res.destroyed) return;
    const { status, headers } = this.#answer;
    res.writeHead(status, withCommonHeaders(this.#exchange, headers));
    res.flushHeaders();
  }

  async run(onFirstByte: () => void): Promise<void> {
    const { res } = this.#exchange;
    if (res.destroyed) return;
    const onClose = (): void => this.#clientGone();
    res.once('close', onClose);
    try {
      const { parts, framing } = this.#answer;
      for (const [at, part] of parts.entries()) {
        this.#unsent = framing?.head(part, at);
        await this.#sendPart(part, onFirstByte);
      }
      if (this.#isClientGone) return;
      this.#sendHeadBeforeBody();
      this.#sendText(framing?.tail());
      res.end();
      while (this.#inFlight.size > 0 && !this.#isClientGone) await this.#change();
    } finally {
      res.removeListener('close', onClose);
    }
  }

  async #sendPart({ start, length }: BlobPart, onFirstByte: () => void): Promise<void> {
    this.#position = start;
    this.#end = start + length;
    while (this.#position < this.#end && !this.#isClientGone) await this.#sendNext(onFirstByte);
  }

  /** Gives back all pages. Callbacks that come later have no effect. */
  release(): void {
    this.#isReleased = true;
    for (const lent of this.#inFlight) lent.abandon();
    this.#inFlight.clear();
  }

  /** Sends the next page, or waits until trying again makes sense. */
  async #sendNext(onFirstByte: () => void): Promise<void> {
    if (this.#inFlight.size === PAGES_PER_BODY) return this.#change();
    const { reader } = this.#answer;
    // Somebody waits for the first bytes: reading them from the disk would take longer.
    const isFirst = this.#exchange.firstByteAtMs === undefined;
    const lent = this.#memory.isCrowded && !isFirst ? undefined : await reader.lend?.(this.#position);
    if (lent !== undefined) return this.#send(lent, onFirstByte);
    const { shares } = reader;
    const found = shares && this.#memory.find(shares, this.#position, this.#owner);
    if (found !== undefined) {
      if (await this.#isFilled(found)) this.#sendPage(found, onFirstByte);
      else this.#memory.give(found);
      return;
    }
    const remainingBytes = this.#end - this.#position;
    // There is no await between looking for a page and sharing a new one, so only one of many bodies reads.
    const page =
      this.#inFlight.size === 0
        ? this.#memory.takeFirst(remainingBytes, this.#owner)
        : this.#memory.take(remainingBytes, this.#owner);
    if (page === undefined) return this.#change();
    try {
      await this.#read(page, shares);
    } catch (error) {
      this.#memory.unshare(page);
      this.#memory.give(page);
      throw error;
    }
    this.#sendPage(page, onFirstByte);
  }

  /** Whether a page that another body fills is filled while this client is connected. */
  async #isFilled(page: SharedBuffer): Promise<boolean> {
    const isPending = () => page.length === undefined && !page.isWithdrawn;
    if (isPending()) page.watch(() => this.#wake());
    while (isPending() && !this.#isClientGone) await this.#change();
    return !isPending() && !page.isWithdrawn;
  }

  /** Reads up to the next page boundary, so that all readers of the same bytes proceed in the same steps. */
  async #read(page: SharedBuffer, shares: object | undefined): Promise<void> {
    const { reader } = this.#answer;
    const position = this.#position;
    const { byteLength } = page.buffer;
    const wanted = Math.min(byteLength - (position % byteLength), this.#end - position);
    if (shares !== undefined) this.#memory.share(page, shares, position);
    const count = await reader.read(page.buffer.subarray(0, wanted), position);
    if (count === 0) throw new Error(`the blob ended at byte ${position} of ${this.#end}`);
    // The bytes may have turned out to be for this reader alone.
    if (reader.shares !== shares) this.#memory.unshare(page);
    page.fill(count);
  }

  /** Not flushed, so that headers and first bytes leave in one packet. */
  #sendHeadBeforeBody(): void {
    const { res } = this.#exchange;
    if (res.headersSent) return;
    const { status, headers } = this.#answer;
    res.writeHead(status, withCommonHeaders(this.#exchange, headers));
  }

  #sendPage(page: SharedBuffer, onFirstByte: () => void): void {
    const bytes = page.buffer.subarray(0, page.length ?? 0);
    const giveBack = (): void => this.#memory.give(page);
    this.#send({ bytes, giveBack, abandon: () => this.#memory.forget(page) }, onFirstByte);
  }

  #send(lent: LentBytes, onFirstByte: () => void): void {
    const count = Math.min(lent.bytes.byteLength, this.#end - this.#position);
    if (this.#isClientGone) {
      lent.giveBack();
      return;
    }
    onFirstByte();
    this.#position += count;
    this.#sendHeadBeforeBody();
    this.#sendText(this.#unsent);
    this.#unsent = undefined;
    this.#inFlight.add(lent);
    this.#exchange.res.write(lent.bytes.subarray(0, count), error => {
      this.#exchange.noteWritten(count, error);
      if (this.#isReleased) return;
      this.#inFlight.delete(lent);
      lent.giveBack();
      this.#wake();
    });
  }

  #sendText(text: Uint8Array | undefined): void {
    if (text === undefined) return;
    this.#exchange.res.write(text, error => this.#exchange.noteWritten(text.byteLength, error));
  }

  #change(): Promise<void> {
    return new Promise(resolve => {
      this.#wake = resolve;
    });
  }

  #clientGone(): void {
    this.#isClientGone = true;
    this.#wake();
    // Ends a read that waits for a download. The writer closes it again, which has no effect.
    this.#answer.reader.close().catch(() => {});
  }
}
