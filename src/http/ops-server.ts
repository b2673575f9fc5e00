import http from 'node:http';
import type { Socket } from 'node:net';
import type { Log } from '../lib/log.ts';
import { Opened } from '../lib/opened.ts';
import { PacedWork } from '../lib/paced-work.ts';
import { listenInFolder } from '../lib/socket-folder.ts';
import { LATE, within } from '../lib/within.ts';
import { listen, urlOf } from './listen.ts';

/** Where a request came in: at the address, or through the socket in the store, which only the operator can open. */
export type OpsOrigin = 'address' | 'socket';

/** Something else that is served beside health checks and metrics. */
export interface OpsSite {
  /** The paths that belong to it: this one, and everything below it. */
  readonly prefix: string;
  /** Answers the request, whatever it is, and decides itself who may have the answer. */
  serve(req: http.IncomingMessage, res: http.ServerResponse, origin: OpsOrigin): Promise<void>;
}

export interface OpsServerOptions {
  /** Where probes and metrics are served; port 0 lets the system choose. If `undefined`, only on the socket. */
  readonly address: { readonly host: string; readonly port: number } | undefined;
  /** The folder in which the socket for commands is created. */
  readonly socketFolder: string;
  /** Why the server cannot serve now; `undefined` if it can. */
  readonly notReady: () => Promise<string | undefined>;
  /** Problems that do not stop the server from serving: lines after the `ok` of `/readyz`, which anybody may read. */
  readonly problems?: () => Promise<readonly string[]>;
  /** The body of `/metrics` with its content type. Anybody may request it, so it takes at most a tenth of the time. */
  readonly metrics: () => Promise<{ readonly contentType: string; readonly text: string }>;
  /**
   * Further paths, `GET /debug/…`, which are served on the socket only. Resolves to `undefined` for an unknown path.
   */
  readonly extra?: ((path: string, query: URLSearchParams) => Promise<unknown>) | undefined;
  readonly sites?: readonly OpsSite[] | undefined;
  /** For how long an idle connection is kept. Default 5 s. */
  readonly keepAliveMs?: number;
  readonly log: Log;
}

/** The operations port and the socket, until they are closed. */
export interface OpsServer {
  /** `undefined` without an address. */
  readonly url: string | undefined;
  readonly port: number | undefined;
  close(): Promise<void>;
}

/** A check that hangs counts as failed: kubelets wait one second by default. */
const READY_WITHIN_MS = 900;
const NO_ANSWER = `no answer within ${READY_WITHIN_MS} ms`;

/**
 * Requests in progress per connection. Probes and Prometheus do not pipeline; a second request may arrive just before
 * the end of the first is noticed.
 */
const MAX_PIPELINED = 2;
/**
 * How long a client may take to receive an answer. Prometheus gives up after 10 s by default. Metrics are built once
 * for all who wait, so clients that receive nothing hold as many as are built meanwhile, and not one each.
 */
const RECEIVED_WITHIN_MS = 30_000;
/**
 * Each takes a file descriptor, which clients of the registry need, too. Of more, one is closed: of those with a
 * request in progress or of the idle ones, whichever are more, the one whose request or answer is the oldest. If new
 * ones were refused instead, anybody could keep out the kubelet, which then restarts the server. If it did not matter
 * which are more, idle ones could cut off a probe, or requests that never end could keep out new ones.
 */
const MAX_CONNECTIONS = 1_024;
/** Each probe of a kubelet has a connection of its own, and Prometheus opens another one if its own was closed. */
const KEEP_ALIVE_MS = 5_000;

interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly body: Buffer;
}

/** What requests are answered from. */
interface Answering extends Omit<OpsServerOptions, 'metrics'> {
  readonly metrics: () => Promise<Answer>;
}

/**
 * Health checks and metrics on a port of their own, so that they are not exposed to clients and respond under load. The
 * same, and what only the operator may know, on a socket in the store's folder.
 */
export async function createOpsServer(given: OpsServerOptions): Promise<OpsServer> {
  const opened = new Opened();
  try {
    const metrics = new PacedWork(async () => {
      const { contentType, text } = await given.metrics();
      return { status: 200, contentType, body: Buffer.from(text) };
    });
    const options = { ...given, metrics: () => metrics.ask() };
    const { address, socketFolder, log } = options;
    let bound: { readonly url: string; readonly port: number } | undefined;
    if (address !== undefined) {
      // Without what only the operator may know.
      const server = answering({ ...options, extra: undefined }, 'address');
      const port = await listen(server, { ...address, setting: 'server.opsListen' });
      opened.add({ close: () => closeServer(server) });
      bound = { url: urlOf('http', address.host, port), port };
    }
    const local = answering(options, 'socket');
    // Some file systems do not support sockets; that does not prevent serving.
    const socket = await listenInFolder(local, socketFolder).catch((error: unknown) => {
      log.warn({ err: error }, 'there is no socket in the store, so commands cannot query this server');
    });
    if (socket !== undefined) {
      opened.add({
        close: () => {
          const closed = socket.close();
          local.closeAllConnections();
          return closed;
        },
      });
    }
    return { url: bound?.url, port: bound?.port, close: () => opened.close(0) };
  } catch (error) {
    await opened.close(0);
    throw error;
  }
}

