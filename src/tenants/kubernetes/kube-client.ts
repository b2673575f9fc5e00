import type { Readable } from 'node:stream';
import { failureOf, HttpClient, HttpFailure, type HttpResponse } from '../../lib/http-client.ts';
import { type JsonObject, parseJsonObject } from '../../lib/json.ts';
import type { Log } from '../../lib/log.ts';
import type { ProxySettings } from '../../lib/proxy.ts';
import type { ClusterAccess } from './cluster-access.ts';
import { ObjectScanner, type ScannedObject, UnscannableText } from './object-scanner.ts';

/** An object of the API, as far as it is known whatever its kind. */
export interface KubeObject extends ScannedObject {
  /** Why its content is not to be had, though it is there; then it has no `bytes`. */
  readonly problem?: string | undefined;
}

/** What is listed and watched: a path such as `/api/v1/secrets`, perhaps narrowed by selectors. */
export interface Collection {
  readonly path: string;
  readonly fieldSelector?: string | undefined;
  readonly labelSelector?: string | undefined;
  /** The largest object whose content is read, bytes of JSON; of larger ones no more than who they are. */
  readonly maxObjectBytes: number;
}

export type WatchEvent =
  | { readonly type: 'ADDED' | 'MODIFIED' | 'DELETED'; readonly object: KubeObject }
  /** Nothing changed up to this version. */
  | { readonly type: 'BOOKMARK'; readonly resourceVersion: string };

/** The API server answered something else than success. The message is its own. */
export class KubeRefusal extends Error {
  override readonly name = 'KubeRefusal';
  readonly status: number;

  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }

  /** What was asked for lies too far in the past: it has to be listed anew. */
  get isGone(): boolean {
    return this.status === 410;
  }
}

/** The API server said something that is none of its protocol. */
export class KubeProtocolError extends Error {
  override readonly name = 'KubeProtocolError';
}

class PageTooLarge extends Error {}

/** Some objects of a list, which were taken in, and where the next ones are. */
interface Page {
  readonly resourceVersion: string;
  readonly next: string | undefined;
  readonly bytes: number;
}

/** Of usual objects, 100 kB; a page of which each is as large as etcd takes them has 9 MB an object in JSON. */
const PAGE_OBJECTS = { first: 50, least: 1, most: 500 } as const;

/** The server makes a page in its memory before it sends it: a larger one is asked for again with fewer objects. */
const MAX_PAGE_BYTES = 32 * 2 ** 20;

/** The next page is to be about so large. */
const PAGE_BYTES = 4 * 2 ** 20;

/** The answer to a question for one thing: a Namespace of etcd's limit, with every byte of it escaped. */
const MAX_ANSWER_BYTES = 16 * 2 ** 20;

/** Errors are told in a watch as objects of their own; bookmarks have nothing but a version. */
const MAX_STATUS_BYTES = 64 * 1024;

const CONNECT_MS = 5_000;
const ANSWER_MS = 30_000;

/** The server ends a watch by itself after so long, so that watches move on to new servers. */
const WATCH_S = 300;

/** A watch on which nothing was said for so long was not refused. */
const QUIET_MS = 500;

/** Bookmarks come about once a minute. After such a silence the connection is dead, and going on costs one request. */
const WATCH_SILENCE_MS = 150_000;

export interface KubeClientOptions {
  readonly proxy?: ProxySettings | undefined;
  /** Told when the access is another than before. */
  readonly log?: Log;
}

/** Both ways of asking, under one and the same trust. */
interface Connections {
  /** What the trust was made of. */
  readonly trust: string;
  readonly calls: HttpClient;
  readonly watches: HttpClient;
}

