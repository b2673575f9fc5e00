import type { Readable } from 'node:stream';
import { collectBytes } from '../../lib/collect-bytes.ts';
import { HttpClient, type HttpResponse } from '../../lib/http-client.ts';
import { failureOf, HttpFailure } from '../../lib/http-failure.ts';
import { type JsonObject, parseJsonObject } from '../../lib/json.ts';
import type { Log } from '../../lib/log.ts';
import type { ProxySettings } from '../../lib/proxy.ts';
import type { ClusterAccess } from './cluster-access.ts';
import { ObjectScanner, type ScannedObject, UnscannableText } from './object-scanner.ts';

/** An object of any kind, as far as it was read. */
export interface KubeObject extends ScannedObject {
  /** Why its content is not available although it exists; it then has no `bytes`. */
  readonly problem?: string | undefined;
}

/** What to list and watch: a path such as `/api/v1/secrets`, optionally with selectors. */
export interface KubeCollection {
  readonly path: string;
  readonly fieldSelector?: string | undefined;
  readonly labelSelector?: string | undefined;
  /** The maximum size of an object whose content is read, in bytes of JSON; of larger ones only the identity is. */
  readonly maxObjectBytes: number;
}

export type WatchEvent =
  | { readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'; readonly object: KubeObject }
  /** Nothing changed up to this version. */
  | { readonly type: 'BOOKMARK'; readonly resourceVersion: string };

/** The API server responded with an error. The message is the server's. */
export class KubeRefusal extends Error {
  override readonly name = 'KubeRefusal';
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }

  /** Whether the version is too old to be watched or continued, so that everything has to be listed again. */
  get isGone(): boolean {
    return this.status === 410;
  }
}

/** The API server sent something that its protocol does not allow. */
export class KubeProtocolError extends Error {
  override readonly name = 'KubeProtocolError';
}

class PageTooLarge extends Error {}

/** A part of a list, whose objects were taken, and where it continues. */
interface Page {
  readonly resourceVersion: string;
  readonly next: string | undefined;
  readonly bytes: number;
}

/** Usual objects make pages of 100 kB. The largest objects that etcd accepts have up to 9 MB of JSON each. */
const PAGE_OBJECTS = { first: 50, least: 1, most: 500 } as const;

/** The server builds a page in its memory before sending it: a larger one is requested again with fewer objects. */
const MAX_PAGE_BYTES = 32 * 2 ** 20;

/** The intended size of the next page. */
const PAGE_BYTES = 4 * 2 ** 20;

/** For one object or document: a Namespace of etcd's limit, with every byte escaped. */
const MAX_ANSWER_BYTES = 16 * 2 ** 20;

/** Errors are sent in a watch as objects of their own; bookmarks only have a version. */
const MAX_STATUS_BYTES = 64 * 1024;

const CONNECT_MS = 5_000;
const ANSWER_MS = 30_000;

/** The server ends a watch after this time, so that watches are redistributed to new servers. */
const WATCH_S = 300;

/** If a watch was silent for this long, the server has accepted it. */
const QUIET_MS = 500;

/**
 * Bookmarks are sent about once a minute. After such a silence the connection is considered dead; a new watch costs one
 * request.
 */
const WATCH_SILENCE_MS = 150_000;

export interface KubeClientOptions {
  /** Default: none, whatever the environment says. */
  readonly proxy?: ProxySettings | undefined;
  /** Where a changed access is logged. */
  readonly log?: Log;
}

/** The ways to send requests, with one set of certificates. */
interface Connections {
  /** The certificates, as text. */
  readonly trust: string;
  readonly calls: HttpClient;
  readonly watches: HttpClient;
}

/** The requests to a Kubernetes API server that tenants need. */
export class KubeClient {
  readonly #access: ClusterAccess;
  readonly #options: KubeClientOptions;
  #connections: Connections | undefined;

  constructor(access: ClusterAccess, options: KubeClientOptions = {}) {
    this.#access = access;
    this.#options = options;
  }

  get server(): string {
    return this.#access.server.host;
  }

  /** Reads one object or document. Throws KubeRefusal. */
  async read(path: string, signal?: AbortSignal): Promise<JsonObject> {
    return this.#readJson(path, {}, signal);
  }