function answering(options: Answering, origin: OpsOrigin): http.Server {
  const idle = new Set<Socket>();
  /** The number of requests in progress of each other connection; that of the latest request is last. */
  const busy = new Map<Socket, number>();
  const server = http.createServer(
    { maxHeaderSize: 8 * 1024, keepAliveTimeout: options.keepAliveMs ?? KEEP_ALIVE_MS },
    (req, res) => {
      const { socket } = req;
      const count = busy.get(socket) ?? 0;
      if (count >= MAX_PIPELINED) {
        socket.destroy();
        return;
      }
      idle.delete(socket);
      busy.delete(socket);
      busy.set(socket, count + 1);
      res.once('close', () => {
        const current = busy.get(socket);
        if (current === undefined) return;
        busy.set(socket, current - 1);
        if (current > 1) return;
        busy.delete(socket);
        idle.add(socket);
      });
      respond(options, req, res, origin).catch((error: unknown) => {
        options.log.error({ err: error }, 'the ops port failed to answer');
        res.destroy();
      });
    },
  );
  server.on('connection', (socket: Socket) => {
    if (idle.size + busy.size >= MAX_CONNECTIONS) {
      const more = idle.size > busy.size ? idle : busy;
      const [oldest] = more.keys();
      if (oldest !== undefined) {
        more.delete(oldest);
        oldest.destroy();
      }
    }
    idle.add(socket);
    socket.once('close', () => {
      idle.delete(socket);
      busy.delete(socket);
    });
  });
  return server;
}

function closeServer(server: http.Server): Promise<void> {
  return new Promise(resolve => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

async function respond(
  options: Answering,
  req: http.IncomingMessage,
  res: http.ServerResponse,
  origin: OpsOrigin,
): Promise<void> {
  const [path = ''] = (req.url ?? '').split('?', 1);
  const site = options.sites?.find(({ prefix }) => path === prefix || path.startsWith(`${prefix}/`));
  if (site !== undefined) return site.serve(req, res, origin);
  const { status, contentType, body } = await answerOps(options, req);
  res.writeHead(status, {
    'Content-Type': contentType,
    'Content-Length': body.byteLength,
    'X-Content-Type-Options': 'nosniff',
  });
  const late = setTimeout(() => res.destroy(), RECEIVED_WITHIN_MS);
  res.once('close', () => clearTimeout(late));
  res.end(req.method === 'HEAD' ? undefined : body);
}

async function answerOps(options: Answering, req: http.IncomingMessage): Promise<Answer> {
  if (req.method !== 'GET' && req.method !== 'HEAD') return plain(405, 'only GET is supported');
  const [path = '', query = ''] = (req.url ?? '').split('?', 2);
  switch (path) {
    case '/livez':
      return plain(200, 'ok');
    case '/readyz':
      return answerReady(options);
    case '/metrics':
      return options.metrics();
    default: {
      const document = await options.extra?.(path, new URLSearchParams(query));
      return document === undefined
        ? plain(404, 'not found')
        : { status: 200, contentType: 'application/json', body: Buffer.from(JSON.stringify(document)) };
    }
  }
}

async function answerReady({ notReady, problems = async () => [] }: Answering): Promise<Answer> {
  const untilMs = performance.now() + READY_WITHIN_MS;
  const reason = await within(
    notReady().catch((error: unknown) => `broken: ${messageOf(error)}`),
    READY_WITHIN_MS,
  );
  if (reason === LATE) return plain(503, NO_ANSWER);
  if (reason !== undefined) return plain(503, reason);
  const listed = await within(
    problems().catch((error: unknown) => [unlisted(messageOf(error))]),
    Math.max(0, untilMs - performance.now()),
  );
  return plain(200, ['ok', ...(listed === LATE ? [unlisted(NO_ANSWER)] : listed)].join('\n'));
}

function unlisted(why: string): string {
  return `the problems cannot be listed: ${why}`;
}

function plain(status: number, text: string): Answer {
  return { status, contentType: 'text/plain; charset=utf-8', body: Buffer.from(`${text}\n`) };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : 'unknown';
}