/** The few requests to a Kubernetes API server that tenants need. */
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

  /** One object or document. Throws KubeRefusal. */
  async read(path: string, signal?: AbortSignal): Promise<JsonObject> {
    return this.#readJson(path, {}, signal);
  }

  /** The version of the collection now, to watch from. Throws KubeRefusal. */
  async version(collection: Collection, signal?: AbortSignal): Promise<string> {
    const { resourceVersion } = await this.#page(
      { ...collection, maxObjectBytes: 0 },
      { limit: 1, signal, take() {} },
    );
    return resourceVersion;
  }

  /**
   * All objects of a collection in one version, which is answered, to watch from. `begin` is called for what takes them
   * in, and again when they are listed anew from the start: pages that the server has forgotten half way are followed by
   * one list that has none. `take` answers false when it wants no more. Throws KubeRefusal.
   */
  async list(
    collection: Collection,
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
    collection: Collection,
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

  /** One page, or without a limit everything. */
  async #page(
    collection: Collection,
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
   * The changes of a collection since a version. `opened` is called when the server has taken the request; `following`
   * with each change, and when there is none to tell for a while; it ends when the server ends it. Throws KubeRefusal,
   * also for what it says in the middle.
   */
  async *watch(
    collection: Collection,
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
    // That it has forgotten the version, it says in a first event, behind a status of 200.
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

  /** Breaks off everything in flight. */
  async close(): Promise<void> {
    await Promise.all([this.#connections?.calls.close(), this.#connections?.watches.close()]);
  }

  /** When an authority or our certificate was renewed, what stands under the old ones is broken off: it is asked anew. */
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

  async #readJson(path: string, query: Record<string, string>, signal?: AbortSignal): Promise<JsonObject> {
    const { url, body } = await this.#request('calls', path, query, signal);
    try {
      const answer = parseJsonObject(await textOf(body, MAX_ANSWER_BYTES));
      if (answer === undefined) throw new KubeProtocolError(`${path} is not a JSON object`);
      return answer;
    } catch (error) {
      throw transportFailure(error, { url, signal });
    }
  }

  async #request(
    kind: 'calls' | 'watches',
    path: string,
    query: Record<string, string>,
    signal?: AbortSignal,
  ): Promise<{ readonly url: URL; readonly body: Readable }> {
    const { server } = this.#access;
    const url = new URL(server.pathname.replace(/\/$/, '') + path, server);
    url.search = new URLSearchParams(query).toString();
    const [connections, token] = await Promise.all([this.#connect(), this.#access.token()]);
    const response = await connections[kind].request({
      method: 'GET',
      url,
      headers: {
        // The keys of tokens have a type of their own.
        accept: 'application/json, */*',
        'user-agent': 'entrepot',
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
      },
      signal,
    });
    if (response.status !== 200) throw await refusalOf(response, path);
    return { url, body: response.body };
  }
}

/** The API server's `Status` in words; proxies before it answer anything. */
async function refusalOf({ status, body }: HttpResponse, path: string): Promise<KubeRefusal> {
  const text = await textOf(body, MAX_STATUS_BYTES).catch(() => '');
  const message = parseJsonObject(text)?.['message'];
  return new KubeRefusal(status, typeof message === 'string' ? message : `${path}: status ${status}`);
}

/** What broke while a body was read; what the server said in it stays what it is. */
function transportFailure(error: unknown, request: Parameters<typeof failureOf>[1]): unknown {
  if (error instanceof UnscannableText) return new KubeProtocolError(error.message, { cause: error });
  const isSaid = [KubeRefusal, KubeProtocolError, PageTooLarge].some(kind => error instanceof kind);
  return isSaid ? error : failureOf(error, request);
}

function selectorsOf({ fieldSelector, labelSelector }: Collection): Record<string, string> {
  return {
    ...(fieldSelector !== undefined && { fieldSelector }),
    ...(labelSelector !== undefined && { labelSelector }),
  };
}

function pageOf(texts: ReadonlyMap<string, string>, { path }: Collection): Omit<Page, 'bytes'> {
  const resourceVersion = texts.get('metadata.resourceVersion');
  if (resourceVersion === undefined) throw new KubeProtocolError(`${path} is not a list`);
  return { resourceVersion, next: texts.get('metadata.continue') || undefined };
}

function eventOf(
  type: string | undefined,
  object: ScannedObject | undefined,
  collection: Collection,
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

function objectOf(object: ScannedObject, { maxObjectBytes }: Collection): KubeObject {
  if (object.name === '' || object.uid === '' || object.resourceVersion === '') {
    throw new KubeProtocolError('an object of the cluster has no name, no UID or no version');
  }
  if (object.size <= maxObjectBytes) return object;
  const problem = `it has ${object.size} bytes, and at most ${maxObjectBytes} are read`;
  return { ...object, bytes: undefined, problem };
}

async function textOf(body: Readable, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBytes) {
      body.destroy();
      throw new KubeProtocolError(`a response is larger than ${maxBytes} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
