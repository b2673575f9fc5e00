import type { Readable } from 'node:stream';
import { failureOf, HttpClient, type HttpResponse } from '../../lib/http-client.ts';
import { isJsonObject, type JsonObject, parseJsonObject } from '../../lib/json.ts';
import type { Log } from '../../lib/log.ts';
import type { ProxySettings } from '../../lib/proxy.ts';
import type { ClusterAccess } from './cluster-access.ts';

/** An object of the API, as far as it is known whatever its kind. */
export interface KubeObject {
  readonly name: string;
  /** Empty for what lies in none. */
  readonly namespace: string;
  readonly uid: string;
  readonly resourceVersion: string;
  /** The whole object. */
  readonly fields: JsonObject;
}

/** What is listed and watched: a path such as `/api/v1/secrets`, perhaps narrowed by selectors. */
export interface Collection {
  readonly path: string;
  readonly fieldSelector?: string | undefined;
  readonly labelSelector?: string | undefined;
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

/** With Secrets as large as they may be, a page is 140 MB; with usual ones 200 kB. */
const PAGE_OBJECTS = 100;

/** Hundred Secrets of 1 MiB in base64, with what clients note beside them. */
const MAX_ANSWER_BYTES = 200 * 2 ** 20;

/** One Secret of 1 MiB in base64, and once more in the annotation that `kubectl apply` leaves. */
const MAX_EVENT_BYTES = 4 * 2 ** 20;

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

  /**
   * All objects of a collection in one version, page by page into `take`; that version is answered, to watch from.
   * `isPaged: false` takes them in one go, which never becomes too old half way. Throws KubeRefusal.
   */
  async list(
    collection: Collection,
    take: (object: KubeObject) => void,
    { isPaged = true, signal }: { readonly isPaged?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<string> {
    let next: string | undefined;
    for (;;) {
      const page = await this.#readJson(
        collection.path,
        {
          ...selectorsOf(collection),
          ...(isPaged && { limit: String(PAGE_OBJECTS) }),
          ...(next !== undefined && { continue: next }),
        },
        signal,
      );
      const { items, metadata } = page;
      const { resourceVersion, continue: more } = isJsonObject(metadata) ? metadata : {};
      if (typeof resourceVersion !== 'string' || (items !== null && !Array.isArray(items))) {
        throw new KubeProtocolError(`${collection.path} is no list`);
      }
      for (const item of items ?? []) take(objectOf(item));
      if (typeof more !== 'string' || more === '') return resourceVersion;
      next = more;
    }
  }

  /**
   * The changes of a collection since a version. `following` is called with each, and when there is none to tell for a
   * while; ends when the server ends it. Throws KubeRefusal, also for what it says in the middle.
   */
  async *watch(
    collection: Collection,
    resourceVersion: string,
    { following, signal }: { readonly following: () => void; readonly signal: AbortSignal },
  ): AsyncGenerator<WatchEvent> {
    const query = {
      ...selectorsOf(collection),
      watch: '1',
      allowWatchBookmarks: 'true',
      timeoutSeconds: String(WATCH_S),
      resourceVersion,
    };
    const { url, body } = await this.#request('watches', collection.path, query, signal);
    // That it has forgotten the version, it says in a first event, behind a status of 200.
    const quiet = setTimeout(following, QUIET_MS);
    try {
      for await (const line of linesOf(body)) {
        const event = eventOf(line);
        following();
        yield event;
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
      this.#options.log?.info({}, 'the certificates for the cluster have changed: connecting anew');
      await Promise.all([old.calls.close(), old.watches.close()]);
    }
    return connections;
  }

  async #readJson(path: string, query: Record<string, string>, signal?: AbortSignal): Promise<JsonObject> {
    const { url, body } = await this.#request('calls', path, query, signal);
    try {
      const answer = parseJsonObject(await textOf(body, MAX_ANSWER_BYTES));
      if (answer === undefined) throw new KubeProtocolError(`${path} is no JSON object`);
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
const MAX_STATUS_BYTES = 64 * 1024;

async function refusalOf({ status, body }: HttpResponse, path: string): Promise<KubeRefusal> {
  const text = await textOf(body, MAX_STATUS_BYTES).catch(() => '');
  const message = parseJsonObject(text)?.['message'];
  return new KubeRefusal(status, typeof message === 'string' ? message : `${path}: status ${status}`);
}

/** What broke while a body was read; what the server said in it stays what it is. */
function transportFailure(error: unknown, request: Parameters<typeof failureOf>[1]): unknown {
  const isSaid = error instanceof KubeRefusal || error instanceof KubeProtocolError;
  return isSaid ? error : failureOf(error, request);
}

function selectorsOf({ fieldSelector, labelSelector }: Collection): Record<string, string> {
  return {
    ...(fieldSelector !== undefined && { fieldSelector }),
    ...(labelSelector !== undefined && { labelSelector }),
  };
}

function eventOf(line: Buffer): WatchEvent {
  const event = parseJsonObject(line);
  const object = event?.['object'];
  if (event === undefined || !isJsonObject(object)) throw new KubeProtocolError('a watch told no event');
  switch (event['type']) {
    case 'ADDED':
    case 'MODIFIED':
    case 'DELETED':
      return { type: event['type'], object: objectOf(object) };
    case 'BOOKMARK':
      return { type: 'BOOKMARK', resourceVersion: versionOf(object) };
    case 'ERROR': {
      const { code, message } = object;
      throw new KubeRefusal(
        typeof code === 'number' ? code : 500,
        typeof message === 'string' ? message : 'the watch failed',
      );
    }
    default:
      throw new KubeProtocolError('a watch told an event of an unknown type');
  }
}

function objectOf(value: unknown): KubeObject {
  const fields = isJsonObject(value) ? value : {};
  const metadata = isJsonObject(fields['metadata']) ? fields['metadata'] : {};
  const { name, namespace, uid } = metadata;
  if (typeof name !== 'string' || typeof uid !== 'string') {
    throw new KubeProtocolError('an object of the cluster has no name or no UID');
  }
  return {
    name,
    namespace: typeof namespace === 'string' ? namespace : '',
    uid,
    resourceVersion: versionOf(fields),
    fields,
  };
}

function versionOf({ metadata }: JsonObject): string {
  const version = isJsonObject(metadata) ? metadata['resourceVersion'] : undefined;
  if (typeof version !== 'string') throw new KubeProtocolError('an object of the cluster has no version');
  return version;
}

async function textOf(body: Readable, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > maxBytes) {
      body.destroy();
      throw new KubeProtocolError(`an answer is larger than ${maxBytes} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

const NEWLINE = 0x0a;

/** The lines of a stream, of which a watch's events are one each. */
async function* linesOf(body: Readable): AsyncGenerator<Buffer> {
  let pieces: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, from)) {
      const line = Buffer.concat([...pieces, chunk.subarray(from, end)]);
      pieces = [];
      bytes = 0;
      from = end + 1;
      if (line.length > 0) yield line;
    }
    pieces.push(chunk.subarray(from));
    bytes += chunk.length - from;
    if (bytes > MAX_EVENT_BYTES)
      throw new KubeProtocolError(`an event is larger than ${MAX_EVENT_BYTES} bytes`);
  }
}
