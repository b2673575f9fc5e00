// A registry that serves content, counts, remembers, and misbehaves on purpose.
//
// const upstream = await FakeUpstream.start();
// upstream.add('library/app', imageOf([randomBlob(1_000_000, 'a')]), '1.0');
// upstream.misbehave({ kind: 'blob', times: 1, cutAtByte: 500_000 });
// … expect(upstream.count('blob')).toBe(2);
// await upstream.stop();
import {
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Digest, isDigest } from '../../src/oci/digest.ts';
import { isIndexType, isManifestType, OCI_INDEX } from '../../src/oci/media-types.ts';
import { type Content, contentOf, descriptorOf, type Image, type ImageIndex } from './content.ts';
import { FakeAuth, type FakeAuthOptions, parseBasic } from './fake-upstream-auth.ts';
import { Gate, Link, sendBody } from './fake-upstream-link.ts';
import {
  fits,
  type Match,
  type Misbehaviour,
  Misbehaviours,
  type RecordedRequest,
  recordOf,
  type RequestKind,
} from './fake-upstream-requests.ts';

export interface FakeUpstreamOptions {
  readonly auth?: FakeAuthOptions;
  /**
   * The path under which a proxy in front shows what is `/v2` here, as `/registry/v2` or `/v2/hub`; nothing is found under
   * another. Default `/v2`.
   */
  readonly api?: string;
  /** PEM: serves HTTPS. */
  readonly tls?: { readonly key: string; readonly cert: string };
  /** What all connections together may carry. Default unlimited. */
  readonly linkBytesPerS?: number;
  /** Default strong. */
  readonly etags?: 'strong' | 'weak' | 'none';
  /** Whether Range is answered with 206. Default true. */
  readonly ranges?: boolean;
  /** Default `normal`. */
  readonly manifestHead?: 'normal' | 'not-allowed' | 'no-digest';
  /** Whether there is a referrers API. Default true. */
  readonly referrers?: boolean;
  /** The most entries on a page of tags or referrers, whatever `n` asks. Default 1,000. */
  readonly pageSize?: number;
  /** Another server whose content this one serves under `/storage/`: the role of a CDN. */
  readonly storageOf?: FakeUpstream;
}

interface FakeRepository {
  readonly tags: Map<string, Digest>;
  readonly manifests: Map<Digest, Content>;
  readonly blobs: Set<Digest>;
}

interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly record: RecordedRequest;
  readonly url: URL;
  readonly rule: Misbehaviour;
}

const API = '/v2';

/** What a request for `path` asks the server behind the proxy for. */
function pathBehindProxy(path: string, api: string): string {
  if (path === api || path.startsWith(`${api}/`)) return API + path.slice(api.length);
  return path === API || path.startsWith(`${API}/`) ? '/not-proxied' : path;
}

const CHUNK_OF_SPACES = Buffer.alloc(64 * 1024, ' ');
const DEFAULT_PAGE_SIZE = 1_000;

export class FakeUpstream {
  /** Everything that was asked, in order. Empty it to start counting anew. */
  readonly requests: RecordedRequest[] = [];
  readonly #options: FakeUpstreamOptions;
  readonly #server: Server;
  readonly #auth: FakeAuth | undefined;
  readonly #contents = new Map<Digest, Content>();
  readonly #repositories = new Map<string, FakeRepository>();
  readonly #misbehaviours = new Misbehaviours();
  readonly #link: Link;
  #bytesSent = 0;
  #redirectBlobsTo: string | undefined;

  private constructor(options: FakeUpstreamOptions) {
    this.#options = options;
    this.#link = new Link(options.linkBytesPerS);
    this.#auth = options.auth && new FakeAuth(options.auth, () => this.url);
    const listener = (request: IncomingMessage, response: ServerResponse) => {
      // A client that leaves in the middle is no fault of this server; anything else is, and shows as a reset.
      this.#answer(request, response).catch(() => response.destroy());
    };
    this.#server = options.tls ? createTlsServer(options.tls, listener) : createServer(listener);
    this.#server.keepAliveTimeout = 60_000;
  }

