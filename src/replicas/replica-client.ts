import type { ClientRequest, IncomingMessage } from 'node:http';
import { Agent, request, type RequestOptions } from 'node:https';
import type { UploadCalls } from '../hosted/upload-calls.ts';
import { Changes } from '../lib/changes.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import { errorCode } from '../lib/error-code.ts';
import { type RemoteBytes, type RemoteFill, ReplicaAway, type Replicas } from '../mirror/fill/replicas.ts';
import type { Landing, SharedFlight } from '../mirror/shared-flights.ts';
import { ABOUT_PATH, type ReplicaAbout } from './about-request.ts';
import { callHeader } from './call-header.ts';
import type { ClusterTls } from './cluster-tls.ts';
import { pathOfFill, REPOSITORIES_HEADER, SIZE_HEADER } from './fill-response.ts';
import { FLIGHT_HEADER, FLIGHTS_PATH } from './flight-requests.ts';
import { readJsonBody } from './json-body.ts';
import { RemoteUploads } from './remote-uploads.ts';

/** A replica is a round trip away, or it is not there. */
const CONNECT_WITHIN_MS = 3_000;
const ALIVE_EACH_MS = 1_000;
/** What it says of itself, it knows. */
const ABOUT_WITHIN_MS = 5_000;
/** So much may arrive before it is written; more waits in the network. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;

export interface ReplicaClientOptions {
  /** Default: the system's. */
  readonly clock?: Clock;
  /** Called when a replica that is needed does not answer. */
  readonly noteAway?: (address: string) => void;
}

/** Asks other replicas for what they hold. */
export class ReplicaClient implements Replicas {
  readonly #tls: ClusterTls;
  readonly #clock: Clock;
  readonly #noteAway: (address: string) => void;
  // None is used again: the other side might just have closed it, and what a client sends cannot be sent twice.
  readonly #agent = new Agent({ maxCachedSessions: 0 });

  constructor(tls: ClusterTls, { clock = systemClock, noteAway = () => {} }: ReplicaClientOptions = {}) {
    this.#tls = tls;
    this.#clock = clock;
    this.#noteAway = noteAway;
  }

  async read(fill: RemoteFill, from: number, signal: AbortSignal): Promise<RemoteBytes> {
    const path = pathOfFill({ ...fill, from });
    const response = await this.#ask(fill.address, { path, signal }, to => to.end());
    return new ReceivedBytes(response, signal);
  }

  /** The uploads of the replica at this address. `isAlive`: whether the index says that it lives. */
  uploadsAt(address: string, isAlive: () => Promise<boolean>): UploadCalls {
    return new RemoteUploads({
      post: (path, headers, send) => this.#ask(address, { method: 'POST', path, headers }, send),
      isAlive,
      clock: this.#clock,
    });
  }

