import { setMaxListeners } from 'node:events';
import { validateHeaderName, validateHeaderValue } from 'node:http';
import type { OnReadOpts, Socket } from 'node:net';
import { HttpFailure, ResponseTimeout } from './http-failure.ts';
import type { HttpHeaders, HttpRequest, HttpResponse } from './http-message.ts';
import { PagedBody } from './paged-body.ts';
import { pageAligned } from './page-aligned.ts';
import { ResponseError, type ResponseHead, ResponseParser, type ResponseSink } from './response-parser.ts';
import { unlessAborted } from './single-flight.ts';

/**
 * Connects to the host of `url`, with TLS if it says so; `onread` takes what arrives. Rejects if that fails or is not
 * allowed.
 */
export type BulkConnect = (url: URL, onread: OnReadOpts) => Promise<Socket>;

export interface BulkClientOptions {
  readonly connect: BulkConnect;
  /** From the request to the end of the response's headers; `undefined`: no limit except the signal. */
  readonly headersMs: number | undefined;
  /**
   * The same over a connection that was used before. If this time passes, or anything fails before the end of the headers, the
   * request is sent again over a new connection. Default: `headersMs`, and it is sent again only if the server had closed the old one.
   */
  readonly reusedHeadersMs?: number;
  /** Between two pieces of a body, while it is read; `undefined`: no limit except the signal. */
  readonly idleBodyMs: number | undefined;
  readonly maxHeaderBytes: number;
  /** How long an idle connection is kept at most. */
  readonly keepAliveMs: number;
  /** Connections that were made at another version are not used again. Default: always the same. */
  readonly version?: () => number;
}

/**
 * All connections read into one buffer: what arrives is copied to where it belongs before anything else is read. Four
 * times what Node reads at a time, and none of it becomes garbage.
 */
const READ_BYTES = 256 * 1024;
let arrivals: Buffer | undefined;

/** Idle connections kept to one host: twice what a node uses that pulls three or four layers at a time. */
const MAX_IDLE = 8;

/**
 * Requests for bodies that may be large, with GET only and without proxies. Receiving costs half the CPU time that it
 * does through a general client, whose every 64 KiB are a new buffer that passes two streams.
 */
export class BulkClient {
  readonly #options: BulkClientOptions;
  /** All connections that are open. */
  readonly #open = new Set<Connection>();
  /** By origin, most recently used last. */
  readonly #idle = new Map<string, Connection[]>();
  readonly #closing = new AbortController();

  constructor(options: BulkClientOptions) {
    this.#options = options;
    // Every connection that is being made listens to it.
    setMaxListeners(0, this.#closing.signal);
  }

  /** As `HttpTransport.request`, but rejects with whatever went wrong. */
  async request(request: HttpRequest): Promise<HttpResponse> {
    const text = textOf(request);
    const idle = this.#takeIdle(request.url.origin);
    if (idle !== undefined) {
      try {
        return await idle.request(text, request.signal);
      } catch (error) {
        // The server closed it just as it was used again, or it has been dead for a while: that says nothing about the request.
        const isReplaced = idle.wasStale || this.#options.reusedHeadersMs !== undefined;
        if (!isReplaced || request.signal?.aborted) throw error;
      }
    }
    return (await this.#connect(request)).request(text, request.signal);
  }

  /** Aborts all requests. */
  close(): void {
    const closed = new HttpFailure('broken', 'the client is closed');
    this.#closing.abort(closed);
    for (const connection of this.#open) connection.destroy(closed);
  }

  async #connect({ url, signal }: HttpRequest): Promise<Connection> {
    arrivals ??= pageAligned(READ_BYTES);
    const buffer = arrivals;
    const connection = new Connection(this.#options, {
      idle: () => this.#keep(url.origin, connection),
      closed: () => this.#forget(url.origin, connection),
    });
    this.#open.add(connection);
    const callback = (length: number) => connection.received(buffer.subarray(0, length));
    const connected = this.#options.connect(url, { buffer, callback });
    try {
      const used = connected.then(socket => connection.use(socket));
      await unlessAborted(unlessAborted(used, signal), this.#closing.signal);
      return connection;
    } catch (error) {
      // If it connects later, it is closed at once.
      connection.destroy(error);
      throw error;
    }
  }

  #takeIdle(origin: string): Connection | undefined {
    for (;;) {
      const idle = this.#idle.get(origin)?.pop();
      if (idle === undefined || idle.version === this.#options.version?.()) return idle;
      idle.destroy(undefined);
    }
  }

  #keep(origin: string, connection: Connection): void {
    const idle = this.#idle.get(origin) ?? [];
    this.#idle.set(origin, idle);
    idle.push(connection);
    if (idle.length > MAX_IDLE) idle[0]?.destroy(undefined);
  }

  #forget(origin: string, connection: Connection): void {
    this.#open.delete(connection);
    const idle = this.#idle.get(origin) ?? [];
    const at = idle.indexOf(connection);
    if (at >= 0) idle.splice(at, 1);
    if (idle.length === 0) this.#idle.delete(origin);
  }
}