  /** Listens on a free port of 127.0.0.1. */
  static async start(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
    const upstream = new FakeUpstream(options);
    await new Promise<void>(resolve => upstream.#server.listen(0, '127.0.0.1', resolve));
    return upstream;
  }

  /** Breaks all connections off. */
  async stop(): Promise<void> {
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string')
      throw new Error('the fake upstream is not listening');
    return address.port;
  }

  /** `host:port`. */
  get host(): string {
    return `127.0.0.1:${this.port}`;
  }

  get url(): string {
    return `${this.#options.tls ? 'https' : 'http'}://${this.host}`;
  }

  /** Of bodies, all kinds. */
  get bytesSent(): number {
    return this.#bytesSent;
  }

  // Content.

  /** Adds an image or an index with all it names, or a single manifest or blob, and points the tag at it. */
  add(repository: string, what: Image | ImageIndex | Content, tag?: string): Digest {
    const { manifests, blobs } = this.#repository(repository);
    const putBlob = (content: Content) => {
      this.#contents.set(content.digest, content);
      blobs.add(content.digest);
    };
    if ('images' in what) for (const image of what.images) this.add(repository, image);
    if ('layers' in what) for (const blob of [what.config, ...what.layers]) putBlob(blob);
    const top = 'manifest' in what ? what.manifest : what;
    if (isManifest(top)) manifests.set(top.digest, top);
    else putBlob(top);
    if (tag !== undefined) this.tag(repository, tag, top.digest);
    return top.digest;
  }

  tag(repository: string, tag: string, digest: Digest): void {
    this.#repository(repository).tags.set(tag, digest);
  }

  /** Removes a tag, a manifest or a blob from the repository. */
  remove(repository: string, reference: string): void {
    const { tags, manifests, blobs } = this.#repository(repository);
    tags.delete(reference);
    for (const held of [manifests, blobs]) if (isDigest(reference)) held.delete(reference);
  }

  /** Answers blob GETs (and HEADs) with a redirect to another fake upstream that was started with `storageOf` this one. */
  redirectBlobsTo(storage: FakeUpstream | undefined): void {
    this.#redirectBlobsTo = storage?.url;
  }

  // Behaviour.

  /** The newest misbehaviour that fits a request and is not used up applies. Returns the way to end it. */
  misbehave(rule: Misbehaviour): () => void {
    return this.#misbehaviours.add(rule);
  }

  /** Ends all misbehaviour. */
  behave(): void {
    this.#misbehaviours.clear();
  }

  revokeTokens(): void {
    this.#auth?.revokeTokens();
  }

  // What was seen.

  /** How many requests of this kind there were. */
  count(kind: RequestKind, filter: Pick<Match, 'method' | 'repository' | 'reference'> = {}): number {
    return this.requests.filter(request => fits({ ...filter, kind }, request)).length;
  }

  /** Requests for bytes of blobs to their end: a closed range only shows bytes, for a proof. */
  downloads(): readonly RecordedRequest[] {
    return this.requests.filter(
      ({ kind, method, headers }) =>
        kind === 'blob' && method === 'GET' && !/^bytes=\d+-\d+$/.test(headers.range ?? ''),
    );
  }

  /** Whether any request carried this text in its `Authorization`, decoded or not, or in its path. */
  saw(secret: string): boolean {
    return this.requests.some(({ headers, path }) => {
      const authorization = headers.authorization ?? '';
      const decoded = parseBasic(authorization);
      return [authorization, decoded?.username, decoded?.password, path].some(text => text?.includes(secret));
    });
  }

  /** Connections that are open now. */
  async connections(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
    });
  }

  // Answering.

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://fake.invalid');
    url.pathname = pathBehindProxy(url.pathname, this.#options.api ?? API);
    const record = recordOf(request, url);
    this.requests.push(record);
    const exchange: Exchange = { request, response, record, url, rule: this.#misbehaviours.meet(record) };
    const { rule } = exchange;
    response.once('close', () => {
      if (response.headersSent) record.status = response.statusCode;
    });
    if (rule.delayMs !== undefined) await sleep(rule.delayMs);
    await rule.after;
    if (rule.hang) return;
    if (rule.reset) request.socket.destroy();
    else if (rule.redirectTo !== undefined) this.#redirect(exchange, rule.redirectTo);
    else if (rule.status !== undefined) await this.#say(exchange, rule.status, rule.body ?? '');
    else await this.#route(exchange);
  }

  async #route(exchange: Exchange): Promise<void> {
    const { record, url } = exchange;
    if (record.kind === 'token') {
      const { status, body } = this.#auth?.issue(
        record.headers.authorization,
        url.searchParams.getAll('scope'),
      ) ?? {
        status: 404,
        body: {},
      };
      return this.#say(exchange, status, JSON.stringify(body), { 'Content-Type': 'application/json' });
    }
    if (record.kind === 'storage') {
      const digest = digestOf(record);
      const content = digest && (this.#options.storageOf ?? this).#contents.get(digest);
      return content
        ? this.#serve(exchange, content, 'application/octet-stream')
        : this.#unknown(exchange, 'BLOB');
    }
    const verdict = this.#auth?.judge(record.headers.authorization, record.repository) ?? { status: 200 };
    if (verdict.status === 404) return this.#unknown(exchange, 'NAME');
    if (verdict.status !== 200) {
      const challenge = verdict.challenge === undefined ? {} : { 'WWW-Authenticate': verdict.challenge };
      return this.#fail(
        exchange,
        verdict.status,
        verdict.status === 401 ? 'UNAUTHORIZED' : 'DENIED',
        challenge,
      );
    }
    if (record.kind === 'ping') return this.#say(exchange, 200, '{}');
    const repository = this.#repositories.get(record.repository ?? '');
    if (repository === undefined) return this.#unknown(exchange, 'NAME');
    if (record.kind === 'manifest') return this.#manifest(exchange, repository);
    if (record.kind === 'blob') return this.#blob(exchange, repository);
    if (record.kind === 'tags') return this.#tags(exchange, repository);
    if (record.kind === 'referrers') return this.#referrers(exchange, repository);
    return this.#unknown(exchange, 'NAME');
  }

  async #manifest(exchange: Exchange, repository: FakeRepository): Promise<void> {
    const { manifestHead = 'normal' } = this.#options;
    const { method, reference = '' } = exchange.record;
    if (method === 'HEAD' && manifestHead === 'not-allowed') return this.#fail(exchange, 405, 'UNSUPPORTED');
    const digest = repository.tags.get(reference) ?? digestOf(exchange.record);
    const content = digest && repository.manifests.get(digest);
    if (digest === undefined || content === undefined) return this.#unknown(exchange, 'MANIFEST');
    const withDigest = method !== 'HEAD' || manifestHead === 'normal';
    return this.#serve(
      exchange,
      content,
      content.mediaType,
      withDigest ? { 'Docker-Content-Digest': digest } : {},
    );
  }

  async #blob(exchange: Exchange, repository: FakeRepository): Promise<void> {
    const digest = digestOf(exchange.record);
    const content = digest && repository.blobs.has(digest) ? this.#contents.get(digest) : undefined;
    if (digest === undefined || content === undefined) return this.#unknown(exchange, 'BLOB');
    if (this.#redirectBlobsTo !== undefined) {
      return this.#redirect(exchange, `${this.#redirectBlobsTo}/storage/${digest}?signature=fake`);
    }
    return this.#serve(exchange, content, 'application/octet-stream', { 'Docker-Content-Digest': digest });
  }

  async #tags(exchange: Exchange, repository: FakeRepository): Promise<void> {
    const { entries, link } = this.#page(exchange.url, [...repository.tags.keys()].sort(), tag => tag);
    const body = JSON.stringify({ name: exchange.record.repository, tags: entries });
    return this.#say(exchange, 200, body, { 'Content-Type': 'application/json', ...link });
  }

  async #referrers(exchange: Exchange, repository: FakeRepository): Promise<void> {
    if (this.#options.referrers === false) return this.#unknown(exchange, 'NAME');
    const all = [...repository.manifests.values()].flatMap(
      content => this.#referrer(content, exchange.record.reference) ?? [],
    );
    const { entries, link } = this.#page(exchange.url, all, ({ digest }) => digest);
    const body = JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: entries });
    return this.#say(exchange, 200, body, { 'Content-Type': OCI_INDEX, ...link });
  }

  #referrer(content: Content, subject: string | undefined) {
    const manifest = JSON.parse(Buffer.concat(Array.from(content.slice())).toString());
    if (manifest.subject?.digest !== subject) return undefined;
    const { artifactType = manifest.config?.mediaType, annotations } = manifest;
    return { ...descriptorOf(content), artifactType, annotations };
  }

  #page<T>(
    url: URL,
    all: readonly T[],
    keyOf: (entry: T) => string,
  ): { entries: T[]; link: Record<string, string> } {
    const limit = Math.min(
      Number(url.searchParams.get('n') ?? Infinity),
      this.#options.pageSize ?? DEFAULT_PAGE_SIZE,
    );
    const last = url.searchParams.get('last');
    const from = last === null ? 0 : all.findIndex(entry => keyOf(entry) === last) + 1;
    const entries = all.slice(from, from + limit);
    const end = entries.at(-1);
    if (end === undefined || from + limit >= all.length) return { entries, link: {} };
    const query = new URLSearchParams({ n: String(limit), last: keyOf(end) });
    return { entries, link: { Link: `<${url.pathname}?${query.toString()}>; rel="next"` } };
  }

  async #serve(
    exchange: Exchange,
    content: Content,
    mediaType: string,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<void> {
    const { etags = 'strong', ranges = true } = this.#options;
    const etag = { strong: `"${content.digest}"`, weak: `W/"${content.digest}"`, none: undefined }[etags];
    const range = ranges ? rangeOf(exchange.request.headers, content.size, etag) : undefined;
    if (range !== undefined && range.start >= content.size) {
      return this.#fail(exchange, 416, 'RANGE_INVALID', { 'Content-Range': `bytes */${content.size}` });
    }
    const { start, end } = range ?? { start: 0, end: content.size };
    return this.#send(exchange, range === undefined ? 200 : 206, content.slice(start, end), {
      'Content-Type': mediaType,
      'Content-Length': String(end - start),
      ...(ranges ? { 'Accept-Ranges': 'bytes' } : {}),
      ...(etag === undefined ? {} : { ETag: etag }),
      ...(range === undefined ? {} : { 'Content-Range': `bytes ${start}-${end - 1}/${content.size}` }),
      ...headers,
    });
  }

  async #unknown(exchange: Exchange, what: 'NAME' | 'MANIFEST' | 'BLOB'): Promise<void> {
    return this.#fail(exchange, 404, `${what}_UNKNOWN`);
  }

  async #fail(
    exchange: Exchange,
    status: number,
    code: string,
    headers: Readonly<Record<string, string | readonly string[]>> = {},
  ): Promise<void> {
    const body = JSON.stringify({ errors: [{ code, message: code.toLowerCase().replaceAll('_', ' ') }] });
    return this.#say(exchange, status, body, { 'Content-Type': 'application/json', ...headers });
  }

  #redirect(exchange: Exchange, to: string | ((request: RecordedRequest) => string)): void {
    const location = typeof to === 'string' ? to : to(exchange.record);
    exchange.response
      .writeHead(exchange.rule.status ?? 307, { Location: location, 'Content-Length': '0' })
      .end();
  }

  async #say(
    exchange: Exchange,
    status: number,
    body: string,
    headers: Readonly<Record<string, string | readonly string[]>> = {},
  ): Promise<void> {
    const bytes = contentOf(body, 'text/plain');
    return this.#send(exchange, status, bytes.slice(), { 'Content-Length': String(bytes.size), ...headers });
  }

  async #send(
    { response, record, rule }: Exchange,
    status: number,
    pieces: Iterable<Buffer>,
    headers: Readonly<Record<string, string | readonly string[]>>,
  ): Promise<void> {
    const body = rule.spaces === undefined ? pieces : spaces(rule.spaces);
    const all: Record<string, string | readonly string[] | null> = { ...headers };
    if (rule.spaces !== undefined) all['Content-Length'] = String(rule.spaces);
    // A length that is not the truth needs an end of the connection, or the client would wait for the rest.
    if (rule.contentLength !== undefined) {
      Object.assign(all, { 'Content-Length': String(rule.contentLength), Connection: 'close' });
    }
    Object.assign(all, rule.headers);
    response.statusCode = status;
    for (const [name, value] of Object.entries(all)) if (value !== null) response.setHeader(name, value);
    if (record.method === 'HEAD') {
      response.end();
      return;
    }
    response.flushHeaders();
    await sendBody(response, body, {
      ...rule,
      links: [
        this.#link,
        ...(rule.bytesPerS === undefined ? [] : [new Link(rule.bytesPerS)]),
        ...(rule.pause === undefined ? [] : [new Gate(rule.pause)]),
      ],
      onSent: bytes => {
        this.#bytesSent += bytes;
        record.sentBytes += bytes;
      },
    });
  }

  #repository(name: string): FakeRepository {
    let repository = this.#repositories.get(name);
    if (repository === undefined) {
      repository = { tags: new Map(), manifests: new Map(), blobs: new Set() };
      this.#repositories.set(name, repository);
    }
    return repository;
  }
}

function digestOf({ reference = '' }: RecordedRequest): Digest | undefined {
  return isDigest(reference) ? reference : undefined;
}

function rangeOf(headers: IncomingHttpHeaders, size: number, etag: string | undefined) {
  const match = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '');
  if (match === null) return undefined;
  // RFC 9110, 13.1.5: If-Range compares strongly, so a weak tag never matches.
  const condition = headers['if-range'];
  if (condition !== undefined && (condition !== etag || condition.startsWith('W/'))) return undefined;
  return { start: Number(match[1]), end: match[2] ? Math.min(Number(match[2]) + 1, size) : size };
}

function isManifest(content: Content): boolean {
  return isIndexType(content.mediaType) || isManifestType(content.mediaType);
}

function* spaces(count: number): Iterable<Buffer> {
  for (let at = 0; at < count; at += CHUNK_OF_SPACES.length) {
    yield CHUNK_OF_SPACES.subarray(0, Math.min(CHUNK_OF_SPACES.length, count - at));
  }
}