  /** Asks the replica at this address, which decides about this question, who is to ask upstream. */
  async fly(address: string, key: string): Promise<SharedFlight> {
    let flying: ClientRequest | undefined;
    const headers = { ...callHeader(key), 'Transfer-Encoding': 'chunked' };
    const response = await this.#ask(address, { method: 'POST', path: FLIGHTS_PATH, headers }, to => {
      flying = to;
      to.flushHeaders();
    });
    const land = (landing?: Landing) => void flying?.end(landing && JSON.stringify(landing));
    if (response.headers[FLIGHT_HEADER] === 'lead') {
      response.resume();
      return { land };
    }
    land();
    return { landing: await readJsonBody<Landing>(response) };
  }

  /**
   * What the replica at this address says of itself; `undefined` if it is one and says nothing, as an older version
   * does, and one that starts. Rejects with ReplicaAway, or a TimeoutError, if there is no answer.
   */
  async about(address: string): Promise<ReplicaAbout | undefined> {
    const signal = AbortSignal.timeout(ABOUT_WITHIN_MS);
    const response = await this.#send(address, { path: ABOUT_PATH, signal }, to => to.end());
    if (response.statusCode !== 200) {
      response.resume();
      return undefined;
    }
    return readJsonBody<ReplicaAbout>(response);
  }

  close(): void {
    this.#agent.destroy();
  }

  /** The response to what `send` writes, if it is one of success; otherwise rejects with ReplicaAway. */
  async #ask(
    address: string,
    options: RequestOptions,
    send: (to: ClientRequest) => void,
  ): Promise<IncomingMessage> {
    let response: IncomingMessage;
    try {
      response = await this.#send(address, options, send);
    } catch (error) {
      if (error instanceof ReplicaAway) this.#noteAway(address);
      throw error;
    }
    if (response.statusCode === 200) return response;
    response.resume();
    throw new ReplicaAway(`${address} answered ${response.statusCode} for ${options.path}`);
  }

  /** The response to what `send` writes, whatever it is. Rejects with ReplicaAway if there is none. */
  async #send(
    address: string,
    { signal, ...options }: RequestOptions,
    send: (to: ClientRequest) => void,
  ): Promise<IncomingMessage> {
    signal?.throwIfAborted();
    const { hostname: host, port } = new URL(`https://${address}`);
    const asked = request({
      ...this.#tls.forClient,
      agent: this.#agent,
      host: host.replace(/^\[(.*)\]$/, '$1'),
      port,
      ...options,
      ...(signal && { signal }),
    });
    // Until it is connected, and not while the download has not begun.
    const timer = setTimeout(
      () => asked.destroy(new Error(`no connection within ${CONNECT_WITHIN_MS / 1000} s`)),
      CONNECT_WITHIN_MS,
    );
    let isSecured = false;
    asked.once('socket', socket => {
      // Node sets it for connections without TLS only. Otherwise a body waits for the acknowledgement of its headers: 40 ms.
      socket.setNoDelay(true);
      // So that one that vanishes without a word is noticed after some seconds.
      socket.setKeepAlive(true, ALIVE_EACH_MS);
      if (!socket.connecting) clearTimeout(timer);
      socket.once('secureConnect', () => {
        isSecured = true;
        clearTimeout(timer);
      });
    });
    // After the response, the response says so.
    asked.on('error', () => {});
    try {
      send(asked);
      return await new Promise<IncomingMessage>((resolve, reject) => {
        asked.once('response', resolve).once('error', reject);
      });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      const cause = error;
      throw new ReplicaAway(`${address} cannot be reached`, {
        cause,
        isRefused: isRefusal(cause),
        isDistrusted: this.#tls.isDistrust(cause, isSecured),
      });
    } finally {
      clearTimeout(timer);
    }
  }
}

class ReceivedBytes implements RemoteBytes {
  readonly size: number | undefined;
  readonly repositories: readonly string[];
  readonly #response: IncomingMessage;
  readonly #changes = new Changes();
  #chunks: Uint8Array[] = [];
  #bytes = 0;
  #isOver = false;
  #failure: unknown;

  constructor(response: IncomingMessage, signal: AbortSignal) {
    const { headers } = response;
    const size = headers[SIZE_HEADER];
    this.size = size === undefined ? undefined : Number(size);
    this.repositories = textsIn(headers[REPOSITORIES_HEADER]);
    this.#response = response;
    response.on('data', (chunk: Buffer) => this.#add(chunk));
    response.on('end', () => this.#end(undefined));
    response.on('error', error => this.#end(awayOr(error, signal)));
    response.on('close', () => this.#end(new ReplicaAway('the connection was closed')));
  }

  async next(): Promise<readonly Uint8Array[] | undefined> {
    await this.#changes.until(() => this.#chunks.length > 0 || this.#isOver || undefined);
    if (this.#chunks.length > 0) return this.#take();
    if (this.#failure !== undefined) throw this.#failure;
    return undefined;
  }

  close(): void {
    this.#response.destroy();
  }

  #take(): readonly Uint8Array[] {
    const chunks = this.#chunks;
    this.#chunks = [];
    this.#bytes = 0;
    this.#response.resume();
    return chunks;
  }

  #add(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.byteLength;
    if (this.#bytes >= MAX_UNREAD_BYTES) this.#response.pause();
    this.#changes.tell();
  }

  #end(failure: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#failure = failure;
    this.#changes.tell();
  }
}

/** None if another version means something else. */
function textsIn(header: string | readonly string[] | undefined): readonly string[] {
  try {
    const parsed: unknown = JSON.parse(decodeURIComponent(String(header)));
    return Array.isArray(parsed) ? parsed.filter(each => typeof each === 'string') : [];
  } catch {
    return [];
  }
}

/** The reason of `signal` if that has ended it, otherwise ReplicaAway. */
function awayOr(error: unknown, signal: AbortSignal): unknown {
  return signal.aborted ? signal.reason : new ReplicaAway('the connection broke', { cause: error });
}

/** Whether all addresses of a host refuse connections. */
function isRefusal(error: unknown): boolean {
  return error instanceof AggregateError
    ? error.errors.length > 0 && error.errors.every(isRefusal)
    : errorCode(error) === 'ECONNREFUSED';
}
