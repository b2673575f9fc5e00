import type { LookupAddress, LookupOptions } from 'node:dns';
import { isIP, type OnReadOpts, type Socket } from 'node:net';
import { Agent, buildConnector, type Dispatcher, errors, Pool, ProxyAgent } from 'undici';
import { BulkClient } from './bulk-client.ts';
import { failureOf, HttpFailure } from './http-failure.ts';
import type { HttpRequest, HttpResponse } from './http-message.ts';
import { type Lookup, systemLookup } from './lookup.ts';
import { PagedBody } from './paged-body.ts';
import { type ProxySettings, proxyFor } from './proxy.ts';
import { bareHost } from './url.ts';

/** Called before and after each connection. Behind a proxy, only literal addresses are checked. */
export interface AddressGuard {
  /** Rejects or throws if `address` must not be connected to for `hostname`. */
  admit(address: string, hostname: string): Promise<void> | void;
  /** A connection (with TLS, if used) to `hostname` was made. */
  connected(address: string, hostname: string): void;
}

export interface HttpClientOptions {
  /** TCP and TLS. */
  readonly connectMs: number;
  /** From the request to the end of the response's headers. */
  readonly headersMs: number;
  /** Between two chunks of a body, while it is read. */
  readonly idleBodyMs: number;
  /** PEM. */
  readonly ca?: string | undefined;
  /** The certificate for servers that request one: PEM, with its private key. */
  readonly clientCertificate?: { readonly cert: string; readonly key: string } | undefined;
  /** Accepts any certificate. */
  readonly insecure?: boolean | undefined;
  /** Default: none, whatever the environment says. */
  readonly proxy?: ProxySettings | undefined;
  /** Which addresses may be connected to. Default: all. */
  readonly guard?: AddressGuard | undefined;
  /** Default: the system's resolver. */
  readonly lookup?: Lookup | undefined;
}

/** Headers of registries are below 4 KiB; CDNs and load balancers add some. */
const MAX_HEADER_BYTES = 32 * 1024;
/** Just below the idle limit of common load balancers (60 s), so that we close first. */
const KEEP_ALIVE_MS = 50_000;

/**
 * Makes the requests of an HttpClient. The only file that uses undici, which takes a while to load: `build.ts` bundles
 * no more of it than is imported here.
 */
export class HttpTransport {
  readonly #options: HttpClientOptions;
  readonly #direct: Agent;
  /** For large bodies, unless they come through a proxy. */
  readonly #bulk: BulkClient;
  readonly #proxies = new Map<string, ProxyAgent>();

  constructor(options: HttpClientOptions) {
    this.#options = options;
    this.#direct = new Agent({ ...this.#limits(), connect: this.#connector() });
    this.#bulk = new BulkClient({
      connect: (url, onread) => this.#connect(url, onread),
      headersMs: options.headersMs,
      idleBodyMs: options.idleBodyMs,
      maxHeaderBytes: MAX_HEADER_BYTES,
      keepAliveMs: KEEP_ALIVE_MS,
    });
  }

  /**
   * Resolves when the response headers have arrived. Rejects with an HttpFailure, or with the signal's reason; if the
   * signal aborts later, the body is destroyed with that reason.
   */
  async request(request: HttpRequest): Promise<HttpResponse> {
    const dispatcher = await this.#dispatcherFor(request);
    try {
      if (request.isBulk && dispatcher === this.#direct) return await this.#bulk.request(request);
      const response = await sendTwice(dispatcher, request);
      return request.isBulk ? inPages(response) : response;
    } catch (error) {
      throw failureOf(error, request);
    }
  }

  /** Aborts all requests. */
  async close(): Promise<void> {
    this.#bulk.close();
    await Promise.all([this.#direct, ...this.#proxies.values()].map(dispatcher => dispatcher.destroy()));
  }

  #limits() {
    const { headersMs, idleBodyMs } = this.#options;
    return {
      headersTimeout: headersMs,
      bodyTimeout: idleBodyMs,
      maxHeaderSize: MAX_HEADER_BYTES,
      keepAliveTimeout: KEEP_ALIVE_MS,
    };
  }

  async #dispatcherFor({ url }: HttpRequest): Promise<Dispatcher> {
    const { proxy: settings = {}, guard } = this.#options;
    const proxy = proxyFor(settings, url);
    if (proxy === undefined) return this.#direct;
    // The proxy resolves names, so only literal addresses can be checked here.
    const host = bareHost(url);
    if (isIP(host) !== 0) await admit(guard, host, host);
    let agent = this.#proxies.get(proxy);
    if (agent === undefined) {
      agent = this.#proxyAgent(proxy);
      this.#proxies.set(proxy, agent);
    }
    return agent;
  }

  #proxyAgent(uri: string): ProxyAgent {
    const tls = { ...this.#tls(), timeout: this.#options.connectMs };
    return new ProxyAgent({
      ...this.#limits(),
      uri,
      // Plain HTTP is not tunnelled (absolute URIs): many proxies allow CONNECT only to port 443.
      proxyTunnel: false,
      requestTls: tls,
      proxyTls: { timeout: this.#options.connectMs },
      clientFactory: (origin, options) => new Pool(origin, { ...options, ...this.#limits() }),
    });
  }

  #tls() {
    const { ca, insecure, clientCertificate } = this.#options;
    return {
      ...(ca === undefined ? {} : { ca }),
      ...clientCertificate,
      rejectUnauthorized: insecure !== true,
    };
  }

  #connect(url: URL, onread: OnReadOpts): Promise<Socket> {
    const { host, protocol, port } = url;
    return new Promise((resolve, reject) => {
      this.#connector(onread)({ hostname: bareHost(url), host, protocol, port }, (...[error, socket]) => {
        if (error !== null) reject(error);
        else resolve(socket);
      });
    });
  }

  #connector(onread?: OnReadOpts): buildConnector.connector {
    const { guard, connectMs, lookup = systemLookup } = this.#options;
    const connect = buildConnector({
      ...this.#tls(),
      ...(onread === undefined ? {} : { onread }),
      timeout: connectMs,
      // The checked addresses are the ones that are connected to, so changing DNS answers cannot evade the check.
      lookup: guardedLookup(lookup, guard),
    });
    return (options, callback) => {
      const { hostname } = options;
      const proceed = () =>
        connect(options, (...[error, socket]) => {
          if (error !== null) callback(error, null);
          else {
            if (socket.remoteAddress !== undefined) guard?.connected(socket.remoteAddress, hostname);
            callback(null, socket);
          }
        });
      // A literal address is not looked up, so it is checked here.
      const admission = isIP(hostname) === 0 ? Promise.resolve() : admit(guard, hostname, hostname);
      settle(admission, proceed, error => callback(error, null));
    };
  }
}

