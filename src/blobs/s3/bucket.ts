import { setTimeout as sleep } from 'node:timers/promises';
import { backoffMs, jittered } from '../../lib/backoff.ts';
import { collectBytes } from '../../lib/collect-bytes.ts';
import { HttpClient } from '../../lib/http-client.ts';
import { HttpFailure } from '../../lib/http-failure.ts';
import type { HttpRequest, HttpResponse } from '../../lib/http-message.ts';
import type { BucketWatch } from './bucket-watch.ts';
import { Credentials } from './credentials.ts';
import { type ByteSpan, type Payload, payloadOfBytes } from './payload.ts';
import { S3Failure } from './s3-failure.ts';
import type { S3Settings } from './settings.ts';
import { EMPTY_HASH, presignedUrl, type SigningKeys, signedHeaders, uriEncode } from './signature.ts';
import { xmlElements, xmlEscape, xmlText } from './xml.ts';

/** An object as a list returns it. */
export interface ListedObject {
  readonly key: string;
  /** Bytes. */
  readonly size: number;
  readonly modifiedAtMs: number;
}

/** Time limits in ms. */
export interface BucketLimits {
  readonly connectMs: number;
  /** Until the answer begins, of what only reads. */
  readonly answerMs: number;
  /** The same of what writes: S3 may assemble an object of many parts meanwhile. */
  readonly writtenMs: number;
  /** Between two pieces of a body. */
  readonly idleBodyMs: number;
  /**
   * After this, nothing is tried again, except what `SENT_AGAIN` is for. A client waits for 20 s, and for some requests in a
   * row.
   */
  readonly patienceMs: number;
  /** Before the first repetition; then twice as long each time. */
  readonly backoffMs: number;
}

export const BUCKET_LIMITS: BucketLimits = {
  connectMs: 3_000,
  answerMs: 6_000,
  writtenMs: 120_000,
  idleBodyMs: 10_000,
  patienceMs: 12_000,
  backoffMs: 100,
};

const MAX_BACKOFF_MS = 3_000;
/**
 * How often a body is sent again whose connection broke, even if sending it took longer than the patience for requests: over
 * a slow line a part takes a minute, and a large blob should not fail for one of hundreds.
 */
const SENT_AGAIN = 2;
/** S3 accepts requests that are up to 15 min off. */
const SKEW_MS = 60_000;
/** A page of 1000 keys of up to 1 KiB, with the details of each. */
const MAX_ANSWER_BYTES = 4 * 1024 * 1024;
/** Some servers answer with empty pages while they skip removed objects. */
const MAX_EMPTY_PAGES = 1_000;
/** Errors are documents of a few hundred bytes. */
const MAX_ERROR_BYTES = 64 * 1024;

/** Long enough to follow a redirect, and to try again a few times. Temporary keys are valid for as long, too. */
const URL_EXPIRES_S = 300;

/** Statuses and codes of requests that may be repeated. */
const TRANSIENT_STATUS: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);
const TRANSIENT_CODES: ReadonlySet<string> = new Set([
  'InternalError',
  'OperationAborted',
  'RequestTimeout',
  'ServiceUnavailable',
  'SlowDown',
]);
/** Codes for keys that have expired. */
const ENDED_KEYS: ReadonlySet<string> = new Set([
  'ExpiredToken',
  'InvalidAccessKeyId',
  'InvalidToken',
  'TokenRefreshRequired',
]);

interface Ask {
  readonly method: HttpRequest['method'];
  readonly key?: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly payload?: Payload | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly isBulk?: boolean;
  /** The statuses that are answers; with 404, that an object or upload is absent. */
  readonly accept: readonly number[];
}

/**
 * A bucket, as far as blobs need one: nothing that some servers lack, such as versions, conditional writes or lists of
 * uploads. Requests that fail for a while are repeated; then, and for whatever else is wrong, methods reject with an
 * S3Failure. Keys are without the prefix of the settings.
 */
