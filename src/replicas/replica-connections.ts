import type { ClientRequest, IncomingMessage } from 'node:http';
import { Agent, type AgentOptions, request, type RequestOptions } from 'node:https';
import type { Clock } from '../lib/clock.ts';
import { errorCode } from '../lib/error-code.ts';
import { ReplicaAway } from '../mirror/fill/replicas.ts';
import { ABOUT_PATH } from './about-request.ts';
import type { ClusterTls } from './cluster-tls.ts';

/** A replica is a round trip away, or it is not there. */
const CONNECT_WITHIN_MS = 3_000;
const ALIVE_EACH_MS = 1_000;
/** How many are kept ready to each replica, for clients that pull a new image: each requests three or four blobs at once. */
const READY = 4;
/** Those beyond `READY` are left over from downloads that have ended. */
const MAX_IDLE = 16;
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
  readonly #kept: Agent;

  constructor(tls: ClusterTls, clock: Clock) {
    this.#tls = tls;
    this.#clock = clock;
    this.#single = new ClusterAgent(tls);
    this.#kept = new ClusterAgent(tls, {
      keepAlive: true,
      keepAliveMsecs: ALIVE_EACH_MS,
      maxFreeSockets: MAX_IDLE,
      timeout: IDLE_MS,
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
    return this.#respond(this.#request(address, asked, this.#single), address, write, asked.signal);
  }

  /**
   * The same for a GET, over an existing connection if there is one. That may be dead unnoticed, or the other side may be
   * closing it: if no response comes, the request is sent again over a new one.
   */
  async get(address: string, asked: ReplicaRequest): Promise<IncomingMessage> {
    const first = this.#request(address, asked, this.#kept);
    try {
      return await this.#respond(first, address, end, asked.signal);
    } catch (error) {
      if (!first.reusedSocket || !(error instanceof ReplicaAway)) throw error;
      return this.send(address, asked, end);
    }
  }

  /** Makes connections for `get`, or keeps existing ones open. Resolves when they are there; never rejects. */
  async prepare(address: string): Promise<void> {
    const using = Array.from({ length: READY }, async () => {
      const asked = this.#request(address, { path: ABOUT_PATH }, this.#kept);
      (await this.#respond(asked, address, end)).resume();
    });
    await Promise.allSettled(using);
  }

  close(): void {
    this.#single.destroy();
    this.#kept.destroy();
  }

  #request(address: string, asked: ReplicaRequest, agent: Agent): ClientRequest {
    asked.signal?.throwIfAborted();
    const { hostname, port } = new URL(`https://${address}`);
    const host = hostname.replace(/^\[(.*)\]$/, '$1');
    const options: VersionedOptions = { agent, host, port, ...asked, clusterVersion: this.#tls.version };
    return request(options);
  }

  async #respond(
    asked: ClientRequest,
    address: string,
    write: (to: ClientRequest) => void,
    signal?: AbortSignal,
  ): Promise<IncomingMessage> {
    // A new connection must be made in this time; after that, upstream may take longer. Over a kept one, the response must come:
    // nothing else shows that it works.
    const late = () => asked.destroy(new Error(`no connection within ${CONNECT_WITHIN_MS / 1000} s`));
    const timer = this.#clock.after(CONNECT_WITHIN_MS, late);
    let isSecured = false;
    asked.once('socket', socket => {
      // Node sets it for connections without TLS only. Otherwise a body waits for the acknowledgement of its headers: 40 ms.
      socket.setNoDelay(true);
      // So that one that vanishes silently is noticed after some seconds.
      socket.setKeepAlive(true, ALIVE_EACH_MS);
      if (asked.reusedSocket) return;
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
      const cause = error;
      throw new ReplicaAway(`${address} cannot be reached`, {
        cause,
        isRefused: isRefusal(cause),
        isDistrusted: this.#tls.isDistrust(cause, isSecured),
      });
    } finally {
      timer.cancel();
    }
  }
}

/** A request for connections that were made with this version of the keys or certificates. */
interface VersionedOptions extends RequestOptions {
  readonly clusterVersion?: number;
}

/** Adds the TLS options itself, since Node does not reuse connections for requests that have such options of their own. */
class ClusterAgent extends Agent {
  readonly #tls: ClusterTls;

  constructor(tls: ClusterTls, options: AgentOptions = {}) {
    super({ maxCachedSessions: 0, ...options });
    this.#tls = tls;
  }

  override getName(options: VersionedOptions = {}): string {
    return `${super.getName(options)}:${options.clusterVersion}`;
  }

  override createConnection(
    ...[options, connected]: Parameters<Agent['createConnection']>
  ): ReturnType<Agent['createConnection']> {
    return super.createConnection({ ...options, ...this.#tls.forClient }, connected);
  }
}

function end(to: ClientRequest): void {
  to.end();
}

/** Whether all addresses of a host refuse connections. */
function isRefusal(error: unknown): boolean {
  return error instanceof AggregateError
    ? error.errors.length > 0 && error.errors.every(isRefusal)
    : errorCode(error) === 'ECONNREFUSED';
}
