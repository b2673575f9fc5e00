import type { IncomingMessage, ServerResponse } from 'node:http';
import type { LedFill } from '../mirror/fill/led-fill.ts';

/** Headers of a Fill that is sent. */
export const SIZE_HEADER = 'entrepot-size';
export const REPOSITORIES_HEADER = 'entrepot-repositories';

/** Each takes up to 300 bytes of a header. To whom others belong, upstream is asked again. */
const MAX_REPOSITORIES = 16;
/** A replica takes bytes as fast as its disk. A suspended one must not keep a file open that is removed meanwhile. */
const TAKEN_WITHIN_MS = 90_000;
/** For each body that is sent; larger ones make hardly any difference. */
const BUFFER_BYTES = 128 * 1024;
const CRLF = '\r\n';
/** Six hex digits and CRLF. */
const SIZE_LINE_BYTES = 8;
const LAST_CHUNK = '0\r\n\r\n';

/** A Fill, by the Lease under which it is downloaded. */
export interface FillAddress {
  readonly key: string;
  readonly epoch: number;
  readonly from: number;
}

const PATH = /^\/ingests\/(?<key>[a-z0-9-]{1,200})\/(?<epoch>\d{1,15})\?from=(?<from>\d{1,15})$/;

/** The path of a request for a Fill. */
export function pathOfFill({ key, epoch, from }: FillAddress): string {
  return `/ingests/${key}/${epoch}?from=${from}`;
}

/** `undefined` if that is the path of something else. */
export function parseFillPath(path: string): FillAddress | undefined {
  const { key, epoch, from } = PATH.exec(path)?.groups ?? {};
  return key === undefined ? undefined : { key, epoch: Number(epoch), from: Number(from) };
}

/**
 * Sends a Fill from a byte on, as it grows; ends when the index says what became of it. If it fails, or the client leaves,
 * rejects in the middle of the response. Closes it.
 */
export async function sendFill(
  fill: Pick<LedFill, 'size' | 'length' | 'repositories' | 'begun' | 'read' | 'close'>,
  from: number,
  { req, res }: { readonly req: IncomingMessage; readonly res: ServerResponse },
): Promise<void> {
  const leaving = new AbortController();
  const left = () => leaving.abort(new Error('the other replica has left'));
  // It may have left while the Fill was looked for.
  if (res.closed) left();
  else res.once('close', left);
  req.resume();
  try {
    await fill.begun(leaving.signal);
    res.writeHead(200, headersOf(fill));
    // Node would write each chunk in three pieces, which TLS copies into new memory.
    res.chunkedEncoding = false;
    // Otherwise the headers are sent with the first bytes.
    if (fill.length <= from) res.flushHeaders();
    const chunk = new Chunk(BUFFER_BYTES);
    for (let position = from; ; ) {
      const count = await fill.read(chunk.room, position, leaving.signal);
      if (count === 0) break;
      position += count;
      await written(res, chunk.framed(count), leaving.signal);
    }
    res.end(LAST_CHUNK);
  } finally {
    fill.close();
  }
}

/** Memory for one chunk at a time of a body (RFC 9112, 7.1). */
class Chunk {
  readonly #memory: Buffer;
  /** Where its bytes go. */
  readonly room: Buffer;

  constructor(bytes: number) {
    this.#memory = Buffer.allocUnsafeSlow(SIZE_LINE_BYTES + bytes + CRLF.length);
    this.room = this.#memory.subarray(SIZE_LINE_BYTES, SIZE_LINE_BYTES + bytes);
  }

  /** The chunk of the first `count` bytes of `room`: valid until something else is written there. */
  framed(count: number): Buffer {
    const size = count.toString(16).padStart(SIZE_LINE_BYTES - CRLF.length, '0');
    this.#memory.write(size + CRLF, 'latin1');
    this.#memory.write(CRLF, SIZE_LINE_BYTES + count, 'latin1');
    return this.#memory.subarray(0, SIZE_LINE_BYTES + count + CRLF.length);
  }
}

function headersOf({ size, repositories }: Pick<LedFill, 'size' | 'repositories'>): Record<string, string> {
  const few = JSON.stringify(repositories.slice(0, MAX_REPOSITORIES));
  return {
    'Content-Type': 'application/octet-stream',
    'Transfer-Encoding': 'chunked',
    [REPOSITORIES_HEADER]: encodeURIComponent(few),
    ...(size !== undefined && { [SIZE_HEADER]: String(size) }),
  };
}

/** Resolves when the system has taken the bytes, so that the buffer can be used again. */
function written(res: ServerResponse, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    const late = () => reject(new Error(`nothing was taken for ${TAKEN_WITHIN_MS / 1000} s`));
    const timer = setTimeout(late, TAKEN_WITHIN_MS).unref();
    res.write(bytes, error => {
      clearTimeout(timer);
      signal.removeEventListener('abort', stop);
      if (error) reject(error);
      else resolve();
    });
    if (signal.aborted) stop();
  });
}
