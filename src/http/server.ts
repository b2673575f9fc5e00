import http from 'node:http';
import https from 'node:https';
import { isIPv6, type Socket } from 'node:net';
import type { Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { MemoryBudget } from '../lib/memory-budget.ts';
import type { Meter } from '../lib/meter.ts';
import { createApp } from './app.ts';
import { Deadlines } from './deadlines.ts';
import { BodyMemory } from './body-memory.ts';
import { BodyWriter } from './body-writer.ts';
import { ClientAddresses } from './client-address.ts';
import { Connections, LINGER_MS } from './connections.ts';
import { Handshakes } from './handshakes.ts';
import { HTTP_LIMITS, type HttpLimits } from './limits.ts';
import { bindListener, type BoundAddress, type Listener } from './listen.ts';
import { isLoopbackHost, OwnSite } from './own-site.ts';
import { rawProblem } from './problem.ts';
import { Registry, type RegistryParts } from './registry.ts';
import type { TlsMaterial } from '../ops/tls-files.ts';
import { ResponseLog, type ResponseNews } from './response-log.ts';
import { WholeBodies } from './whole-bodies.ts';

export interface RegistryServerOptions extends RegistryParts, ResponseNews {
  readonly listeners: readonly Listener[];
  /** Set if another process binds the listeners, and every connection comes through `take`. */
  readonly isHanded?: boolean;
  /** What the server waits for before it can identify requesters; until then, every request is answered with 503. */
  readonly waitingFor?: () => string | undefined;
  /** The current one: asked as soon as a request's headers have arrived. */
  readonly presence: () => Presence;
  /** As in `ClientAddressOptions`. Default: none. */
  readonly trustedProxies?: readonly string[];
  /** As in `ClientAddressOptions`. */
  readonly externalUrl?: string | undefined;
  /** Further host names of this server: the Host headers of upstreams. */
  readonly hostAliases?: readonly string[];
  /** The names by which clients reach this server. */
  readonly serverNames?: readonly string[];
  /** Default: `HTTP_LIMITS`, for each that is absent. */
  readonly limits?: Partial<HttpLimits>;
  /** Memory for all bodies; tests make it small. */
  readonly bodyMemory?: BodyMemory;
  /** For bodies that are held in memory as a whole. */
  readonly memory?: MemoryBudget;
  readonly log: Log;
  readonly meter: Meter;
}

/** The registry's ports, until they are closed. */
export interface RegistryServer {
  /** In the order of the listeners; none if another process binds them. */
  readonly addresses: readonly BoundAddress[];
  /** Open client connections, including those in a handshake. */
  readonly connections: number;
  /** Serves a connection to the listener with this index, which another process has accepted. */
  take(listener: number, socket: Socket): void;
  /** Replaces the certificates of all TLS listeners; open connections keep theirs. */
  renewTls(material: TlsMaterial): void;
  /** Replaces the host names that mean upstreams. */
  setHostAliases(hostAliases: readonly string[]): void;
  /**
   * Accepts no new work. Responses in progress may finish within the deadline, then their sockets are destroyed.
   * Resolves when no socket is left. May be called again to shorten the deadline.
   */
  close(deadlineMs: number): Promise<void>;
}

/**
 * Binds all listeners or none: rejects with the error of the first that fails (EADDRINUSE, EACCES) and closes the
 * others.
 */
export async function createRegistryServer(options: RegistryServerOptions): Promise<RegistryServer> {
  const connections = new Connections();
  const limits = { ...HTTP_LIMITS, ...options.limits };
  const handshakes = new Handshakes(limits.headersTimeoutMs, options.log);
  const memory = options.bodyMemory ?? new BodyMemory();
  const writer = new BodyWriter(memory, options, limits.bodyHeadersAfterMs);
  const shared = {
    registry: new Registry(options, writer, new WholeBodies(options.memory ?? new MemoryBudget(), limits)),
    resolver: options.resolver,
    addresses: new ClientAddresses(options),
    connections,
    deadlines: new Deadlines(limits.answerWithinMs),
    presence: options.presence,
    waitingFor: options.waitingFor ?? (() => undefined),
    responseLog: new ResponseLog(options.log, options.meter, options),
    log: options.log,
  };
  const sites: OwnSites = options.listeners.map(listener => ({
    listener,
    ownSite: ownSiteOf(listener, options),
  }));
  const bindings = sites.map(({ listener, ownSite }) => {
    const app = createApp({ ...shared, ownSite, listenerUpstream: listener.upstream });
    return {
      listener,
      server: createServer({ listener, app, connections, handshakes, limits, meter: options.meter }),
    };
  });
  const servers = bindings.map(({ server }) => server);
  try {
    if (options.isHanded) servers.forEach(beginUnbound);
    const bound = options.isHanded ? [] : bindings;
    const addresses = await Promise.all(bound.map(({ server, listener }) => bindListener(server, listener)));
    const setHostAliases = (hostAliases: readonly string[]): void => {
      for (const { listener, ownSite } of sites)
        ownSite.setNames(namesOf(listener, { ...options, hostAliases }));
    };
    return new BoundServer(servers, addresses, { connections, handshakes, setHostAliases });
  } catch (error) {
    for (const server of servers) server.close();
    throw error;
  }
}

type OwnSites = readonly { readonly listener: Listener; readonly ownSite: OwnSite }[];

/** If no name is configured, a port that other machines can reach may be used under any name. */
function ownSiteOf(listener: Listener, options: RegistryServerOptions): OwnSite {
  const { host } = listener;
  const { serverNames = [], externalUrl } = options;
  const isNamed = serverNames.length > 0 || externalUrl !== undefined;
  return new OwnSite({
    names: namesOf(listener, options),
    isClosed: isNamed || isLoopbackHost(isIPv6(host) ? `[${host}]` : host),
  });
}

function namesOf(
  { host }: Listener,
  { serverNames = [], hostAliases = [], externalUrl }: RegistryServerOptions,
): readonly string[] {
  const external = externalUrl === undefined ? [] : [new URL(externalUrl).host];
  return [...serverNames, ...external, ...hostAliases, host];
}

class BoundServer implements RegistryServer {
  readonly addresses: readonly BoundAddress[];
  readonly #servers: readonly http.Server[];
  readonly #connections: Connections;
  readonly #handshakes: Handshakes;
  readonly setHostAliases: RegistryServer['setHostAliases'];

  constructor(
    servers: readonly http.Server[],
    addresses: readonly BoundAddress[],
    {
      connections,
      handshakes,
      setHostAliases,
    }: Pick<ServerParts, 'connections' | 'handshakes'> & Pick<RegistryServer, 'setHostAliases'>,
  ) {
    this.#servers = servers;
    this.addresses = addresses;
    this.#connections = connections;
    this.#handshakes = handshakes;
    this.setHostAliases = setHostAliases;
  }

  get connections(): number {
    return this.#connections.count + this.#handshakes.count;
  }

  take(listener: number, socket: Socket): void {
    const server = this.#servers[listener];
    if (server === undefined || this.#connections.isDraining()) {
      socket.destroy();
      return;
    }
    // What a server does with the connections that it accepts itself.
    socket.setNoDelay(true);
    // TLS closes its socket when that ends; open for writing, it would stay until something else closes it.
    socket.allowHalfOpen = !(server instanceof https.Server);
    server.emit('connection', socket);
  }

  renewTls(material: TlsMaterial): void {
    for (const server of this.#servers) {
      if (server instanceof https.Server) server.setSecureContext(material);
    }
  }

  async close(deadlineMs: number): Promise<void> {
    const closed = this.#servers.map(closeServer);
    this.#connections.drain();
    this.#handshakes.destroyAll();
    const deadline = setTimeout(() => this.#connections.destroyAll(), deadlineMs);
    // A server does not wait for connections that it has not accepted itself.
    await Promise.all([...closed, this.#connections.gone()]);
    clearTimeout(deadline);
  }
}

interface ServerParts {
  readonly listener: Listener;
  readonly app: http.RequestListener;
  readonly connections: Connections;
  readonly handshakes: Handshakes;
  readonly limits: HttpLimits;
  readonly meter: Meter;
}

function createServer({ listener, app, connections, handshakes, limits, meter }: ServerParts): http.Server {
  const options: http.ServerOptions = {
    maxHeaderSize: limits.maxHeaderBytes,
    headersTimeout: limits.headersTimeoutMs,
    // Would limit a whole request, and so abort a long upload that makes progress. The idle limit replaces it.
    requestTimeout: 0,
    keepAliveTimeout: limits.keepAliveTimeoutMs,
    connectionsCheckingInterval: limits.checkIntervalMs,
    noDelay: true,
  };
  const { tls } = listener;
  const server =
    tls === undefined ? http.createServer(options, app) : https.createServer({ ...options, ...tls }, app);
  server.maxConnections = limits.maxConnections;
  if (tls === undefined) {
    server.on('connection', (socket: Socket) => connections.add(socket));
  } else {
    server.on('connection', (socket: Socket) => handshakes.begin(socket));
    server.on('secureConnection', (socket: Socket) => {
      handshakes.end(socket);
      connections.add(socket);
    });
  }
  server.setTimeout(limits.idleTimeoutMs, socket => {
    if (connections.isClientIdle(socket)) socket.destroy();
    else socket.setTimeout(limits.idleTimeoutMs);
  });
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    // Also limits a handshake, as Node does by default.
    if (tls !== undefined && !connections.has(socket)) {
      meter.count('http_client_errors_total', { code: 'handshake' });
      handshakes.fail(error, socket);
      return;
    }
    // A system error, such as a connection that a proxy resets, is not a malformed request.
    if (error.syscall === undefined) meter.count('http_client_errors_total', { code: faultOf(error.code) });
    refuse(error, socket, connections);
  });
  return server;
}

const refused = new WeakSet<Socket>();

/** Responds to a request that could not be parsed, unless a response is in progress on the socket. */
function refuse(error: NodeJS.ErrnoException, socket: Socket, connections: Connections): void {
  // Node's parser fails again at each further chunk; destroying the socket then would discard the response.
  if (refused.has(socket)) return;
  refused.add(socket);
  if (!socket.writable || connections.isBusy(socket) || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  socket.end(REFUSALS[faultOf(error.code)]);
  socket.resume();
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}

const REFUSALS = {
  'too-large': rawProblem(
    431,
    'Request Header Fields Too Large',
    'the request line and headers are too large',
  ),
  timeout: rawProblem(408, 'Request Timeout', 'the request did not arrive in time'),
  malformed: rawProblem(400, 'Bad Request', 'this is not a valid HTTP request'),
} as const;

function faultOf(code: string | undefined): keyof typeof REFUSALS {
  if (code === 'HPE_HEADER_OVERFLOW') return 'too-large';
  return code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 'timeout' : 'malformed';
}

/** Node checks how long headers take only of a server that listens. */
function beginUnbound(server: http.Server): void {
  server.emit('listening');
}

function closeServer(server: http.Server): Promise<void> {
  return new Promise(resolve => {
    // An error here means that it is closed already.
    server.close(() => resolve());
  });
}
