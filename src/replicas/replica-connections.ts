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
/** How many to each replica are ready for clients that come with a new image: each asks for three blobs or four at once. */
const READY = 4;
/** Further ones are those of downloads that have ended. */
const MAX_IDLE = 16;
/** `prepare` uses those that are ready more often. */
const IDLE_MS = 30_000;
/** How long a server keeps a connection without a request: longer, so that none is closed that is just being used. */
export const KEEP_ALIVE_MS = 2 * IDLE_MS;

/** What is asked, without a body. */
export type ReplicaRequest = Pick<RequestOptions, 'method' | 'headers' | 'signal'> & {
  readonly path: string;
};

/**
 * Connections to other replicas, by address. To make one takes three round trips; where cores are scarce, each of the two
 * processes waits for one as often.
 */
export class ReplicaConnections {
  readonly #tls: ClusterTls;
  readonly #clock: Clock;
  /** Of connections for one request each. */
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
   * The same for a GET, over a connection that is there, if there is one. That may be dead without a word, or the other side
   * may be closing it: if no response comes, it is asked again over one of its own.
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

  /** Makes connections for `get`, or sees to it that they stay. Resolves when they are there; never rejects. */
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
    // A new one has to be there by then; then upstream is waited for. Of one that was kept, nothing else shows that it works.
    const late = () => asked.destroy(new Error(`no connection within ${CONNECT_WITHIN_MS / 1000} s`));
    const timer = this.#clock.after(CONNECT_WITHIN_MS, late);
    let isSecured = false;
    asked.once('socket', socket => {
      // Node sets it for connections without TLS only. Otherwise a body waits for the acknowledgement of its headers: 40 ms.
      socket.setNoDelay(true);
      // So that one that vanishes without a word is noticed after some seconds.
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

/** A request over connections that were made with this version of the keys or certificates. */
interface VersionedOptions extends RequestOptions {
  readonly clusterVersion?: number;
}

/** Knows how connections are made, since Node uses none again for a request that says so itself. */
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
