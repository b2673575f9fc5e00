// Pushing blobs as a client does, from content that is never in memory as a whole.
import { request } from 'node:http';
import { get } from './client.ts';
import { bytesOf, type Content, type Image } from './content.ts';

export interface SendOptions {
  /** First byte; default 0. */
  readonly start?: number;
  /** Behind the last byte; default the size. */
  readonly end?: number;
  /** Sends no byte beyond it, and leaves the request open: for what happens in the middle. */
  readonly holdAtByte?: number;
}

/** Begins an upload; the path of its session. */
export async function beginUpload(url: string, repository: string): Promise<string> {
  const { status, headers } = await get(`${url}/v2/${repository}/blobs/uploads/`, { method: 'POST' });
  if (status !== 202 || headers.location === undefined) throw new Error(`no upload: status ${status}`);
  return headers.location;
}

/** Streams bytes `start` to `end` of a blob; the status, or 0 when the connection broke. */
export async function sendBytes(
  method: 'PATCH' | 'PUT',
  url: string,
  blob: Content,
  options: SendOptions = {},
): Promise<number> {
  const { start = 0, end = blob.size, holdAtByte = end } = options;
  return new Promise(resolve => {
    const sent = request(url, { method, headers: { 'content-length': end - start } }, response => {
      response.resume();
      response.on('end', () => resolve(response.statusCode ?? 0));
      response.on('error', () => resolve(0));
    });
    sent.on('error', () => resolve(0));
    const pieces = blob.slice(start, Math.min(end, holdAtByte))[Symbol.iterator]();
    const more = (): void => {
      for (;;) {
        const { value, done } = pieces.next();
        if (done === true) {
          if (holdAtByte >= end) sent.end();
          return;
        }
        if (!sent.write(value)) {
          sent.once('drain', more);
          return;
        }
      }
    };
    more();
  });
}

/** Bytes that the server has of an upload. */
export async function offsetOf(url: string): Promise<number> {
  const { status, headers } = await get(url);
  if (status !== 204) throw new Error(`no upload state: status ${status}`);
  return Number(headers['range']?.replace('0-', '')) + 1;
}

/** Pushes a small blob in one request. */
export async function pushBlob(url: string, repository: string, blob: Content): Promise<void> {
  const path = `/v2/${repository}/blobs/uploads/?digest=${blob.digest}`;
  const { status } = await get(url + path, { method: 'POST', body: bytesOf(blob) });
  if (status !== 201) throw new Error(`blob not pushed: status ${status}`);
}

/** Pushes a blob of any size, as clients do: a session, and all bytes in its last request. */
export async function streamBlob(url: string, repository: string, blob: Content): Promise<void> {
  const session = new URL(await beginUpload(url, repository), url);
  session.searchParams.set('digest', blob.digest);
  const status = await sendBytes('PUT', session.href, blob);
  if (status !== 201) throw new Error(`blob not pushed: status ${status}`);
}

/** Puts a manifest whose blobs are there, under a tag or its digest. */
export async function putManifest(
  url: string,
  repository: string,
  reference: string,
  manifest: Content,
): Promise<void> {
  const headers = { 'content-type': manifest.mediaType };
  const put = { method: 'PUT', headers, body: bytesOf(manifest) };
  const { status } = await get(`${url}/v2/${repository}/manifests/${reference}`, put);
  if (status !== 201) throw new Error(`manifest not put: status ${status}`);
}

export async function pushImage(
  url: string,
  repository: string,
  reference: string,
  { config, layers, manifest }: Image,
): Promise<void> {
  for (const blob of [config, ...layers]) await pushBlob(url, repository, blob);
  await putManifest(url, repository, reference, manifest);
}
