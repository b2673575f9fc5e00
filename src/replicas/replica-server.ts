/**
 * replicas/: what replicas of one store, on machines of their own, do for each other, over connections that nobody can open
 * without the key of the cluster, or a certificate for it. The main idea: a replica asks the holder of a Lease for what only
 * the holder has; all replicas read what is stored from the bucket and the index.
 *
 * Nothing here is loaded unless `cluster` is configured.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Socket } from 'node:net';
import { listen } from '../http/listen.ts';
import type { UploadCalls } from '../hosted/upload-calls.ts';
import type { Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import type { LedFill } from '../mirror/fill/led-fill.ts';
import type { FlightBoard } from '../mirror/shared-flights.ts';
import { ABOUT_PATH, type ReplicaAbout, sendAbout } from './about-request.ts';
import type { ClusterTls } from './cluster-tls.ts';
import { parseFillPath, sendFill } from './fill-response.ts';
import { answerFlight, parseFlight } from './flight-requests.ts';
import { KEEP_ALIVE_MS } from './replica-connections.ts';
import { answerUploadCall, parseUploadCall } from './upload-requests.ts';

/** Another replica needs one round trip or two. Others must not hold connections for long. */
const HANDSHAKE_WITHIN_MS = 10_000;
const HEADERS_WITHIN_MS = 10_000;
/** Connections of clients of another replica are a few for each of its downloads. */
const MAX_CONNECTIONS = 4_096;
/**
 * How many of these may not have proved yet that they come from a replica, which takes milliseconds. Anybody can open such
 * connections, and each takes 60 KB. Beyond this number the oldest is closed, so that they neither fill memory nor shut replicas
 * out.
 */
const MAX_UNPROVED = 256;

export interface ReplicaServerOptions {
  readonly address: { readonly host: string; readonly port: number };
  readonly tls: ClusterTls;
  /** As `Fills.led`. */
  readonly ledFill: (key: string, epoch: number) => Promise<LedFill | undefined>;
  /** Those of this replica, and its current Presence; `undefined` until they can be used. */
  readonly own: () => { readonly uploads: UploadCalls; readonly presence: Presence } | undefined;
  /** Where this replica decides who asks an upstream; `undefined` until it can. */
  readonly flights: () => FlightBoard | undefined;
  /** What this replica says of itself; `undefined` until it knows. */
  readonly about: () => ReplicaAbout | undefined;
  readonly log: Log;
}

/** The port for other replicas, until it is closed. */
export class ReplicaServer {
  readonly port: number;
  readonly #server: Server;
  readonly #connections = new Set<Socket>();
  /** By the address of the other side, the oldest first. */
  readonly #unproved = new Map<string, Socket>();

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.port = port;
    server.on('connection', (connection: Socket) => {
      const from = addressOf(connection);
      this.#connections.add(connection);
      this.#unproved.set(from, connection);
      connection.once('close', () => {
        this.#connections.delete(connection);
        if (this.#unproved.get(from) === connection) this.#unproved.delete(from);
      });
      const [oldest] = this.#unproved.values();
      if (this.#unproved.size > MAX_UNPROVED) oldest?.destroy();
    });
    // Connections that are not admitted are already closed.
    server.on('secureConnection', (connection: Socket) => this.#unproved.delete(addressOf(connection)));
  }

  /** Rejects if the address cannot be bound. */
  static async open({ address, tls, log, ...needs }: ReplicaServerOptions): Promise<ReplicaServer> {
    const versions = new ConnectionVersions(tls);
    const server = createServer({ ...tls.forServer, handshakeTimeout: HANDSHAKE_WITHIN_MS }, (req, res) => {
      versions.endAfter(req, res);
      answer(req, res, { ...needs, log }).catch((error: unknown) => {
        // Whoever reads it sees in the index what became of it.
        log.debug({ err: error, path: req.url }, 'a response to another replica was broken off');
        res.destroy();
      });
    });
    server.on('connection', (connection: Socket) => versions.note(connection));
    // Before anything of what it has sent is read.
    server.prependListener('secureConnection', socket => {
      if (tls.admits(socket)) return;
      log.debug({ remoteAddress: socket.remoteAddress }, 'a connection to the port for replicas was refused');
      socket.destroy();
    });
    tls.follow(() => {
      server.setSecureContext(tls.forServer);
      server.closeIdleConnections();
    });
    server.headersTimeout = HEADERS_WITHIN_MS;
    server.keepAliveTimeout = KEEP_ALIVE_MS;
    // A response takes as long as the download.
    server.requestTimeout = 0;
    server.maxConnections = MAX_CONNECTIONS;
    server.on('tlsClientError', (error, { remoteAddress }) => {
      log.debug({ err: error, remoteAddress }, 'a connection to the port for replicas was refused');
    });
    const port = await listen(server, { ...address, setting: 'cluster.listen' });
    return new ReplicaServer(server, port);
  }

  /** Breaks off what is being sent: others then take over. */
  async close(): Promise<void> {
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()));
    // Those whose handshake is not finished, too, which Node would wait for.
    for (const connection of this.#connections) connection.destroy();
    await closed;
  }
}

function addressOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/** Recognizes connections that began with keys or certificates that have been replaced. */
class ConnectionVersions {
  readonly #tls: ClusterTls;
  /** By the address of the other side. */
  readonly #versions = new Map<string, number>();

  constructor(tls: ClusterTls) {
    this.#tls = tls;
  }

  /** Call when a connection begins. */
  note(connection: Socket): void {
    const from = addressOf(connection);
    this.#versions.set(from, this.#tls.version);
    connection.once('close', () => this.#versions.delete(from));
  }

  /** Ends the connection after the response if keys or certificates have been replaced by then. */
  endAfter({ socket }: IncomingMessage, res: ServerResponse): void {
    const from = addressOf(socket);
    res.once('close', () => {
      if (this.#versions.get(from) !== this.#tls.version) socket.end();
    });
  }
}

async function answer(
  req: IncomingMessage,
  res: ServerResponse,
  { ledFill, own, flights, about, log }: Omit<ReplicaServerOptions, 'address' | 'tls'>,
): Promise<void> {
  const said = req.url === ABOUT_PATH ? about() : undefined;
  if (said !== undefined) return sendAbout(said, res);
  const call = parseUploadCall(req);
  const ours = call && own();
  if (call !== undefined && ours !== undefined) {
    return answerUploadCall(ours.uploads, call, { req, res, during: ours.presence, log });
  }
  const flight = parseFlight(req);
  const board = flight === undefined ? undefined : flights();
  if (flight !== undefined && board !== undefined) return answerFlight(board, flight, { req, res });
  const asked = req.method === 'GET' ? parseFillPath(req.url ?? '') : undefined;
  const fill = asked && (await ledFill(asked.key, asked.epoch));
  if (asked === undefined || fill === undefined) {
    res.writeHead(404).end();
    return;
  }
  await sendFill(fill, asked.from, { req, res });
}
