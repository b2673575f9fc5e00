// A Kubernetes API server over real HTTP, as far as tenants need it: it lists in pages, watches, forgets old versions,
// and refuses requests.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { isJsonObject, type JsonObject } from '../../lib/json.ts';

interface Stored {
  readonly collection: string;
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly type: string | undefined;
  readonly object: JsonObject;
}

interface Change {
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly version: number;
  readonly stored: Stored;
}

interface Watch {
  readonly query: Query;
  readonly response: ServerResponse;
}

interface Query {
  readonly collection: string;
  readonly namespace: string | undefined;
  readonly fields: ReadonlyMap<string, string>;
  readonly labels: ReadonlyMap<string, string>;
}

/** An object as a test writes it. */
export interface Written {
  readonly collection: 'secrets' | 'serviceaccounts' | 'namespaces';
  readonly namespace?: string;
  readonly name: string;
  readonly uid?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly fields?: JsonObject;
  /** Further members of `metadata`. */
  readonly metadata?: JsonObject;
}

export class FakeApiServer {
  /** Request targets without the method, in order. */
  readonly requests: string[] = [];
  /** Paths that are answered with a status. */
  readonly refused = new Map<string, number>();
  /** The status with which watches are refused. */
  watchStatus: number | undefined;
  /** Whether an outdated version is reported in an event of a 200 response, as real servers do. */
  isGoneAnEvent = false;
  /** How many further pages of a list are reported as expired. */
  forgottenPages = 0;
  /** The bearer token that is required. */
  token: string | undefined;
  /** Collections whose changes are not sent to watches. */
  readonly muted = new Set<string>();
  #port = 0;
  readonly #server: Server;
  readonly #objects = new Map<string, Stored>();
  readonly #held = new Map<string, Promise<void>>();
  readonly #watches = new Set<Watch>();
  /** Text to send to watches that begin at or before a version, by collection. */
  readonly #broken = new Map<string, string>();
  #changes: Change[] = [];
  #version = 100;
  #oldest = 100;
  #lastUid = 0;

  private constructor() {
    this.#server = createServer((request, response) => this.#answer(request, response));
  }

  static async start(port = 0): Promise<FakeApiServer> {
    const server = new FakeApiServer();
    await server.listen(port);
    return server;
  }

  get port(): number {
    return this.#port;
  }

  get url(): URL {
    return new URL(`http://127.0.0.1:${this.port}`);
  }

  get watches(): number {
    return this.#watches.size;
  }

