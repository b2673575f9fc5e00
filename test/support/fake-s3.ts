// An S3 on loopback, in memory, that checks what real ones check and misbehaves as they do.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

export interface FakeObject {
  readonly bytes: Buffer;
  readonly modifiedAtMs: number;
}

interface FakeUpload {
  readonly key: string;
  readonly parts: Map<number, Buffer>;
}

/** A request that arrived. */
export interface S3Request {
  readonly method: string;
  /** Without the bucket. */
  readonly key: string;
  readonly query: URLSearchParams;
  readonly range: string | undefined;
  /** The key of the object that is to be copied. */
  readonly copied?: string;
}

/** What goes wrong with a request. */
export type S3Fault =
  /** It is refused, and nothing is done. */
  | { readonly status: number; readonly code: string; readonly headers?: Record<string, string> }
  /** It is done, but the connection ends before the answer. */
  | { readonly lost: true }
  /** No answer ever. */
  | { readonly silent: true }
  /** It arrives, but is looked at only then. */
  | { readonly after: Promise<void> }
  /** After this many bytes of a body the connection ends. */
  | { readonly cutAt: number }
  /** After this many bytes of a body nothing more comes. */
  | { readonly stopAt: number }
  /** A body comes at this rate. */
  | { readonly bytesPerS: number }
  /** After this many bytes of a body the rest waits. */
  | { readonly heldAt: number; readonly until: Promise<void> }
  /** A body of other bytes, of the announced length. */
  | { readonly wrongBytes: true; readonly heldAt?: number; readonly until?: Promise<void> }
  /** The bytes of the whole object, whatever was asked. */
  | { readonly ignoresRange: true }
  /** The answer does not say how long its body is. */
  | { readonly noLength: true }
  /** 200, and this in place of what was asked. */
  | { readonly text: string }
  /** 200, and an error in its body, whether or not it is done. */
  | { readonly errorInBody: string; readonly isUndone?: boolean };

/** PEM. */
interface Tls {
  readonly key: string;
  readonly cert: string;
}

interface StartOptions {
  readonly address?: string;
  readonly port?: number;
  readonly region?: string;
  readonly tls?: Tls | undefined;
}

const KEYS = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'a secret of the fake S3' };
const MAX_SKEW_MS = 15 * 60_000;
/** How often a slow body goes on. */
const PACE_MS = 5;
/** Hashes of bodies, which take as long to compute as everything else in an answer. */
const hashes = new WeakMap<Buffer, string>();
/** ETags of objects that were uploaded in parts, which are not made from their bytes. */
const tags = new WeakMap<Buffer, string>();

export class FakeS3 {
  keys: { accessKeyId: string; secretAccessKey: string; sessionToken?: string } = { ...KEYS };
  readonly bucket = 'registry';
  readonly region: string;
  readonly objects = new Map<string, FakeObject>();
  readonly uploads = new Map<string, FakeUpload>();
  readonly requests: S3Request[] = [];
  /** Asked for each request. */
  fault: (request: S3Request) => S3Fault | undefined = () => undefined;
  /** Added to the time of this machine. */
  skewMs = 0;
  hasBucket = true;
  pageSize = 1000;
  readonly #server: Server;
  readonly #scheme: string;
  readonly #sockets = new Set<Socket>();
  #uploadId = 0;

