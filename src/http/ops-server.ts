import http from 'node:http';
import type { Log } from '../lib/log.ts';
import { listen, urlOf } from './listen.ts';

export interface OpsServerOptions {
  readonly host: string;
  /** 0 lets the system choose. */
  readonly port: number;
  /** Why the server cannot serve now, or `undefined`. */
  readonly notReady: () => Promise<string | undefined>;
  /** What is wrong though the server can serve: a line behind the `ok` of `/readyz`, which anybody may read. */
  readonly problem?: () => string | undefined;
  /** The text of `/metrics` with its content type. */
  readonly metrics: () => Promise<{ readonly contentType: string; readonly text: string }>;
  /** Further paths, `GET /debug/…`: answers, or resolves to `undefined` for a path that it does not know. */
  readonly extra?: (path: string, query: URLSearchParams) => Promise<unknown>;
  readonly log: Log;
}

export interface OpsServer {
  readonly url: string;
  readonly port: number;
  close(): Promise<void>;
}

/** A probe that hangs is a failed probe: kubelets wait one second by default. */
const READY_WITHIN_MS = 900;

interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
}

/** Health and metrics on a port of their own, so that they can be kept from clients and answer when those are many. */
export async function createOpsServer(options: OpsServerOptions): Promise<OpsServer> {
  const server = http.createServer({ maxHeaderSize: 8 * 1024, keepAliveTimeout: 75_000 }, (req, res) => {
    respond(options, req, res).catch((error: unknown) => {
      options.log.error({ err: error }, 'the ops port failed to answer');
      res.destroy();
    });
  });
  const port = await listen(server, options.host, options.port);
  return {
    url: urlOf('http', options.host, port),
    port,
    close: () =>
      new Promise(resolve => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function respond(
  options: OpsServerOptions,
  req: http.IncomingMessage,
  res: http.ServerResponse,
): Promise<void> {
  const { status, contentType, text } = await answerOps(options, req);
  res.writeHead(status, { 'Content-Type': contentType, 'Content-Length': Buffer.byteLength(text) });
  res.end(req.method === 'HEAD' ? undefined : text);
}

async function answerOps(options: OpsServerOptions, req: http.IncomingMessage): Promise<Answer> {
  if (req.method !== 'GET' && req.method !== 'HEAD') return plain(405, 'only GET');
  const [path = '', query = ''] = (req.url ?? '').split('?', 2);
  switch (path) {
    case '/livez':
      return plain(200, 'ok');
    case '/readyz': {
      const reason = await within(options.notReady(), READY_WITHIN_MS);
      if (reason !== undefined) return plain(503, reason);
      const problem = options.problem?.();
      return plain(200, problem === undefined ? 'ok' : `ok\n${problem}`);
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

async function within(check: Promise<string | undefined>, limitMs: number): Promise<string | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>(resolve => {
    timer = setTimeout(() => resolve(`no answer within ${limitMs} ms`), limitMs);
  });
  const failed = check.catch(
    (error: unknown) => `broken: ${error instanceof Error ? error.message : 'unknown'}`,
  );
  try {
    return await Promise.race([failed, late]);
  } finally {
    clearTimeout(timer);
  }
}