  /** The current version of the collection, from which to watch. Throws KubeRefusal. */
  async version(collection: KubeCollection, signal?: AbortSignal): Promise<string> {
    const { resourceVersion } = await this.#page(
      { ...collection, maxObjectBytes: 0 },
      { limit: 1, signal, take() {} },
    );
    return resourceVersion;
  }

  /**
   * Lists all objects of a collection at one version, and returns that, to watch from. `begin` is called before the
   * first object, and again if the list starts again: when the server has forgotten the version halfway, everything is
   * listed without pages. `take` returns false if it wants no more. Throws KubeRefusal.
   */
  async list(
    collection: KubeCollection,
    begin: () => (object: KubeObject) => boolean,
    signal?: AbortSignal,
  ): Promise<string> {
    try {
      return await this.#listPaged(collection, begin(), signal);
    } catch (error) {
      if (!(error instanceof KubeRefusal) || !error.isGone) throw error;
    }
    const { resourceVersion } = await this.#page(collection, { take: begin(), signal });
    return resourceVersion;
  }

  async #listPaged(
    collection: KubeCollection,
    take: (object: KubeObject) => boolean,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    let limit: number = PAGE_OBJECTS.first;
    let next: string | undefined;
    for (;;) {
      try {
        const page = await this.#page(collection, { take, limit, next, signal });
        if (page.next === undefined) return page.resourceVersion;
        next = page.next;
        const fitting = Math.floor((limit * PAGE_BYTES) / Math.max(page.bytes, 1));
        limit = Math.max(PAGE_OBJECTS.least, Math.min(PAGE_OBJECTS.most, limit * 2, fitting));
      } catch (error) {
        const isTooMuch =
          error instanceof PageTooLarge || (error instanceof HttpFailure && error.reason === 'timeout');
        if (!isTooMuch || limit === PAGE_OBJECTS.least) throw error;
        limit = Math.max(PAGE_OBJECTS.least, Math.floor(limit / 8));
      }
    }
  }

  /** One page; everything if there is no limit. */
  async #page(
    collection: KubeCollection,
    {
      take,
      limit,
      next,
      signal,
    }: {
      readonly take: (object: KubeObject) => boolean | void;
      readonly limit?: number;
      readonly next?: string | undefined;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<Page> {
    const query = {
      ...selectorsOf(collection),
      ...(limit !== undefined && { limit: String(limit) }),
      ...(next !== undefined && { continue: next }),
    };
    const { url, body } = await this.#request('calls', collection.path, query, signal);
    let bytes = 0;
    try {
      const scanner = new ObjectScanner('items', collection.maxObjectBytes);
      for await (const piece of body as AsyncIterable<Buffer>) {
        bytes += piece.length;
        if (limit !== undefined && limit > PAGE_OBJECTS.least && bytes > MAX_PAGE_BYTES)
          throw new PageTooLarge();
        for (const found of scanner.push(piece)) {
          if (found.kind === 'end') return { ...pageOf(found.texts, collection), bytes };
          if (take(objectOf(found.object, collection)) === false)
            return { resourceVersion: '', next: undefined, bytes };
        }
      }
      throw new KubeProtocolError(`${collection.path} is truncated`);
    } catch (error) {
      throw transportFailure(error, { url, signal });
    } finally {
      body.destroy();
    }
  }

  /**
   * The changes of a collection since a version. Calls `opened` when the server has accepted the request, and
   * `following` with each change, and when there is none for a while. Ends when the server ends the watch. Throws
   * KubeRefusal, also for an error event.
   */
  async *watch(
    collection: KubeCollection,
    resourceVersion: string,
    {
      opened,
      following,
      signal,
    }: { readonly opened: () => void; readonly following: () => void; readonly signal: AbortSignal },
  ): AsyncGenerator<WatchEvent> {
    const query = {
      ...selectorsOf(collection),
      watch: '1',
      allowWatchBookmarks: 'true',
      timeoutSeconds: String(WATCH_S),
      resourceVersion,
    };
    const { url, body } = await this.#request('watches', collection.path, query, signal);
    opened();
    // That the version is too old, the server reports in a first event, after a status of 200.
    const quiet = setTimeout(following, QUIET_MS);
    try {
      const scanner = new ObjectScanner('object', Math.max(collection.maxObjectBytes, MAX_STATUS_BYTES));
      let object: ScannedObject | undefined;
      for await (const piece of body as AsyncIterable<Buffer>) {
        for (const found of scanner.push(piece)) {
          if (found.kind === 'object') {
            object = found.object;
            continue;
          }
          const event = eventOf(found.texts.get('type'), object, collection);
          object = undefined;
          following();
          yield event;
        }
      }
    } catch (error) {
      throw transportFailure(error, { url, signal });
    } finally {
      clearTimeout(quiet);
      body.destroy();
    }
  }

  /** Aborts all requests. */
  async close(): Promise<void> {
    await Promise.all([this.#connections?.calls.close(), this.#connections?.watches.close()]);
  }

  /**
   * Opens connections with the current certificates. If these have changed, aborts the requests on the old connections,
   * so that they are repeated.
   */
  async #connect(): Promise<Connections> {
    const trust = (await this.#access.trust?.()) ?? {};
    const key = JSON.stringify(trust);
    const old = this.#connections;
    if (old?.trust === key) return old;
    const common = { connectMs: CONNECT_MS, headersMs: ANSWER_MS, proxy: this.#options.proxy, ...trust };
    const connections = {
      trust: key,
      calls: new HttpClient({ ...common, idleBodyMs: ANSWER_MS }),
      watches: new HttpClient({ ...common, idleBodyMs: WATCH_SILENCE_MS }),
    };
    this.#connections = connections;
    if (old !== undefined) {
      this.#options.log?.info({}, 'the certificates for the cluster have changed: reconnecting');
      await Promise.all([old.calls.close(), old.watches.close()]);
    }
    return connections;
  }

  /** Returns the review with the server's answer in it. The cluster keeps no reviews. */
  async review(path: string, review: JsonObject, signal?: AbortSignal): Promise<JsonObject> {
    const sent = Buffer.from(JSON.stringify(review));
    return readObject(path, await this.#request('calls', path, {}, signal, sent), signal);
  }

  async #readJson(path: string, query: Record<string, string>, signal?: AbortSignal): Promise<JsonObject> {
    return readObject(path, await this.#request('calls', path, query, signal), signal);
  }
  async #request(
    kind: 'calls' | 'watches',
    path: string,
    query: Record<string, string>,
    signal?: AbortSignal,
    sent?: Uint8Array,
  ): Promise<Answer> {
    const { server } = this.#access;
    const url = new URL(server.pathname.replace(/\/$/, '') + path, server);
    url.search = new URLSearchParams(query).toString();
    const [connections, token] = await Promise.all([this.#connect(), this.#access.token()]);
    const response = await connections[kind].request({
      method: sent === undefined ? 'GET' : 'POST',
      url,
      body: sent,
      isIdempotent: true,
      headers: {
        ...(sent !== undefined && {
          'content-type': 'application/json',
          'content-length': String(sent.byteLength),
        }),
        // The keys of tokens have a media type of their own.
        accept: 'application/json, */*',
        'user-agent': 'entrepot',
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
      },
      signal,
    });
    if (response.status !== (sent === undefined ? 200 : 201)) throw await refusalOf(response, path);
    return { url, body: response.body };
  }
}

/** A response with a body that is still to be read. */
interface Answer {
  readonly url: URL;
  readonly body: Readable;
}

async function readObject(path: string, { url, body }: Answer, signal?: AbortSignal): Promise<JsonObject> {
  try {
    const answer = parseJsonObject(await collect(body, MAX_ANSWER_BYTES));
    if (answer === undefined) throw new KubeProtocolError(`${path} is not a JSON object`);
    return answer;
  } catch (error) {
    throw transportFailure(error, { url, signal });
  }
}

/** The error of a response. The API server sends a `Status`; proxies send anything. */
async function refusalOf({ status, body }: HttpResponse, path: string): Promise<KubeRefusal> {
  const text = await collect(body, MAX_STATUS_BYTES).catch(() => '');
  const message = parseJsonObject(text)?.['message'];
  return new KubeRefusal(status, typeof message === 'string' ? message : `${path}: status ${status}`);
}

/** The error for a body that could not be read. An error that the server sent in it is kept. */
function transportFailure(error: unknown, request: Parameters<typeof failureOf>[1]): unknown {
  if (error instanceof UnscannableText) return new KubeProtocolError(error.message, { cause: error });
  const isSaid = [KubeRefusal, KubeProtocolError, PageTooLarge].some(kind => error instanceof kind);
  return isSaid ? error : failureOf(error, request);
}

function selectorsOf({ fieldSelector, labelSelector }: KubeCollection): Record<string, string> {
  return {
    ...(fieldSelector !== undefined && { fieldSelector }),
    ...(labelSelector !== undefined && { labelSelector }),
  };
}

function pageOf(texts: ReadonlyMap<string, string>, { path }: KubeCollection): Omit<Page, 'bytes'> {
  const resourceVersion = texts.get('metadata.resourceVersion');
  if (resourceVersion === undefined) throw new KubeProtocolError(`${path} is not a list`);
  return { resourceVersion, next: texts.get('metadata.continue') || undefined };
}

function eventOf(
  type: string | undefined,
  object: ScannedObject | undefined,
  collection: KubeCollection,
): WatchEvent {
  if (object === undefined) throw new KubeProtocolError('a watch sent something other than an event');
  switch (type) {
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
      return { type, object: objectOf(object, collection) };
    case 'BOOKMARK':
      return { type, resourceVersion: object.resourceVersion };
    case 'ERROR': {
      const { code, message } = parseJsonObject(object.bytes ?? '') ?? {};
      throw new KubeRefusal(
        typeof code === 'number' ? code : 500,
        typeof message === 'string' ? message : 'the watch failed',
      );
    }
    default:
      throw new KubeProtocolError('a watch sent an event of an unknown type');
  }
}

function objectOf(object: ScannedObject, { maxObjectBytes }: KubeCollection): KubeObject {
  if (object.name === '' || object.uid === '' || object.resourceVersion === '') {
    throw new KubeProtocolError('an object of the cluster has no name, no UID or no version');
  }
  if (object.size <= maxObjectBytes) return object;
  const problem = `it has ${object.size} bytes, and at most ${maxObjectBytes} are read`;
  return { ...object, bytes: undefined, problem };
}

function collect(body: Readable, maxBytes: number): Promise<Buffer> {
  const tooLarge = () => new KubeProtocolError(`a response is larger than ${maxBytes} bytes`);
  return collectBytes(body, maxBytes, tooLarge);
}
