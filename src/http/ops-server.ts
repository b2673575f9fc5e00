import http from 'node:http';
import { LATE, within } from '../lib/within.ts';
import type { Log } from '../lib/log.ts';
import { Opened } from '../lib/opened.ts';
import { listenInFolder } from '../lib/socket-folder.ts';
import { listen, urlOf } from './listen.ts';

export interface OpsServerOptions {
  /** Where probes and metrics are asked for; port 0 lets the system choose. `undefined`: nowhere but on the socket. */
  readonly address: { readonly host: string; readonly port: number } | undefined;
  /** The folder in which the socket for commands is made. */
  readonly socketFolder: string;
  /** Why the server cannot serve now, or `undefined`. */
  readonly notReady: () => Promise<string | undefined>;
  /** What is wrong though the server can serve: lines behind the `ok` of `/readyz`, which anybody may read. */
  readonly problems?: () => Promise<readonly string[]>;
  /** The text of `/metrics` with its content type. */
  readonly metrics: () => Promise<{ readonly contentType: string; readonly text: string }>;
  /**
   * Further paths, `GET /debug/…`: answers, or resolves to `undefined` for a path that it does not know. Asked by who
   * runs the server: on the socket alone.
   */
  readonly extra?: ((path: string, query: URLSearchParams) => Promise<unknown>) | undefined;
  readonly log: Log;
}

export interface OpsServer {
  /** `undefined` without an address. */
  readonly url: string | undefined;
  readonly port: number | undefined;
  close(): Promise<void>;
}

/** A probe that hangs is a failed probe: kubelets wait one second by default. */
const READY_WITHIN_MS = 900;

interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
}

/**
 * Health and metrics on a port of their own, so that they can be kept from clients and answer when those are many; and
 * both, with what only the one who runs the server may know, on a socket in the store's folder.
 */
export async function createOpsServer(options: OpsServerOptions): Promise<OpsServer> {
  const opened = new Opened();
  try {
    const { address, socketFolder, log } = options;
    let bound: { readonly url: string; readonly port: number } | undefined;
    if (address !== undefined) {
      // What only the operator may know is not told there.
      const server = answering({ ...options, extra: undefined });
      const port = await listen(server, { ...address, setting: 'server.opsListen' });
      opened.add({ close: () => closeServer(server) });
      bound = { url: urlOf('http', address.host, port), port };
    }
    const local = answering(options);
    // Some file systems have no sockets: no reason not to serve.
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

function answering(options: OpsServerOptions): http.Server {
  return http.createServer({ maxHeaderSize: 8 * 1024, keepAliveTimeout: 75_000 }, (req, res) => {
    respond(options, req, res).catch((error: unknown) => {
      options.log.error({ err: error }, 'the ops port failed to answer');
      res.destroy();
    });
  });
}

function closeServer(server: http.Server): Promise<void> {
  return new Promise(resolve => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}

async function respond(
  options: OpsServerOptions,
  req: http.IncomingMessage,
  res: http.ServerResponse,
): Promise<void> {
  const { status, contentType, text } = await answerOps(options, req);
  res.writeHead(status, {
    'Content-Type': contentType,
    'Content-Length': Buffer.byteLength(text),
    'X-Content-Type-Options': 'nosniff',
  });
  res.end(req.method === 'HEAD' ? undefined : text);
}

async function answerOps(options: OpsServerOptions, req: http.IncomingMessage): Promise<Answer> {
  if (req.method !== 'GET' && req.method !== 'HEAD') return plain(405, 'only GET is supported');
  const [path = '', query = ''] = (req.url ?? '').split('?', 2);
  switch (path) {
    case '/livez':
      return plain(200, 'ok');
    case '/readyz': {
      const reason = await within(options.notReady().catch(broken), READY_WITHIN_MS);
      if (reason === LATE) return plain(503, `no answer within ${READY_WITHIN_MS} ms`);
      if (reason !== undefined) return plain(503, reason);
      return plain(200, ['ok', ...((await options.problems?.()) ?? [])].join('\n'));
    }
    case '/metrics': {
      const { contentType, text } = await options.metrics();
      return { status: 200, contentType, text };
    }
    default: {
      const document = await options.extra?.(path, new URLSearchParams(query));
      return document === undefined
        ? plain(404, 'not found')
        : { status: 200, contentType: 'application/json', text: JSON.stringify(document) };
    }
  }
}

function plain(status: number, text: string): Answer {
  return { status, contentType: 'text/plain; charset=utf-8', text: `${text}\n` };
}

/** That the check itself fails is a reason too. */
function broken(error: unknown): string {
  return `broken: ${error instanceof Error ? error.message : 'unknown'}`;
}
