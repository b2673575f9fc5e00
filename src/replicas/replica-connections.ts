import { once } from 'node:events';
import type { ClientRequest, IncomingMessage } from 'node:http';
import { Agent, request, type RequestOptions } from 'node:https';
import { isIP, type OnReadOpts } from 'node:net';
import { connect, type TLSSocket } from 'node:tls';
import { BulkClient } from '../lib/bulk-client.ts';
import type { Clock } from '../lib/clock.ts';
import { errorCode } from '../lib/error-code.ts';
import type { HttpResponse } from '../lib/http-message.ts';
import { bareHost } from '../lib/url.ts';
import { ReplicaAway } from '../mirror/fill/replicas.ts';
import { ABOUT_PATH } from './about-request.ts';
import type { ClusterTls } from './cluster-tls.ts';

/** A replica is a round trip away, or it is not there. */
const CONNECT_WITHIN_MS = 3_000;
const ALIVE_EACH_MS = 1_000;
/** How many are kept ready to each replica, for clients that pull a new image: each requests three or four blobs at once. */
const READY = 4;
const HTTPS_PORT = 443;
/** Of a response: a few hundred bytes for each repository of a Fill. */
const MAX_HEADER_BYTES = 16 * 1024;
/** Longer than the interval at which `prepare` uses those that are ready. */
const IDLE_MS = 30_000;
/** How long a server keeps an idle connection: longer than clients do, so that it closes none that is just being used. */
export const KEEP_ALIVE_MS = 2 * IDLE_MS;

/** A request, without its body. */
export type ReplicaRequest = Pick<RequestOptions, 'method' | 'headers' | 'signal'> & {
  readonly path: string;
};

/**
 * Connections to other replicas, by address. Making one takes three round trips; where cores are scarce, both processes wait
 * for a core in each of them.
 */
export class ReplicaConnections {
  readonly #tls: ClusterTls;
  readonly #clock: Clock;
  /** For connections that serve one request each. */
  readonly #single: Agent;
  readonly #kept: BulkClient;

  constructor(tls: ClusterTls, clock: Clock) {
    this.#tls = tls;
    this.#clock = clock;
    this.#single = new Agent({ maxCachedSessions: 0 });
    this.#kept = new BulkClient({
      connect: (url, onread) => this.#connect(url, onread),
      // No limit: the other replica may wait for upstream. Over a reused connection the headers must come in time: nothing else shows
      // that it works.
      headersMs: undefined,
      reusedHeadersMs: CONNECT_WITHIN_MS,
      idleBodyMs: undefined,
      maxHeaderBytes: MAX_HEADER_BYTES,
      keepAliveMs: IDLE_MS,
      version: () => tls.version,
    });
  }

  /**
   * The response, whatever it is, to what `write` writes over a connection of its own. Rejects with ReplicaAway if there is
   * none, or the reason of the signal.
   */
  async send(
    address: string,
    asked: ReplicaRequest,
    write: (to: ClientRequest) => void,
  ): Promise<IncomingMessage> {
    asked.signal?.throwIfAborted();
    const url = urlOf(address);
    const to = { ...hostAndPort(url), agent: this.#single, ...this.#tls.forClient };
    return this.#respond(request({ ...to, ...asked }), url, write, asked.signal);
  }

  /**
   * The same for a GET, over an existing connection if there is one. It may have died unnoticed, or the other side may be
   * closing it: if no response comes, the request is sent again over a new one.
   */
  async get(address: string, path: string, signal?: AbortSignal): Promise<HttpResponse> {
    const url = new URL(path, urlOf(address));
    try {
      return await this.#kept.request({ method: 'GET', url, headers: {}, signal });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw error instanceof ReplicaAway ? error : this.#awayFrom(url, error, true);
    }
  }

  /** Makes connections for `get`, or keeps existing ones open. Resolves when they are there; never rejects. */
  async prepare(address: string): Promise<void> {
    const using = Array.from({ length: READY }, async () => {
      const { body } = await this.get(address, ABOUT_PATH);
      body.resume();
    });
    await Promise.allSettled(using);
  }

  close(): void {
    this.#single.destroy();
    this.#kept.close();
  }

  /** A new connection, in which the other side has proved that it is a replica. Rejects with ReplicaAway. */
  async #connect(url: URL, onread: OnReadOpts): Promise<TLSSocket> {
    const to = hostAndPort(url);
    // As the HTTPS client does: a proxy between replicas may route connections by this name.
    const servername = isIP(to.host) === 0 ? to.host : '';
    const options = { ...to, servername, ...this.#tls.forClient, onread };
    const socket = connect(options);
    socket.setNoDelay(true);
    // So that one that vanishes silently is noticed after some seconds.
    socket.setKeepAlive(true, ALIVE_EACH_MS);
    // Whoever uses it listens, too.
    socket.on('error', () => {});
    const timer = this.#clock.after(CONNECT_WITHIN_MS, () => socket.destroy(lateConnection()));
    try {
      await once(socket, 'secureConnect');
      return socket;
    } catch (error) {
      throw this.#awayFrom(url, error, false);
    } finally {
      timer.cancel();
    }
  }

  async #respond(
    asked: ClientRequest,
    url: URL,
    write: (to: ClientRequest) => void,
    signal?: AbortSignal,
  ): Promise<IncomingMessage> {
    // The connection must be made in this time; after that, upstream may take longer.
    const timer = this.#clock.after(CONNECT_WITHIN_MS, () => asked.destroy(lateConnection()));
    let isSecured = false;
    asked.once('socket', socket => {
      // Node sets it for connections without TLS only. Otherwise a body waits for the acknowledgement of its headers: 40 ms.
      socket.setNoDelay(true);
      // So that one that vanishes silently is noticed after some seconds.
      socket.setKeepAlive(true, ALIVE_EACH_MS);
      socket.once('secureConnect', () => {
        isSecured = true;
        timer.cancel();
      });
    });
    // After the response, the response says so.
    asked.on('error', () => {});
    try {
      write(asked);
      return await new Promise<IncomingMessage>((resolve, reject) => {
        asked.once('response', resolve).once('error', reject);
      });
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      throw this.#awayFrom(url, error, isSecured);
    } finally {
      timer.cancel();
    }
  }

  /** `isSecured`: the handshake was complete. */
  #awayFrom({ host }: URL, cause: unknown, isSecured: boolean): ReplicaAway {
    return new ReplicaAway(`${host} cannot be reached`, {
      cause,
      isRefused: isRefusal(cause),
      isDistrusted: this.#tls.isDistrust(cause, isSecured),
    });
  }
}

function urlOf(address: string): URL {
  return new URL(`https://${address}`);
}

function hostAndPort(url: URL): { readonly host: string; readonly port: number } {
  return { host: bareHost(url), port: Number(url.port || HTTPS_PORT) };
}

function lateConnection(): Error {
  return new Error(`no connection within ${CONNECT_WITHIN_MS / 1000} s`);
}

/** Whether all addresses of a host refuse connections. */
function isRefusal(error: unknown): boolean {
  return error instanceof AggregateError
    ? error.errors.length > 0 && error.errors.every(isRefusal)
    : errorCode(error) === 'ECONNREFUSED';
}