/** What a Connection tells its client. */
interface ConnectionEvents {
  /** It may be used for another request. */
  readonly idle: () => void;
  readonly closed: () => void;
}

/** One connection, which has one request at a time. */
class Connection {
  /** As in the options, when it was made. */
  readonly version: number | undefined;
  readonly #options: BulkClientOptions;
  readonly #events: ConnectionEvents;
  #socket: Socket | undefined;
  #exchange: Exchange | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isPaused = false;
  #isReused = false;
  #isDestroyed = false;
  #wasStale = false;

  constructor(options: BulkClientOptions, events: ConnectionEvents) {
    this.#options = options;
    this.#events = events;
    this.version = options.version?.();
  }

  /** Whether the server closed it, after earlier responses, before the first byte of the last one. */
  get wasStale(): boolean {
    return this.#wasStale;
  }

  /** Takes over the socket, which may have been closed meanwhile. */
  use(socket: Socket): void {
    this.#socket = socket;
    socket.on('error', error => this.#lose(error));
    socket.on('end', () => this.#ended());
    socket.on('close', () => this.#lose(new ResponseError('the response ended early')));
    if (this.#isDestroyed || socket.destroyed) socket.destroy();
  }

  /** Sends the request in `text`; resolves with the head of the response. */
  request(text: string, signal: AbortSignal | undefined): Promise<HttpResponse> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) this.destroy(signal.reason);
      signal?.throwIfAborted();
      if (this.#isDestroyed) throw new ResponseError('closed before the request');
      const { headersMs, reusedHeadersMs = headersMs, maxHeaderBytes } = this.#options;
      this.#exchange = new Exchange(signal, maxHeaderBytes, {
        begun: response => {
          this.#waitFor('more of the body', this.#options.idleBodyMs);
          resolve(response);
        },
        filled: () => this.#pause(),
        wanted: () => this.#resume(),
        ended: keptMs => this.#release(keptMs),
        failed: error => {
          reject(error);
          this.destroy(error);
        },
      });
      this.#socket?.ref().write(text, 'latin1');
      this.#waitFor('response headers', this.#isReused ? reusedHeadersMs : headersMs);
    });
  }

  /** Copies what it needs of the bytes that have arrived. */
  received(bytes: Buffer): boolean {
    if (!this.#isPaused && this.#exchange?.hasBegun) this.#timer?.refresh();
    try {
      if (this.#exchange === undefined) throw new ResponseError('bytes that nobody asked for');
      this.#exchange.feed(bytes);
    } catch (error) {
      this.destroy(error);
    }
    return !this.#isPaused;
  }

  /** Closes the connection; `error` ends what is under way on it. */
  destroy(error: unknown): void {
    if (this.#isDestroyed) return;
    this.#isDestroyed = true;
    clearTimeout(this.#timer);
    this.#socket?.destroy();
    this.#events.closed();
    this.#exchange?.fail(error);
    this.#exchange = undefined;
  }

  #lose(error: unknown): void {
    this.#wasStale = this.#isReused && this.#exchange?.isUnanswered === true;
    this.destroy(error);
  }

  /** The server sends no more. */
  #ended(): void {
    try {
      this.#exchange?.finish();
      this.destroy(undefined);
    } catch (error) {
      this.#lose(error);
    }
  }

  /** The response is complete, though its reader may not be: the connection is free. */
  #release(mayKeepMs: number): void {
    const keptMs = Math.min(mayKeepMs, this.#options.keepAliveMs);
    this.#exchange = undefined;
    this.#isReused = true;
    if (keptMs <= 0) {
      this.destroy(undefined);
      return;
    }
    this.#resume();
    this.#socket?.unref();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.destroy(undefined), keptMs).unref();
    this.#events.idle();
  }

  #pause(): void {
    this.#isPaused = true;
    clearTimeout(this.#timer);
    this.#socket?.pause();
  }

  #resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#waitFor('more of the body', this.#options.idleBodyMs);
    this.#socket?.resume();
  }

  #waitFor(what: string, limitMs: number | undefined): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (limitMs === undefined) return;
    this.#timer = setTimeout(
      () => this.destroy(new ResponseTimeout(`no ${what} for ${limitMs / 1000} s`)),
      limitMs,
    );
  }
}

