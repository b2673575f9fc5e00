import type { Readable } from 'node:stream';
import type { HttpResponse } from '../lib/http-client.ts';
import { failureOf, HttpFailure } from '../lib/http-failure.ts';
import { type MemoryBudget, MemoryBusy, type MemoryHolder } from '../lib/memory-budget.ts';
import { isJsonObject, type JsonObject, parseJsonObject } from '../lib/json.ts';
import { UpstreamFailure } from './failures.ts';

/** The limit for a small document, however steadily it arrives. */
const DOCUMENT_MS = 60_000;
/** The body of an error is only for the log, and nobody should have to wait for it. */
const ERROR_BODY_MS = 2_000;
/** A typical error has 200 bytes; HTML pages of load balancers have some KiB. */
const MAX_ERROR_BYTES = 8 * 1024;
/** The spec's codes have up to 25 letters, and its messages are one sentence. */
const MAX_CODE_LENGTH = 40;
const MAX_MESSAGE_LENGTH = 200;
/** How much memory a document of unknown length gets at first; nearly all are smaller. */
const FIRST_LEASE_BYTES = 64 * 1024;

/** The memory for documents of one upstream. */
export interface DocumentMemory {
  readonly budget: MemoryBudget;
  /** Whose share of it is used. */
  readonly holder: MemoryHolder;
}

/** Where a body comes from, for error messages. */
export interface BodyContext {
  /** The final URL, after redirects. */
  readonly url: URL;
  /** What is being fetched, for error messages. */
  readonly what: string;
  readonly signal: AbortSignal | undefined;
  readonly endpoint: number | undefined;
  readonly memory: DocumentMemory;
}

/** The value of a header; of several, the first. */
export function headerOf(response: HttpResponse, name: string): string | undefined {
  return [response.headers[name] ?? []].flat()[0];
}

/** A length in the form of HTTP headers; `undefined` if it is not one. */
export function lengthOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/**
 * All bytes of a small body. Fails with `invalid` as soon as it exceeds `maxBytes`, without reading on; with
 * `unavailable` if there is no memory for it.
 */
export async function collect(
  response: HttpResponse,
  maxBytes: number,
  context: BodyContext,
): Promise<Buffer> {
  const { body } = response;
  const tooLarge = () =>
    new UpstreamFailure(
      'invalid',
      `${context.what}: the response of ${context.url.host} exceeds ${maxBytes} bytes`,
      context,
    );
  const length = lengthOf(headerOf(response, 'content-length'));
  if ((length ?? 0) > maxBytes) {
    discard(body);
    throw tooLarge();
  }
  const { budget, holder } = context.memory;
  // It may fail before anybody reads it.
  body.on('error', () => {});
  const lease = await budget
    .lease(holder, length ?? Math.min(FIRST_LEASE_BYTES, maxBytes))
    .catch((error: unknown) => {
      discard(body);
      throw busyFailure(error, context);
    });
  const timer = setTimeout(
    () =>
      body.destroy(
        new HttpFailure(
          'timeout',
          `${context.url.host} took longer than ${DOCUMENT_MS} ms for ${context.what}`,
        ),
      ),
    DOCUMENT_MS,
  );
  try {
    const received: Uint8Array[] = [];
    let size = 0;
    for await (const piece of body as AsyncIterable<Uint8Array>) {
      size += piece.length;
      if (size > maxBytes) throw tooLarge();
      if (size > lease.bytes) await lease.grow(maxBytes);
      received.push(piece);
    }
    return Buffer.concat(received, size);
  } catch (error) {
    throw error instanceof UpstreamFailure ? error : bodyFailure(busyFailure(error, context), context);
  } finally {
    clearTimeout(timer);
    lease.release();
  }
}

/**
 * The pieces of a large body as they arrive. The memory of each is used again as soon as the next one is requested.
 * `length` is what its headers announced: fewer or more bytes are a failure, even if the connection's own framing accepts
 * them.
 */
export async function* pieces(
  { body, release }: HttpResponse,
  length: number | undefined,
  context: BodyContext,
): AsyncGenerator<Uint8Array, void, void> {
  let size = 0;
  try {
    for await (const piece of body as AsyncIterable<Uint8Array>) {
      size += piece.length;
      if (length !== undefined && size > length) break;
      yield piece;
      release?.(piece);
    }
  } catch (error) {
    throw bodyFailure(error, context);
  }
  if (length !== undefined && size !== length) {
    const message = `${context.what}: ${context.url.host} announced ${length} bytes and sent ${size}`;
    throw new UpstreamFailure('invalid', message, context);
  }
}

/** Reads the rest of an unneeded body, or aborts it if that would take long. */
export function discard(body: Readable): void {
  body.on('error', () => {});
  let size = 0;
  const timer = setTimeout(() => body.destroy(), ERROR_BODY_MS);
  body.on('data', (piece: Uint8Array) => {
    size += piece.length;
    if (size > MAX_ERROR_BYTES) body.destroy();
  });
  body.once('close', () => clearTimeout(timer));
}

/** What the body of an error says (distribution-spec, "Error Codes"), cleaned for a log. Always consumes the body. */
export async function errorTextOf(
  response: HttpResponse,
): Promise<{ code: string; text: string } | undefined> {
  const { body } = response;
  const timer = setTimeout(() => body.destroy(), ERROR_BODY_MS);
  const received: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const piece of body as AsyncIterable<Uint8Array>) {
      size += piece.length;
      if (size > MAX_ERROR_BYTES) break;
      received.push(piece);
    }
    return firstError(parseJsonObject(Buffer.concat(received)));
  } catch {
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}

function firstError(document: JsonObject | undefined): { code: string; text: string } | undefined {
  const error: unknown = Array.isArray(document?.['errors']) ? document['errors'][0] : undefined;
  if (!isJsonObject(error) || typeof error['code'] !== 'string') return undefined;
  const code = clean(error['code'], MAX_CODE_LENGTH);
  const message = error['message'];
  return {
    code,
    text: typeof message === 'string' ? `${code}: ${clean(message, MAX_MESSAGE_LENGTH)}` : code,
  };
}

/** Text from outside for our log: one line, without control characters, short. */
function clean(text: string, maxLength: number): string {
  return text.replaceAll(/[^\x20-\x7e]+/g, ' ').slice(0, maxLength);
}

/** A lack of our own memory: not upstream's fault, but not an answer either. */
function busyFailure(error: unknown, context: BodyContext): unknown {
  if (!(error instanceof MemoryBusy)) return error;
  return new UpstreamFailure('unavailable', `${context.what}: ${error.message}`, {
    ...context,
    cause: error,
  });
}

function bodyFailure(error: unknown, context: BodyContext): unknown {
  if (error instanceof UpstreamFailure) return error;
  const failure = failureOf(error, context);
  if (!(failure instanceof HttpFailure)) return failure;
  return new UpstreamFailure('unavailable', `${context.what}: ${failure.message}`, {
    ...context,
    cause: failure,
  });
}