export class Bucket {
  readonly #settings: S3Settings;
  readonly #limits: BucketLimits;
  readonly #credentials: Credentials;
  readonly #reading: HttpClient;
  readonly #writing: HttpClient;
  /** How far the clock of S3 is ahead of ours. */
  #skewMs = 0;
  /** Told whether requests succeed. */
  watch: Pick<BucketWatch, 'succeeded' | 'failed'> | undefined;

  constructor(settings: S3Settings, limits: BucketLimits = BUCKET_LIMITS) {
    this.#settings = settings;
    this.#limits = limits;
    this.#credentials = new Credentials(settings.credentials, settings.region);
    const { connectMs, answerMs, writtenMs, idleBodyMs } = limits;
    const common = { connectMs, idleBodyMs, ca: settings.ca };
    this.#reading = new HttpClient({ ...common, headersMs: answerMs });
    this.#writing = new HttpClient({ ...common, headersMs: writtenMs });
  }

  /** For people. */
  get name(): string {
    const { endpoint, bucket, prefix } = this.#settings;
    return `the bucket ${bucket}${prefix === '' ? '' : ` (${prefix})`} at ${endpoint}`;
  }

  /** The size of an object; `undefined` if it, or the whole bucket, is absent. */
  async size(key: string): Promise<number | undefined> {
    const { status, headers, body } = await this.#ask({ method: 'HEAD', key, accept: [200, 404] });
    body.resume();
    if (status === 404) return undefined;
    this.#requireTag(headers);
    const size = lengthOf(headers['content-length']);
    if (size === undefined) {
      throw new S3Failure(`${this.#settings.endpoint} does not say how large ${key} is`, { status });
    }
    return size;
  }