/** What an Exchange tells its connection. */
interface ExchangeEvents {
  readonly begun: (response: HttpResponse) => void;
  /** No more can be taken for now. */
  readonly filled: () => void;
  readonly wanted: () => void;
  /** The response is complete; `mayKeepMs` is for how long the connection may be idle, 0 if it is to be closed. */
  readonly ended: (mayKeepMs: number) => void;
  /** It failed or was aborted, or its reader has left, before it was complete. */
  readonly failed: (error: unknown) => void;
}

/** A request and its response. */
class Exchange implements ResponseSink {
  readonly #signal: AbortSignal | undefined;
  readonly #events: ExchangeEvents;
  readonly #parser: ResponseParser;
  readonly #onAbort = (): void => this.#abort(this.#signal?.reason);
  #body: PagedBody | undefined;
  #isComplete = false;
  #mayKeepMs = 0;

  constructor(signal: AbortSignal | undefined, maxHeaderBytes: number, events: ExchangeEvents) {
    this.#signal = signal;
    this.#events = events;
    this.#parser = new ResponseParser(maxHeaderBytes, this);
    signal?.addEventListener('abort', this.#onAbort);
  }

  /** Whether nothing of the response has come. */
  get isUnanswered(): boolean {
    return this.#parser.isUntouched;
  }

  /** Whether the head of the response is complete. */
  get hasBegun(): boolean {
    return this.#body !== undefined;
  }

  feed(bytes: Buffer): void {
    this.#parser.feed(bytes);
  }

  finish(): void {
    this.#parser.finish();
  }

  /** Ends it: its reader gets what has arrived, then `error`. */
  fail(error: unknown): void {
    if (this.#body === undefined) this.#leave(error);
    else this.#body.fail(errorOf(error));
  }

  /** Ends it at once. */
  #abort(reason: unknown): void {
    if (this.#body === undefined) this.#leave(reason);
    else this.#body.destroy(errorOf(reason));
  }

  head({ status, headers, length, isPersistent }: ResponseHead): void {
    this.#mayKeepMs = isPersistent ? keepAliveOf(headers) : 0;
    const body = new PagedBody({
      length,
      wanted: () => {
        if (!this.#isComplete) this.#events.wanted();
      },
      closed: error => this.#leave(error ?? new Error('the body was destroyed')),
    });
    // It may fail before its reader listens, which then still gets the error.
    body.on('error', () => {});
    this.#body = body;
    this.#events.begun({ status, headers, body, release: piece => body.release(piece) });
  }

  bytes(bytes: Buffer): void {
    if (this.#body?.add(bytes) === false) this.#events.filled();
  }

  end(): void {
    this.#isComplete = true;
    this.#body?.end();
    this.#events.ended(this.#mayKeepMs);
  }

  #leave(error: unknown): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    if (!this.#isComplete) this.#events.failed(error);
  }
}

function errorOf(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}

function textOf({ url, headers }: HttpRequest): string {
  const lines = Object.entries(headers).map(([name, value]) => {
    validateHeaderName(name);
    validateHeaderValue(name, value);
    return `${name}: ${value}\r\n`;
  });
  return `GET ${url.pathname}${url.search} HTTP/1.1\r\nhost: ${url.host}\r\n${lines.join('')}\r\n`;
}

/** For how long the server keeps the connection, less what a request takes on its way. */
function keepAliveOf({ 'keep-alive': hint }: HttpHeaders): number {
  const seconds = /(?:^|[\s,])timeout=(\d{1,9})/i.exec(String(hint ?? ''))?.[1];
  return seconds === undefined ? Number.POSITIVE_INFINITY : (Number(seconds) - 1) * 1000;
}