/**
 * If the server closed an idle connection just as it was used again, that says nothing about the request. But it may have
 * received it before, so only what may be done twice is repeated.
 */
async function sendTwice(dispatcher: Dispatcher, request: HttpRequest): Promise<HttpResponse> {
  const { method, isIdempotent = method !== 'POST' } = request;
  try {
    return await send(dispatcher, request);
  } catch (error) {
    if (!isIdempotent || !isStaleConnection(error)) throw error;
  }
  return send(dispatcher, request);
}

async function send(
  dispatcher: Dispatcher,
  { method, url, headers, signal, body: sent }: HttpRequest,
): Promise<HttpResponse> {
  const {
    statusCode,
    headers: received,
    body,
  } = await dispatcher.request({
    origin: url.origin,
    path: url.pathname + url.search,
    method,
    headers: { ...headers },
    signal: signal ?? null,
    body: typeof sent === 'function' ? sent() : (sent ?? null),
    // undici would close the connection after each HEAD, in case the server sends a body. Such a body would at worst
    // break the next response, while a new TLS handshake for each tag that is checked is certain.
    reset: false,
  });
  return { status: statusCode, headers: received, body };
}

/** The response with its body in large pieces. */
function inPages({ status, headers, body }: HttpResponse): HttpResponse {
  const pages = new PagedBody({
    length: undefined,
    wanted: () => body.resume(),
    closed: error => body.destroy(error ?? undefined),
  });
  body.on('data', (bytes: Uint8Array) => {
    if (!pages.add(bytes)) body.pause();
  });
  body.on('end', () => pages.end());
  body.on('error', error => pages.destroy(error));
  // It may fail before its reader listens, which then still gets the error.
  pages.on('error', () => {});
  return { status, headers, body: pages, release: piece => pages.release(piece) };
}

async function admit(guard: AddressGuard | undefined, address: string, hostname: string): Promise<void> {
  try {
    await guard?.admit(address, hostname);
  } catch (error) {
    throw new HttpFailure('forbidden', error instanceof Error ? error.message : String(error), error);
  }
}

type LookupCallback = (error: Error | null, address: string | LookupAddress[], family?: number) => void;

/** Removes addresses that the guard refuses; fails with the first refusal if none is left. */
function guardedLookup(lookup: Lookup, guard: AddressGuard | undefined) {
  return (hostname: string, options: LookupOptions, callback: LookupCallback): void => {
    settle(
      admitted(lookup, guard, hostname, options),
      addresses => {
        const [first] = addresses;
        if (options.all) callback(null, addresses);
        else callback(null, first?.address ?? '', first?.family);
      },
      error => callback(error, []),
    );
  };
}

/** Passes the result of a promise to callbacks, as Node's connections need. What `succeed` throws is a failure, too. */
function settle<T>(promise: Promise<T>, succeed: (value: T) => void, fail: (error: Error) => void): void {
  const failed = (error: unknown) => fail(error instanceof Error ? error : new Error(String(error)));
  void promise.then(succeed).catch(failed);
}

async function admitted(
  lookup: Lookup,
  guard: AddressGuard | undefined,
  hostname: string,
  { family }: LookupOptions,
): Promise<LookupAddress[]> {
  const version = family === 'IPv4' ? 4 : family === 'IPv6' ? 6 : family;
  const all = (await lookup(hostname)).filter(entry => !version || entry.family === version);
  const results = await Promise.allSettled(all.map(({ address }) => admit(guard, address, hostname)));
  const addresses = all.filter((_, at) => results[at]?.status === 'fulfilled');
  if (addresses.length > 0) return addresses;
  const refusal = results.find(result => result.status === 'rejected');
  throw refusal === undefined ? new Error(`${hostname} has no address`) : refusal.reason;
}

/** Whether a persistent connection was closed, perhaps before the request: it had served earlier ones. */
function isStaleConnection(error: unknown): boolean {
  return error instanceof errors.SocketError && (error.socket?.bytesRead ?? 0) > 0;
}