  /**
   * The bytes of an object of `size` bytes; `undefined` if it is absent, or has another size. The caller reads the body to
   * its end or destroys it.
   */
  async get(
    key: string,
    { start, end }: ByteSpan,
    { size, signal }: { readonly size: number; readonly signal?: AbortSignal | undefined },
  ): Promise<HttpResponse | undefined> {
    const response = await this.#ask({
      method: 'GET',
      key,
      headers: { range: `bytes=${start}-${end - 1}` },
      accept: [206, 404, 416],
      isBulk: true,
      signal,
    });
    const range = String(response.headers['content-range'] ?? '');
    if (response.status === 206 && range === `bytes ${start}-${end - 1}/${size}`) return response;
    response.body.destroy();
    const [, total] = /^bytes [\d*-]+\/(\d+)$/.exec(range) ?? [];
    if (response.status !== 206 || (total !== undefined && Number(total) !== size)) return undefined;
    throw new S3Failure(
      `${this.#settings.endpoint} answers with another range than requested: ${range.slice(0, 100)}`,
    );
  }

  /**
   * All bytes of an object; `undefined` if it is absent. Rejects with the error of `tooLarge` if it has more than `maxBytes`.
   */
  read(key: string, maxBytes: number, tooLarge: () => Error): Promise<Uint8Array | undefined> {
    return this.#whole({ method: 'GET', key, accept: [200, 404] }, maxBytes, tooLarge);
  }

  /** A URL with which anybody may read the object for some minutes. */
  async urlOf(key: string): Promise<string> {
    const keys = await this.#credentials.current();
    const { region } = this.#settings;
    const atMs = Date.now() + this.#skewMs;
    const url = this.#url(key, {});
    return presignedUrl({ url, region, service: 's3', atMs, expiresS: URL_EXPIRES_S }, keys);
  }

  async put(key: string, payload: Payload): Promise<void> {
    const { headers, body } = await this.#ask({ method: 'PUT', key, payload, accept: [200] });
    body.resume();
    this.#requireTag(headers);
  }

  /** Begins a multipart upload, and returns its id. */
  async beginUpload(key: string): Promise<string> {
    const response = await this.#ask({ method: 'POST', key, query: { uploads: '' }, accept: [200] });
    const id = xmlText(await textOf(response), 'UploadId');
    if (id === undefined || id === '')
      throw new S3Failure(`${this.#settings.endpoint} answers without an upload id`);
    return id;
  }

  /** Uploads a part, and returns its tag. Parts count from 1. */
  async putPart(
    key: string,
    uploadId: string,
    part: { readonly number: number; readonly payload: Payload; readonly signal?: AbortSignal },
  ): Promise<string> {
    const { number, payload, signal } = part;
    const query = { partNumber: String(number), uploadId };
    const { headers, body } = await this.#ask({ method: 'PUT', key, query, payload, signal, accept: [200] });
    body.resume();
    const { etag } = headers;
    if (typeof etag !== 'string')
      throw new S3Failure(`${this.#settings.endpoint} answers without the ETag of a part`);
    return etag;
  }

  /** Makes the object of parts with these tags. */
  async completeUpload(key: string, uploadId: string, tags: readonly string[]): Promise<void> {
    const parts = tags.map(
      (tag, at) => `<Part><PartNumber>${at + 1}</PartNumber><ETag>${xmlEscape(tag)}</ETag></Part>`,
    );
    const document = Buffer.from(`<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`);
    const payload = payloadOfBytes(document);
    await this.#make({ method: 'POST', key, query: { uploadId }, payload, accept: [200] });
  }

  /** Makes an object with the bytes of another one, of at most 5 GiB. */
  async copy(from: string, to: string): Promise<void> {
    const { bucket, prefix } = this.#settings;
    const source = `/${bucket}/${pathOf(prefix + from)}`;
    await this.#make({ method: 'PUT', key: to, headers: { 'x-amz-copy-source': source }, accept: [200] });
  }

  /** Repeats a request until it has made an object. */
  async #make(ask: Ask): Promise<void> {
    const endMs = performance.now() + this.#limits.patienceMs;
    for (let failures = 1; ; failures++) {
      // The status is sent before S3 knows whether it can be done.
      const text = await textOf(await this.#ask(ask));
      if (xmlText(text, 'ETag') !== undefined) return;
      const error = this.#failure(200, text);
      const waitMs = this.#backoffMs(failures);
      if (!isTransient(error) || performance.now() + waitMs > endMs) throw error;
      await sleep(waitMs);
    }
  }

  /** Removes what is left of an upload; one that is gone is not an error. */
  async abortUpload(key: string, uploadId: string): Promise<void> {
    await this.#remove(key, { uploadId });
  }

  /** Removes an object; one that is gone is not an error. */
  async delete(key: string): Promise<void> {
    await this.#remove(key);
  }

  /**
   * All objects whose keys begin with `start` and come after the key `after`, in order. Rejects unless every answer is complete
   * and valid, since callers take objects that are not listed for lost.
   */
  async *list(start: string, after = ''): AsyncGenerator<ListedObject> {
    const { prefix } = this.#settings;
    let end = Buffer.from(prefix + after);
    let emptyPages = 0;
    for (let more: string | undefined, isFirst = true; isFirst || more !== undefined; isFirst = false) {
      const query = {
        'list-type': '2',
        prefix: prefix + start,
        ...(after !== '' && { 'start-after': prefix + after }),
        ...(more !== undefined && { 'continuation-token': more }),
      };
      const ask: Ask = { method: 'GET', query, accept: [200] };
      const [text] = xmlElements(
        String(await this.#whole(ask, MAX_ANSWER_BYTES, tooLong)),
        'ListBucketResult',
      );
      if (text === undefined) throw this.#invalidList('an invalid');
      const entries = xmlElements(text, 'Contents');
      for (const entry of entries) {
        const key = xmlText(entry, 'Key') ?? '';
        const modifiedAtMs = Date.parse(xmlText(entry, 'LastModified') ?? '');
        const size = lengthOf(xmlText(entry, 'Size'));
        if (!key.startsWith(prefix + start) || size === undefined || Number.isNaN(modifiedAtMs)) {
          throw this.#invalidList('an invalid');
        }
        yield { key: key.slice(prefix.length), size, modifiedAtMs };
      }
      const isTruncated = xmlText(text, 'IsTruncated') === 'true';
      more = isTruncated ? xmlText(text, 'NextContinuationToken') : undefined;
      if (isTruncated && more === undefined) throw this.#invalidList('an incomplete');
      const next = Buffer.from(xmlText(entries.at(-1) ?? '', 'Key') ?? end);
      emptyPages = entries.length === 0 ? emptyPages + 1 : 0;
      const isEndless = emptyPages === 0 ? next.compare(end) <= 0 : emptyPages > MAX_EMPTY_PAGES;
      if (isTruncated && isEndless) throw this.#invalidList('an endless');
      end = next;
    }
  }

  /** Aborts all requests. */
  async close(): Promise<void> {
    await Promise.all([this.#reading, this.#writing, this.#credentials].map(part => part.close()));
  }

  /** S3 answers with a tag. Anything else that answers with 200, such as a proxy, has not stored or found the object. */
  #requireTag({ etag }: HttpResponse['headers']): void {
    if (etag === undefined)
      throw new S3Failure(
        `${this.#settings.endpoint} answers without an ETag: is it S3, or a proxy in front of it?`,
      );
  }

  #invalidList(what: string): S3Failure {
    return new S3Failure(`${this.#settings.endpoint} answers with ${what} list of objects`);
  }

  async #remove(key: string, query?: Record<string, string>): Promise<void> {
    const accept = [200, 204, 404];
    const response = await this.#ask({ method: 'DELETE', key, accept, ...(query && { query }) });
    const text = await textOf(response);
    if (response.status === 404 && xmlText(text, 'Code') === 'NoSuchBucket') throw this.#failure(404, text);
  }

  async #ask(ask: Ask): Promise<HttpResponse> {
    try {
      const answer = await this.#askAgain(ask);
      // That something is missing may be because everything is.
      if (answer.status !== 404) this.watch?.succeeded();
      return answer;
    } catch (error) {
      if (error instanceof S3Failure) this.watch?.failed(error);
      throw error;
    }
  }

  /** Sends a request that only reads until its whole answer has arrived: a connection may break in the middle. */
  async #whole(ask: Ask, maxBytes: number, tooLarge: () => Error): Promise<Buffer | undefined> {
    const endMs = performance.now() + this.#limits.patienceMs;
    const large = tooLarge();
    for (let failures = 1; ; failures++) {
      const { status, body } = await this.#ask(ask);
      if (status === 404) {
        body.resume();
        return undefined;
      }
      try {
        return await collectBytes(body, maxBytes, () => large);
      } catch (error) {
        if (error === large) throw error;
        const waitMs = this.#backoffMs(failures);
        if (performance.now() + waitMs > endMs) throw new S3Failure(messageOf(error), { cause: error });
        await sleep(waitMs);
      }
    }
  }

  /** Sends a request until it is answered with a status of `accept`. */
  async #askAgain(ask: Ask): Promise<HttpResponse> {
    const { signal, accept } = ask;
    const client = ask.method === 'GET' || ask.method === 'HEAD' ? this.#reading : this.#writing;
    const endMs = performance.now() + this.#limits.patienceMs;
    for (let failures = 1, mayAmend = true; ; failures++) {
      signal?.throwIfAborted();
      const keys = await this.#credentials.current();
      const { answer, failure } = await this.#try(client, ask, keys);
      if (failure === undefined && accept.includes(answer.status)) return answer;
      const error = failure ?? (await this.#failureOf(answer));
      if (mayAmend && this.#amend(error, keys, answer)) {
        mayAmend = false;
        continue;
      }
      const waitMs = this.#backoffMs(failures);
      const isSentAgain = ask.payload !== undefined && isBroken(error) && failures <= SENT_AGAIN;
      const isLate = performance.now() + waitMs > endMs && !isSentAgain;
      if (!isTransient(error) || isLate) throw error;
      await sleep(waitMs, undefined, { signal });
    }
  }

  #backoffMs(failures: number): number {
    return jittered(backoffMs({ firstMs: this.#limits.backoffMs, maxMs: MAX_BACKOFF_MS }, failures), 0.5);
  }

  async #try(
    client: HttpClient,
    { method, key, query = {}, headers = {}, payload, signal, isBulk }: Ask,
    keys: SigningKeys,
  ): Promise<
    | { readonly answer: HttpResponse; readonly failure?: undefined }
    | { readonly answer?: undefined; readonly failure: S3Failure }
  > {
    const url = this.#url(key, query);
    const sized = payload === undefined ? {} : { 'content-length': String(payload.size) };
    const signed = signedHeaders(
      {
        method,
        url,
        headers: { ...headers, ...sized },
        payloadHash: payload?.sha256 ?? EMPTY_HASH,
        region: this.#settings.region,
        service: 's3',
        atMs: Date.now() + this.#skewMs,
      },
      keys,
    );
    try {
      return {
        answer: await client.request({ method, url, headers: signed, body: payload?.stream, signal, isBulk }),
      };
    } catch (error) {
      if (!(error instanceof HttpFailure)) throw error;
      return { failure: new S3Failure(error.message, { cause: error }) };
    }
  }

  #url(key: string | undefined, query: Readonly<Record<string, string>>): URL {
    const { endpoint, bucket, prefix, pathStyle } = this.#settings;
    const url = new URL(endpoint);
    if (!pathStyle) url.hostname = `${bucket}.${url.hostname}`;
    const path = key === undefined ? '' : pathOf(prefix + key);
    url.pathname = pathStyle ? `/${bucket}/${path}` : `/${path}`;
    const parameters = Object.entries(query).map(([name, value]) => `${uriEncode(name)}=${uriEncode(value)}`);
    url.search = parameters.join('&');
    return url;
  }

  /** Whether the cause of a refusal was found and corrected: our clock is wrong, or the keys have ended. */
  #amend(error: S3Failure, keys: SigningKeys, answer: HttpResponse | undefined): boolean {
    if (error.status !== 403 && !ENDED_KEYS.has(error.code)) return false;
    const skewMs = Date.parse(String(answer?.headers['date'])) - Date.now();
    // The answer to a HEAD has no code.
    const isLate = error.code === 'RequestTimeTooSkewed' || error.code === '';
    if (isLate && Math.abs(skewMs - this.#skewMs) > SKEW_MS) {
      this.#skewMs = skewMs;
      return true;
    }
    if (!ENDED_KEYS.has(error.code) && error.code !== '') return false;
    this.#credentials.refused(keys);
    return true;
  }

  async #failureOf({ status, body }: HttpResponse): Promise<S3Failure> {
    const text = await collectBytes(body, MAX_ERROR_BYTES, () => new Error('too long')).then(
      bytes => bytes.toString(),
      () => '',
    );
    return this.#failure(status, text);
  }

  #failure(status: number, text: string): S3Failure {
    const code = xmlText(text, 'Code') ?? '';
    const message = (xmlText(text, 'Message') ?? '').slice(0, 200);
    const { region } = this.#settings;
    const isElsewhere = status === 301 || status === 307 || code === 'AuthorizationHeaderMalformed';
    const what = isElsewhere ? ` (is storage.s3.region, ${region}, that of the bucket?)` : '';
    return new S3Failure(`${this.name} answers ${[status, code, message].filter(Boolean).join(' ')}${what}`, {
      status,
      code,
    });
  }
}

function pathOf(key: string): string {
  return key.split('/').map(uriEncode).join('/');
}

/** Whether the same request may succeed a little later. */
export function isTransient({ status, code }: S3Failure): boolean {
  return status === undefined || TRANSIENT_STATUS.has(status) || TRANSIENT_CODES.has(code);
}

function isBroken({ cause }: S3Failure): boolean {
  return cause instanceof HttpFailure && cause.reason === 'broken';
}

function tooLong(): S3Failure {
  return new S3Failure('an answer of S3 is too long');
}

async function textOf({ body }: HttpResponse): Promise<string> {
  try {
    return (await collectBytes(body, MAX_ANSWER_BYTES, tooLong)).toString();
  } catch (error) {
    throw error instanceof S3Failure ? error : new S3Failure(messageOf(error), { cause: error });
  }
}

function lengthOf(text: unknown): number | undefined {
  return typeof text === 'string' && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