  private constructor(region: string, tls: Tls | undefined) {
    this.region = region;
    const listener = (request: IncomingMessage, response: ServerResponse) => {
      this.#serve(request, response).catch((error: unknown) => {
        response.destroy(error instanceof Error ? error : undefined);
      });
    };
    this.#server = tls ? createTlsServer(tls, listener) : createServer(listener);
    this.#scheme = tls ? 'https' : 'http';
    this.#server.on('connection', socket => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
  }

  /** By default on a free port of the loopback. */
  static async start({
    address = '127.0.0.1',
    port = 0,
    region = 'eu-test-1',
    tls,
  }: StartOptions = {}): Promise<FakeS3> {
    const fake = new FakeS3(region, tls);
    await new Promise<void>(resolve => {
      fake.#server.listen(port, address, resolve);
    });
    return fake;
  }

  get endpoint(): string {
    return `${this.#scheme}://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get openSockets(): number {
    return this.#sockets.size;
  }

  /** As the client's settings. */
  settings() {
    const { endpoint, region, bucket, keys } = this;
    return {
      endpoint,
      region,
      bucket,
      prefix: 'entrepot/',
      pathStyle: true,
      credentials: { from: 'env' as const, keys: { ...keys } },
    };
  }

  /** As `storage.s3` of a configuration, with the keys in a file of `folder`. */
  async config(folder: string, prefix: string) {
    const { endpoint, region, bucket, keys } = this;
    const credentialsFile = join(folder, 's3-keys');
    const { accessKeyId, secretAccessKey } = keys;
    const lines = [
      '[default]',
      `aws_access_key_id = ${accessKeyId}`,
      `aws_secret_access_key = ${secretAccessKey}`,
    ];
    await writeFile(credentialsFile, `${lines.join('\n')}\n`);
    return { endpoint, region, bucket, prefix, pathStyle: true, credentials: 'file', credentialsFile };
  }

  /** Requests so far, such as `PUT 2`, without those of the mark. */
  count(method: string): number {
    return this.requests.filter(request => request.method === method && !request.key.includes('stores/'))
      .length;
  }

  /** Keys of blobs, without the prefix. */
  blobKeys(): string[] {
    const prefix = 'entrepot/';
    return [...this.objects.keys()]
      .filter(key => key.startsWith(`${prefix}blobs/`))
      .map(key => key.slice(prefix.length));
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise(resolve => {
      this.#server.close(resolve);
    });
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', this.endpoint);
    const [, bucket = '', ...path] = url.pathname.split('/').map(decodeURIComponent);
    const { method = '', headers } = request;
    const source = headers['x-amz-copy-source'];
    const asked = {
      method,
      key: path.join('/'),
      query: url.searchParams,
      range: headers.range,
      ...(typeof source === 'string' && {
        copied: decodeURIComponent(source).slice(`/${this.bucket}/`.length),
      }),
    };
    this.requests.push(asked);
    const fault: object = this.fault(asked) ?? {};
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    response.setHeader('Date', new Date(Date.now() + this.skewMs).toUTCString());
    if ('silent' in fault) return;
    if ('after' in fault) await fault.after;
    if (isRefusal(fault)) return this.#refuse(asked, response, fault.status, fault.code, fault.headers);
    if (url.searchParams.has('X-Amz-Signature')) return this.#servePresigned(asked, url, response, fault);
    const refusal = this.#check(request, url, body);
    if (refusal !== undefined) return this.#refuse(asked, response, 403, refusal);
    if (!this.hasBucket || bucket !== this.bucket) return this.#refuse(asked, response, 404, 'NoSuchBucket');
    if (hashOf(body) !== headers['x-amz-content-sha256']) {
      return this.#refuse(asked, response, 400, 'XAmzContentSHA256Mismatch');
    }
    this.#answer(asked, body, response, fault);
  }

  /** A GET without a header of authorization. */
  #servePresigned(asked: S3Request, url: URL, response: ServerResponse, fault: object): void {
    const [head = '', signature = ''] = url.search.slice(1).split('&X-Amz-Signature=');
    const canonical = ['GET', url.pathname, head, `host:${url.host}\n`, 'host', 'UNSIGNED-PAYLOAD'].join(
      '\n',
    );
    const date = url.searchParams.get('X-Amz-Date') ?? '';
    const isValid = asked.method === 'GET' && signature === this.#sign(canonical, date).toString('hex');
    if (!isValid) return this.#refuse(asked, response, 403, 'SignatureDoesNotMatch');
    this.#get(asked, response, fault);
  }

  #sign(canonical: string, date: string): Buffer {
    const scope = `${date.slice(0, 8)}/${this.region}/s3/aws4_request`;
    let key: Buffer = Buffer.from(`AWS4${this.keys.secretAccessKey}`);
    for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest();
    const text = ['AWS4-HMAC-SHA256', date, scope, sha256(canonical)].join('\n');
    return createHmac('sha256', key).update(text).digest();
  }

  #answer(asked: S3Request, body: Buffer, response: ServerResponse, fault: object): void {
    const { method, key, query, copied } = asked;
    if ('text' in fault) return void response.end(fault.text);
    if (method === 'GET' && query.has('list-type')) return this.#list(query, response);
    if (method === 'GET' || method === 'HEAD') return this.#get(asked, response, fault);
    if ('isUndone' in fault && 'errorInBody' in fault) {
      return void response.end(errorText(String(fault.errorInBody)));
    }
    const reply = copied === undefined ? this.#write(method, { key, query, body }) : this.#copy(copied, key);
    if ('lost' in fault) return void response.destroy();
    if ('errorInBody' in fault) return void response.end(errorText(String(fault.errorInBody)));
    if (reply.code !== undefined) return this.#refuse(asked, response, reply.status, reply.code);
    response.writeHead(reply.status, reply.headers).end(reply.text);
  }

  #write(
    method: string,
    { key, query, body }: { readonly key: string; readonly query: URLSearchParams; readonly body: Buffer },
  ): Reply {
    const uploadId = query.get('uploadId') ?? undefined;
    const upload = uploadId === undefined ? undefined : this.uploads.get(uploadId);
    if (uploadId !== undefined && upload?.key !== key) return { status: 404, code: 'NoSuchUpload' };
    if (method === 'PUT' && upload === undefined) {
      this.objects.set(key, { bytes: body, modifiedAtMs: Date.now() });
      return { status: 200, headers: { ETag: etag(body) } };
    }
    if (method === 'PUT' && upload !== undefined) {
      upload.parts.set(Number(query.get('partNumber')), body);
      return { status: 200, headers: { ETag: etag(body) } };
    }
    if (method === 'POST' && query.has('uploads')) {
      this.#uploadId += 1;
      const id = `upload/${this.#uploadId}+&`;
      this.uploads.set(id, { key, parts: new Map() });
      return { status: 200, text: `<Result><UploadId>${id.replace('&', '&amp;')}</UploadId></Result>` };
    }
    if (method === 'POST' && upload !== undefined) return this.#complete(upload, uploadId ?? '', body);
    if (method !== 'DELETE') return { status: 405, code: 'MethodNotAllowed' };
    if (uploadId === undefined) this.objects.delete(key);
    else this.uploads.delete(uploadId);
    return { status: 204 };
  }

  #copy(from: string, to: string): Reply {
    const object = this.objects.get(from);
    if (object === undefined) return { status: 404, code: 'NoSuchKey' };
    this.objects.set(to, { ...object, modifiedAtMs: Date.now() });
    return { status: 200, text: `<Result><ETag>${etag(object.bytes)}</ETag></Result>` };
  }

  #complete(upload: FakeUpload, id: string, body: Buffer) {
    const named = [...body.toString().matchAll(/<PartNumber>(\d+)<\/PartNumber><ETag>(.*?)<\/ETag>/g)];
    const parts = named.map(([, number, tag]) => {
      const part = upload.parts.get(Number(number));
      return part !== undefined && etag(part) === tag?.replace(/&#34;|&quot;/g, '"') ? part : undefined;
    });
    const whole = parts.filter(part => part !== undefined);
    if (whole.length !== upload.parts.size) return { status: 400, code: 'InvalidPart' };
    const bytes = Buffer.concat(whole);
    tags.set(bytes, `"${sha256(whole.map(etag).join('')).slice(0, 32)}-${whole.length}"`);
    this.objects.set(upload.key, { bytes, modifiedAtMs: Date.now() });
    this.uploads.delete(id);
    return { status: 200, text: `<Result><ETag>${etag(bytes)}</ETag></Result>` };
  }

  #get(asked: S3Request, response: ServerResponse, fault: object): void {
    const object = this.objects.get(asked.key);
    if (object === undefined) return this.#refuse(asked, response, 404, 'NoSuchKey');
    const { length } = object.bytes;
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(asked.range ?? '') ?? [];
    const isRanged = from !== undefined && !('ignoresRange' in fault);
    const start = isRanged ? Number(from) : 0;
    const end = isRanged ? Math.min(Number(to) + 1, length) : length;
    const bytes = 'wrongBytes' in fault ? Buffer.alloc(end - start, 'x') : object.bytes.subarray(start, end);
    response.writeHead(isRanged ? 206 : 200, {
      ...(!('noLength' in fault) && { 'Content-Length': String(bytes.length) }),
      ETag: etag(object.bytes),
      ...(isRanged && { 'Content-Range': `bytes ${start}-${end - 1}/${length}` }),
    });
    if (asked.method === 'HEAD') response.end();
    else if ('cutAt' in fault)
      response.write(bytes.subarray(0, Number(fault.cutAt)), () => response.destroy());
    else if ('bytesPerS' in fault) void this.#sendSlowly(response, bytes, Number(fault.bytesPerS));
    else if ('heldAt' in fault && 'until' in fault) {
      const count = Number(fault.heldAt);
      response.write(bytes.subarray(0, count));
      void Promise.resolve(fault.until).then(() => response.end(bytes.subarray(count)));
    } else if ('stopAt' in fault) response.write(bytes.subarray(0, Number(fault.stopAt)));
    else response.end(bytes);
  }

  async #sendSlowly(response: ServerResponse, bytes: Buffer, bytesPerS: number): Promise<void> {
    const startedMs = performance.now();
    for (let at = 0; at < bytes.length && !response.destroyed; ) {
      const due = Math.min(bytes.length, Math.ceil((bytesPerS * (performance.now() - startedMs)) / 1000));
      if (due > at) response.write(bytes.subarray(at, due));
      at = Math.max(at, due);
      await sleep(PACE_MS);
    }
    response.end();
  }

  #list(query: URLSearchParams, response: ServerResponse): void {
    const prefix = query.get('prefix') ?? '';
    const after = query.get('continuation-token') ?? query.get('start-after') ?? '';
    const keys = [...this.objects.keys()].filter(key => key.startsWith(prefix) && key > after).sort();
    const page = keys.slice(0, this.pageSize);
    const entries = page.map(key => {
      const { bytes, modifiedAtMs } = this.objects.get(key) ?? { bytes: Buffer.alloc(0), modifiedAtMs: 0 };
      const modified = new Date(modifiedAtMs).toISOString();
      return `<Contents><Key>${key}</Key><LastModified>${modified}</LastModified><Size>${bytes.length}</Size></Contents>`;
    });
    const isTruncated = page.length < keys.length;
    const next = isTruncated ? `<NextContinuationToken>${page.at(-1)}</NextContinuationToken>` : '';
    response.end(
      `<?xml version="1.0"?><ListBucketResult><IsTruncated>${isTruncated}</IsTruncated>${next}${entries.join('')}</ListBucketResult>`,
    );
  }

  #refuse(
    { method }: S3Request,
    response: ServerResponse,
    status: number,
    code: string,
    headers: Record<string, string> = {},
  ): void {
    response.writeHead(status, { 'Content-Type': 'application/xml', ...headers });
    response.end(method === 'HEAD' ? undefined : errorText(code));
  }

  /** The code of the refusal, if the request is not signed with the current keys. */
  #check({ method, headers }: IncomingMessage, url: URL, body: Buffer): string | undefined {
    const [, keyId, scope = '', names = '', signature = ''] =
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\S+), ?SignedHeaders=([^,]+), ?Signature=(\w+)$/.exec(
        headers.authorization ?? '',
      ) ?? [];
    if (keyId !== this.keys.accessKeyId) return 'InvalidAccessKeyId';
    if (headers['x-amz-security-token'] !== this.keys.sessionToken) return 'InvalidToken';
    const date = String(headers['x-amz-date']);
    const at = Date.parse(date.replace(/^(....)(..)(..T..)(..)(..Z)$/, '$1-$2-$3:$4:$5'));
    if (Math.abs(Date.now() + this.skewMs - at) > MAX_SKEW_MS) return 'RequestTimeTooSkewed';
    const query = url.search.slice(1).split('&').filter(Boolean).sort();
    const lines = names.split(';').map(name => `${name}:${String(headers[name])}\n`);
    const canonical = [method, url.pathname, query.join('&'), lines.join(''), names, hashOf(body)].join('\n');
    const day = `${date.slice(0, 8)}/${this.region}/s3/aws4_request`;
    const expected = this.#sign(canonical, date);
    const given = Buffer.from(signature, 'hex');
    const isValid = scope === day && given.length === expected.length && timingSafeEqual(given, expected);
    // With other bytes than announced the hash is checked next.
    const isOfOtherBytes = headers['x-amz-content-sha256'] !== hashOf(body);
    return isValid || isOfOtherBytes ? undefined : 'SignatureDoesNotMatch';
  }
}

interface Reply {
  readonly status: number;
  readonly code?: string;
  readonly headers?: Record<string, string>;
  readonly text?: string;
}

type Refusal = Extract<S3Fault, { readonly status: number }>;

function isRefusal(fault: object): fault is Refusal {
  return 'status' in fault;
}

function errorText(code: string): string {
  return `<?xml version="1.0"?><Error><Code>${code}</Code><Message>of the fake &amp; S3</Message></Error>`;
}

function sha256(data: string | Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

function hashOf(bytes: Buffer): string {
  const hash = hashes.get(bytes) ?? sha256(bytes);
  hashes.set(bytes, hash);
  return hash;
}

function etag(bytes: Buffer): string {
  return tags.get(bytes) ?? `"${hashOf(bytes).slice(0, 32)}"`;
}
