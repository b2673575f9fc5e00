import type { IncomingMessage, ServerResponse } from 'node:http';
import { Router } from '@koa/router';
import Koa from 'koa';
import type { Presence } from '../lib/lease.ts';
import type { Log } from '../lib/log.ts';
import { OciError } from '../oci/errors.ts';
import type { ClientAddresses } from './client-address.ts';
import type { Connections } from './connections.ts';
import type { Deadlines } from './deadlines.ts';
import { Exchange } from './exchange.ts';
import type { RepositoryResolver } from '../oci/repository-resolver.ts';
import type { OwnSite } from './own-site.ts';
import { splitTarget } from './path.ts';
import { parseQuery } from './query.ts';
import { writeProblem } from './problem.ts';
import type { Registry } from './registry.ts';
import type { ResponseLog } from './response-log.ts';

export interface AppParts {
  readonly registry: Registry;
  readonly resolver: RepositoryResolver;
  readonly addresses: ClientAddresses;
  readonly ownSite: OwnSite;
  readonly connections: Connections;
  readonly deadlines: Deadlines;
  readonly responseLog: ResponseLog;
  /** What the server waits for before it can serve anybody; `undefined` if nothing. */
  readonly waitingFor: () => string | undefined;
  /** As in `RegistryServerOptions`. */
  readonly presence: () => Presence;
  readonly log: Log;
  /** The upstream that this app's listener belongs to, if any. */
  readonly listenerUpstream: string | undefined;
}

/** What Koa passes from the first middleware to the route. */
interface State {
  exchange: Exchange;
}

/** Everything under /v2, and /token: one wildcard route, since only `path.ts` decides what a path means. */
const API_PATHS = /^\/(?:v2(?:\/|$)|token$)/;

/**
 * The Koa application of one listener: middleware that makes an Exchange of each request and a response of every error,
 * and one route. Responses are written past Koa (`ctx.respond = false`), which would buffer bodies and guess types.
 */
export function createApp(parts: AppParts): (req: IncomingMessage, res: ServerResponse) => void {
  const { registry, connections, log } = parts;
  const app = new Koa<State>();
  app.on('error', (error: unknown, ctx: Koa.Context) => {
    // Koa reports socket errors, too; a client that disconnects is not an error.
    if (ctx.req.socket.destroyed) log.debug({ err: error }, 'a client disconnected');
    else log.error({ err: error }, 'the application failed');
  });

  app.use(async (ctx, next) => {
    ctx.respond = false;
    const during = parts.presence();
    const { socket } = ctx.req;
    if (connections.isBusy(socket) && !(await connections.turn(socket))) return;
    const exchange = openExchange(parts, ctx, during);
    ctx.state.exchange = exchange;
    try {
      refuseWhileWaiting(parts.waitingFor());
      await next();
    } catch (error) {
      writeProblem(exchange, error, log);
    }
  });

  const router = new Router<State>();
  // With any method: the registry answers with those that it allows.
  router.all(API_PATHS, ctx => registry.serve(ctx.state.exchange));
  app.use(router.routes());

  app.use(() => {
    throw new OciError('NAME_UNKNOWN', { message: 'this is an OCI registry: its API is under /v2/' });
  });

  const callback = app.callback();
  return (req, res) => {
    callback(req, res).catch((error: unknown) => log.error({ err: error }, 'the application failed'));
  };
}

/** Until then it is not known which tenants exist and whom credentials identify, so no response would be right. */
function refuseWhileWaiting(waitingFor: string | undefined): void {
  if (waitingFor === undefined) return;
  throw new OciError('UNAVAILABLE', {
    message: 'this registry is starting: the tenants are not loaded yet',
    headers: { 'Retry-After': '5' },
  });
}

function openExchange(
  parts: AppParts,
  { req, res }: { readonly req: IncomingMessage; readonly res: ServerResponse },
  during: Presence,
): Exchange {
  const { resolver, connections, responseLog } = parts;
  const { socket } = req;
  const query = parseQuery(splitTarget(req.url ?? '').query);
  const ns = query.get('ns');
  const namespace = ns === null ? undefined : resolver.knownNamespace(ns);
  const hostUpstream =
    parts.listenerUpstream === undefined ? resolver.boundUpstream(req.headers.host) : undefined;
  const { remote, secure, loopback, proxied } = parts.addresses.of(req);
  const exchange = new Exchange({
    req,
    res,
    query,
    sender: {
      connection: socket,
      authorization: req.headers.authorization,
      remote,
      secure,
      loopback,
      host: req.headers.host,
      upstreamListener: parts.listenerUpstream ?? hostUpstream,
      byHostAlias: hostUpstream !== undefined,
      byNamespace: namespace !== undefined,
    },
    siteProblem: changesNothing(req) ? undefined : parts.ownSite.problem(req, proxied),
    during,
    isStopping: connections.isDraining,
    deadlines: parts.deadlines,
  });
  exchange.namespace = namespace;
  connections.begin(socket, exchange);
  // Node's own listener may close the connection.
  res.prependOnceListener('finish', () => exchange.noteFinished());
  res.once('close', () => {
    connections.end(socket);
    responseLog.closed(exchange);
  });
  return exchange;
}

function changesNothing({ method }: IncomingMessage): boolean {
  return method === 'GET' || method === 'HEAD';
}
