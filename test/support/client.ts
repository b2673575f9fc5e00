// HTTP clients for tests: they count, hash, disconnect early, and detect an incomplete body.
import { createHash } from 'node:crypto';
import { Agent, type IncomingHttpHeaders, request } from 'node:http';

export interface Got {
  /** 0 if the connection broke before a response. */
  readonly status: number;
  /** The reason phrase; '' without a response. */
  readonly phrase: string;
  readonly headers: IncomingHttpHeaders;
  /** The length of the body that arrived. */
  readonly bytes: number;
  readonly sha256: string;
  /** Whether the body had its announced length, rather than ending by a reset or by our disconnecting. */
  readonly complete: boolean;
  /** What broke the connection before a response. */
  readonly failure?: Error;
  /** The body, if it was no larger than 1 MiB. */
  readonly text: string;
}

export interface GetOptions {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
  /** Disconnects (destroys the socket) after this many bytes of the body. */
  readonly leaveAtByte?: number;
  readonly onFirstByte?: () => void;
  /** Reads nothing after the first bytes until this is settled: a slow client. */
  readonly readAfter?: Promise<unknown>;
  readonly onData?: (bytesSoFar: number) => void;
  /** Whose connections are used, again and again; one of its own if left out. */
  readonly agent?: Agent;
}

const KEPT_BYTES = 1024 * 1024;

/** Sends one request. Never rejects: a broken connection is a result, too. */
export async function get(url: string, options: GetOptions = {}): Promise<Got> {
  const agent = options.agent ?? new Agent({ keepAlive: false });
  const hash = createHash('sha256');
  const kept: Buffer[] = [];
  let bytes = 0;
  return new Promise(resolve => {
    let status = 0;
    let phrase = '';
    let headers: IncomingHttpHeaders = {};
    const done = (complete: boolean, failure?: Error) =>
      resolve({
        ...(failure && { failure }),
        status,
        phrase,
        headers,
        bytes,
        complete,
        sha256: hash.digest('hex'),
        // Random bytes as text cost twenty times what hashing them does.
        get text() {
          return Buffer.concat(kept).toString();
        },
      });
    const sent = request(
      url,
      { method: options.method ?? 'GET', headers: { ...options.headers }, agent },
      response => {
        status = response.statusCode ?? 0;
        phrase = response.statusMessage ?? '';
        headers = response.headers;
        let over = false;
        const end = (complete: boolean) => {
          if (!over) {
            over = true;
            done(complete);
          }
        };
        response.on('data', (chunk: Buffer) => {
          if (bytes === 0) {
            options.onFirstByte?.();
            if (options.readAfter !== undefined) {
              response.pause();
              void options.readAfter.finally(() => response.resume());
            }
          }
          hash.update(chunk);
          bytes += chunk.length;
          if (bytes <= KEPT_BYTES) kept.push(chunk);
          options.onData?.(bytes);
          if (options.leaveAtByte !== undefined && bytes >= options.leaveAtByte) {
            response.destroy();
            end(false);
          }
        });
        response.on('end', () => end(response.complete));
        response.on('error', () => end(false));
        response.on('close', () => end(false));
      },
    );
    sent.on('error', error => {
      if (status === 0) done(false, error);
    });
    sent.end(options.body);
  });
}

/** The OCI code of an error response. */
export function codeOf(got: Got): string | undefined {
  try {
    return (JSON.parse(got.text) as { errors?: { code?: string }[] }).errors?.[0]?.code;
  } catch {
    return undefined;
  }
}

/** Calls `make` `count` times, and awaits all. */
export async function many<T>(count: number, make: (at: number) => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, (_, at) => make(at)));
}
