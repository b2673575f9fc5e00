// A registry under test, as the spec sees it: requests, what is expected of their answers, and content to push.
import { Agent, type IncomingHttpHeaders, type OutgoingHttpHeaders, request } from 'node:http';
import type { Digest } from '../../src/oci/digest.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from '../support/content.ts';

export interface Request {
  readonly method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** From `/v2/` on, or a Location as received. */
  readonly path: string;
  readonly headers?: OutgoingHttpHeaders;
  readonly body?: Uint8Array | string;
  /** Sends the body without a Content-Length. */
  readonly streamed?: boolean;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** What a requirement says of an answer; what it does not name is free. */
export interface Expectation {
  readonly status: number | readonly number[];
  /** `undefined`: must not be there. */
  readonly headers?: Readonly<Record<string, string | RegExp | undefined>>;
  readonly body?: Buffer;
  /** The code of the first error. */
  readonly code?: string;
}

const agent = new Agent({ keepAlive: true, maxSockets: 8 });
let seed = 0;

export class Registry {
  readonly #url: string;
  readonly #prefix: string;

  constructor(url: string, prefix: string) {
    this.#url = url;
    this.#prefix = prefix;
  }

  /** A repository that nobody used before. */
  repository(): string {
    seed += 1;
    return `${this.#prefix}/r${seed}`;
  }

  async send({ method = 'GET', path, headers, body, streamed }: Request): Promise<Answer> {
    const bytes = typeof body === 'string' ? Buffer.from(body) : body;
    const lengths =
      bytes === undefined ? (method === 'GET' || method === 'HEAD' ? {} : { 'content-length': 0 }) : {};
    return new Promise((resolve, reject) => {
      const sent = request(
        new URL(path, this.#url),
        {
          method,
          agent,
          headers: { ...(streamed === true ? { 'transfer-encoding': 'chunked' } : lengths), ...headers },
        },
        response => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.on('error', reject);
          response.on('end', () =>
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              body: Buffer.concat(chunks),
            }),
          );
        },
      );
      sent.on('error', reject);
      sent.end(bytes);
    });
  }

  /** Sends, and holds the answer to `expectation`; every error must also have the spec's form. */
  async expect(sent: Request, expectation: Expectation): Promise<Answer> {
    const answer = await this.send(sent);
    const faults = [
      ...faultsOf(answer, expectation),
      ...(isErrorWithBody(sent, answer) ? errorFaults(answer) : []),
    ];
    if (faults.length > 0) {
      const body = answer.body.subarray(0, 300).toString();
      throw new Error(
        `${sent.method ?? 'GET'} ${sent.path} → ${answer.status}: ${faults.join('; ')}\n${body}`,
      );
    }
    return answer;
  }

  /** An upload's Location. */
  async beginUpload(repository: string, query = ''): Promise<string> {
    const { headers } = await this.expect(
      { method: 'POST', path: `/v2/${repository}/blobs/uploads/${query}` },
      { status: 202, headers: { Location: /./ } },
    );
    return headers.location ?? '';
  }

  async pushBlob(repository: string, blob: Content): Promise<void> {
    const location = await this.beginUpload(repository);
    await this.expect(
      { method: 'PUT', path: withDigest(location, blob.digest), body: bytesOf(blob) },
      { status: 201 },
    );
  }

  async pushManifest(
    repository: string,
    manifest: Content,
    reference: string = manifest.digest,
  ): Promise<Answer> {
    return this.expect(manifestPut(repository, manifest, reference), { status: 201 });
  }

  /** Pushes a small image whole, with its blobs. */
  async pushImage(repository: string, reference?: string, image: Image = smallImage()): Promise<Image> {
    for (const blob of [image.config, ...image.layers]) await this.pushBlob(repository, blob);
    await this.pushManifest(repository, image.manifest, reference);
    return image;
  }
}

export function manifestPut(
  repository: string,
  manifest: Content,
  reference: string = manifest.digest,
): Request {
  return {
    method: 'PUT',
    path: `/v2/${repository}/manifests/${reference}`,
    headers: { 'content-type': manifest.mediaType },
    body: bytesOf(manifest),
  };
}

/** A blob that nobody has. */
export function newBlob(size = 1000): Content {
  seed += 1;
  return randomBlob(size, `conformance ${seed}`);
}

export function smallImage(): Image {
  return imageOf([newBlob()]);
}

export function withDigest(location: string, digest: Digest | string): string {
  return `${location}${location.includes('?') ? '&' : '?'}digest=${encodeURIComponent(digest)}`;
}

/** The values of a header as one text. */
export function headerOf({ headers }: Answer, name: string): string | undefined {
  return headers[name.toLowerCase()]?.toString();
}

function faultsOf(answer: Answer, { status, headers = {}, body, code }: Expectation): string[] {
  const faults: string[] = [];
  const statuses = [status].flat();
  if (!statuses.includes(answer.status)) faults.push(`the status is not ${statuses.join(' or ')}`);
  for (const [name, wanted] of Object.entries(headers)) {
    const value = headerOf(answer, name);
    const isAsWanted = wanted instanceof RegExp ? wanted.test(value ?? '') : value === wanted;
    if (!isAsWanted) faults.push(`${name} is ${value}, not ${String(wanted)}`);
  }
  if (body !== undefined && !answer.body.equals(body)) faults.push('the body is another');
  // What succeeded where it must not has no code to look at.
  if (code !== undefined && answer.status >= 400 && errorsOf(answer)[0]?.code !== code) {
    faults.push(`the code is not ${code}`);
  }
  return faults;
}

function isErrorWithBody({ method }: Request, { status }: Answer): boolean {
  return status >= 400 && method !== 'HEAD';
}

/** distribution-spec, "Error Codes". */
function errorFaults(answer: Answer): string[] {
  const errors = errorsOf(answer);
  const isJson = headerOf(answer, 'Content-Type')?.startsWith('application/json') ?? false;
  const hasForm =
    errors.length > 0 && errors.every(({ code, message }) => /^[A-Z_]+$/.test(code) && message !== '');
  return isJson && hasForm ? [] : ['the error has not the form that the spec wants'];
}

function errorsOf(answer: Answer): readonly { readonly code: string; readonly message?: string }[] {
  const document: { errors?: { code: string; message?: string }[] } = JSON.parse(answer.body.toString());
  return document.errors ?? [];
}