  async listen(port: number): Promise<void> {
    await new Promise<void>(resolve => this.#server.listen(port, '127.0.0.1', resolve));
    const address = this.#server.address();
    if (typeof address === 'object' && address !== null) this.#port = address.port;
  }

  /** Stops listening and breaks all connections; objects are kept. */
  async close(): Promise<void> {
    this.#watches.clear();
    this.#server.closeAllConnections();
    await new Promise(resolve => this.#server.close(resolve));
  }

  /** Does not answer requests for a path until the returned function is called. */
  hold(path: string): () => void {
    let release: (() => void) | undefined;
    this.#held.set(path, new Promise(resolve => (release = resolve)));
    return () => release?.();
  }

  /** Creates or replaces an object; returns its UID. */
  put(written: Written): string {
    const { collection, namespace = '', name, labels = {}, annotations = {}, fields = {} } = written;
    const key = `${collection} ${namespace} ${name}`;
    const known = this.#objects.get(key);
    const uid = written.uid ?? uidOf(known) ?? `uid-${(this.#lastUid += 1)}`;
    const version = (this.#version += 1);
    const metadata = {
      ...written.metadata,
      name,
      ...(namespace !== '' && { namespace }),
      uid,
      labels,
      annotations,
      resourceVersion: `${version}`,
    };
    const type = typeof fields['type'] === 'string' ? fields['type'] : undefined;
    const stored = { collection, namespace, name, labels, type, object: { ...fields, metadata } };
    this.#objects.set(key, stored);
    this.#tell({ type: known === undefined ? 'ADDED' : 'MODIFIED', version, stored }, known);
    return uid;
  }

  remove({ collection, namespace = '', name }: Written): void {
    const key = `${collection} ${namespace} ${name}`;
    const known = this.#objects.get(key);
    if (known === undefined) return;
    this.#objects.delete(key);
    const version = (this.#version += 1);
    const { metadata: last } = known.object;
    const metadata = { ...(isJsonObject(last) && last), resourceVersion: `${version}` };
    this.#tell(
      { type: 'DELETED', version, stored: { ...known, object: { ...known.object, metadata } } },
      known,
    );
  }

  /** Forgets all versions before the current one. */
  forget(): void {
    this.#changes = [];
    this.#version += 1;
    this.#oldest = this.#version;
  }

  /** Sends a bookmark with the current version to all watches. */
  bookmark(): void {
    for (const { response } of this.#watches) {
      write(response, { type: 'BOOKMARK', object: { metadata: { resourceVersion: `${this.#version}` } } });
    }
  }

  /** Ends all watches, as a server does after some minutes. */
  endWatches(): void {
    for (const { response } of this.#watches) response.end();
    this.#watches.clear();
  }

  /** Sends this text to all watches of a collection, now and whenever one begins, and breaks them. */
  breakWatches(collection: string, text: string): void {
    this.#broken.set(collection, text);
    for (const { query, response } of this.#watches) if (query.collection === collection) response.end(text);
  }

  /** Breaks all watches with an error event. */
  failWatches(code: number): void {
    for (const { response } of this.#watches) {
      write(response, goneEvent(code));
    }
  }

  #tell(change: Change, before: Stored | undefined): void {
    if (this.muted.has(change.stored.collection)) return;
    this.#changes.push(change);
    for (const { query, response } of this.#watches) {
      const event = eventFor(query, change, before);
      if (event !== undefined) write(response, event);
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const target = request.url ?? '';
    this.requests.push(target);
    const { pathname } = new URL(target, 'http://server');
    void (this.#held.get(pathname) ?? Promise.resolve()).then(() => this.#answerNow(request, response));
  }

  #answerNow(request: IncomingMessage, response: ServerResponse): void {
    const target = request.url ?? '';
    const { pathname, searchParams } = new URL(target, 'http://server');
    if (this.token !== undefined && request.headers.authorization !== `Bearer ${this.token}`) {
      return refuse(response, 401, 'Unauthorized');
    }
    const refusal = this.refused.get(pathname);
    if (refusal !== undefined) return refuse(response, refusal, `${pathname} is forbidden`);
    const namespace = /^\/api\/v1\/namespaces\/([^/]+)$/.exec(pathname)?.[1];
    if (namespace !== undefined) return this.#answerNamespace(namespace, response);
    const [, inNamespace, collection = ''] =
      /^\/api\/v1\/(?:namespaces\/([^/]+)\/)?(\w+)$/.exec(pathname) ?? [];
    const query = {
      collection,
      namespace: inNamespace,
      fields: selectorOf(searchParams.get('fieldSelector')),
      labels: selectorOf(searchParams.get('labelSelector')),
    };
    return searchParams.get('watch') === '1'
      ? this.#watch(query, Number(searchParams.get('resourceVersion')), response)
      : this.#list(query, searchParams, response);
  }

  #answerNamespace(name: string, response: ServerResponse): void {
    const found = this.#objects.get(`namespaces  ${name}`);
    if (found === undefined) refuse(response, 404, `namespaces "${name}" not found`);
    else send(response, 200, found.object);
  }

  #list(query: Query, search: URLSearchParams, response: ServerResponse): void {
    const from = Number(search.get('continue') ?? 0);
    if (from > 0 && this.forgottenPages > 0) {
      this.forgottenPages -= 1;
      return refuse(response, 410, 'the continue token has expired');
    }
    const all = [...this.#objects.values()].filter(stored => isIn(query, stored));
    const limit = Number(search.get('limit') ?? all.length);
    const next = from + limit < all.length ? { continue: String(from + limit) } : {};
    send(response, 200, {
      metadata: { resourceVersion: `${this.#version}`, ...next },
      items: all.slice(from, from + limit).map(({ object }) => object),
    });
  }

  #watch(query: Query, version: number, response: ServerResponse): void {
    if (this.watchStatus !== undefined) return refuse(response, this.watchStatus, 'cannot watch');
    if (version < this.#oldest && !this.isGoneAnEvent) {
      return refuse(response, 410, 'too old resource version');
    }
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    const broken = this.#broken.get(query.collection);
    if (broken !== undefined && version < this.#version) {
      response.end(broken);
      return;
    }
    if (version < this.#oldest) {
      write(response, goneEvent(410));
      response.end();
      return;
    }
    for (const change of this.#changes.filter(one => one.version > version)) {
      const event = eventFor(query, change, undefined);
      if (event !== undefined) write(response, event);
    }
    const watch = { query, response };
    this.#watches.add(watch);
    response.once('close', () => this.#watches.delete(watch));
  }
}

function goneEvent(code: number): JsonObject {
  return { type: 'ERROR', object: { kind: 'Status', code, message: 'too old' } };
}

/** The event for a watch with a selector: an object that no longer matches is deleted for it. */
function eventFor(
  query: Query,
  { type, stored }: Change,
  before: Stored | undefined,
): JsonObject | undefined {
  if (isIn(query, stored)) return { type, object: stored.object };
  return before !== undefined && isIn(query, before) ? { type: 'DELETED', object: stored.object } : undefined;
}

function isIn({ collection, namespace, fields, labels }: Query, stored: Stored): boolean {
  return (
    stored.collection === collection &&
    (namespace === undefined || stored.namespace === namespace) &&
    [...fields].every(([key, value]) => (key === 'type' ? stored.type : stored.name) === value) &&
    [...labels].every(([key, value]) => stored.labels[key] === value)
  );
}

function selectorOf(text: string | null): ReadonlyMap<string, string> {
  const pairs = (text ?? '').split(',').filter(Boolean);
  return new Map(pairs.map(pair => [pair.split('=')[0] ?? '', pair.slice(pair.indexOf('=') + 1)]));
}

function uidOf(stored: Stored | undefined): string | undefined {
  const metadata = stored?.object['metadata'];
  const uid = isJsonObject(metadata) ? metadata['uid'] : undefined;
  return typeof uid === 'string' ? uid : undefined;
}

function write(response: ServerResponse, event: JsonObject): void {
  response.write(`${JSON.stringify(event)}\n`);
}

function send(response: ServerResponse, status: number, body: JsonObject): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

function refuse(response: ServerResponse, code: number, message: string): void {
  send(response, code, { kind: 'Status', code, message });
}
