import type { ClientRequest, IncomingMessage } from 'node:http';
import type { UploadCalls } from '../hosted/upload-calls.ts';
import { type Clock, systemClock } from '../lib/clock.ts';
import type { HttpResponse } from '../lib/http-message.ts';
import { type RemoteBytes, type RemoteFill, ReplicaAway, type Replicas } from '../mirror/fill/replicas.ts';
import type { AgoMs, Landing, SharedFlight } from '../mirror/shared-flights.ts';
import { ABOUT_PATH, type ReplicaAbout } from './about-request.ts';
import { callHeader } from './call-header.ts';
import type { ClusterTls } from './cluster-tls.ts';
import { pathOfFill, REPOSITORIES_HEADER, SIZE_HEADER } from './fill-response.ts';
import { FLIGHT_AGO_HEADER, FLIGHT_HEADER, FLIGHTS_PATH } from './flight-requests.ts';
import { readJsonBody } from './json-body.ts';
import { ReplicaConnections, type ReplicaRequest } from './replica-connections.ts';
import { RemoteUploads } from './remote-uploads.ts';

/** What it says of itself, it knows. */
const ABOUT_WITHIN_MS = 5_000;

export interface ReplicaClientOptions {
  /** Default: the system's. */
  readonly clock?: Clock;
  /** Called when a replica that is needed does not answer. */
  readonly noteAway?: (address: string) => void;
}

/** Asks other replicas for what they hold. */
export class ReplicaClient implements Replicas {
  readonly #connections: ReplicaConnections;
  readonly #clock: Clock;
  readonly #noteAway: (address: string) => void;

  constructor(tls: ClusterTls, { clock = systemClock, noteAway = () => {} }: ReplicaClientOptions = {}) {
    this.#connections = new ReplicaConnections(tls, clock);
    this.#clock = clock;
    this.#noteAway = noteAway;
  }

  async read(fill: RemoteFill, from: number, signal: AbortSignal): Promise<RemoteBytes> {
    const path = pathOfFill({ ...fill, from });
    const { address } = fill;
    const response = await this.#noting(address, this.#connections.get(address, path, signal));
    if (response.status === 200) return new ReceivedBytes(response, signal);
    response.body.resume();
    throw refusal(address, path, response.status);
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
  async fly(address: string, key: string, agoMs?: AgoMs): Promise<SharedFlight> {
    let flying: ClientRequest | undefined;
    const headers = { ...callHeader(key), 'Transfer-Encoding': 'chunked' };
    const response = await this.#ask(address, { method: 'POST', path: FLIGHTS_PATH, headers }, to => {
      flying = to;
      // Not before there is a connection: how long the headers wait for it would not be part of how long ago it was.
      to.once('socket', socket => {
        socket.once('secureConnect', () => {
          if (agoMs !== undefined) to.setHeader(FLIGHT_AGO_HEADER, agoMs());
          to.flushHeaders();
        });
      });
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
   * does, and one that starts. Rejects with ReplicaAway, or a TimeoutError, if there is no answer. Asks over a new
   * connection, to find out whether that can be made.
   */
  async about(address: string): Promise<ReplicaAbout | undefined> {
    const signal = AbortSignal.timeout(ABOUT_WITHIN_MS);
    const response = await this.#connections.send(address, { path: ABOUT_PATH, signal }, to => to.end());
    if (response.statusCode !== 200) {
      response.resume();
      return undefined;
    }
    return readJsonBody<ReplicaAbout>(response);
  }

  /** Makes connections to the replica at this address, so that downloads can be requested without delay. Never rejects. */
  prepare(address: string): Promise<void> {
    return this.#connections.prepare(address);
  }

  close(): void {
    this.#connections.close();
  }

  /**
   * The response to what `write` writes, if it is one of success; otherwise rejects with ReplicaAway. A request that changes
   * something gets a new connection: over an existing one, which the other side might just have closed, it could be lost, and it
   * cannot be sent twice.
   */
  async #ask(
    address: string,
    asked: ReplicaRequest,
    write: (to: ClientRequest) => void,
  ): Promise<IncomingMessage> {
    const response = await this.#noting(address, this.#connections.send(address, asked, write));
    if (response.statusCode === 200) return response;
    response.resume();
    throw refusal(address, asked.path, response.statusCode);
  }

  async #noting<T>(address: string, responding: Promise<T>): Promise<T> {
    try {
      return await responding;
    } catch (error) {
      if (error instanceof ReplicaAway) this.#noteAway(address);
      throw error;
    }
  }
}

function refusal(address: string, path: string, status: number | undefined): ReplicaAway {
  return new ReplicaAway(`${address} answered ${status} for ${path}`);
}

class ReceivedBytes implements RemoteBytes {
  readonly size: number | undefined;
  readonly repositories: readonly string[];
  readonly #response: HttpResponse;
  readonly #signal: AbortSignal;
  readonly #pieces: AsyncIterator<Uint8Array>;
  #last: Uint8Array | undefined;

  constructor(response: HttpResponse, signal: AbortSignal) {
    const { headers, body } = response;
    const size = headers[SIZE_HEADER];
    this.size = size === undefined ? undefined : Number(size);
    this.repositories = textsIn(headers[REPOSITORIES_HEADER]);
    this.#response = response;
    this.#signal = signal;
    this.#pieces = body[Symbol.asyncIterator]();
  }

  async next(): Promise<Uint8Array | undefined> {
    if (this.#last !== undefined) this.#response.release?.(this.#last);
    this.#last = undefined;
    try {
      const { done, value } = await this.#pieces.next();
      if (!done) this.#last = value;
    } catch (error) {
      throw awayOr(error, this.#signal);
    }
    return this.#last;
  }

  close(): void {
    this.#response.body.destroy();
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
