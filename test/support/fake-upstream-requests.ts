// What a fake upstream was asked, and which requests it answers wrongly.
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { parseBasic } from './fake-upstream-auth.ts';

/** `storage` is what a redirected blob is fetched from. */
export type RequestKind = 'ping' | 'token' | 'manifest' | 'blob' | 'tags' | 'referrers' | 'storage' | 'other';

/** The requests to which a misbehaviour applies; absent members match everything. */
export interface Match {
  readonly kind?: RequestKind;
  readonly method?: 'GET' | 'HEAD';
  readonly repository?: string;
  /** Tag or digest. */
  readonly reference?: string;
  /** Lets this many matching requests pass first. */
  readonly skip?: number;
  /** Then applies to this many; default all. */
  readonly times?: number;
}

/** What goes wrong. Parts may be combined: slow, corrupt and cut. */
export interface Misbehaviour extends Match {
  /** Answers this status instead of the content, with `headers` and `body`. */
  readonly status?: number;
  /** Added to whatever is answered; `null` removes a header. */
  readonly headers?: Readonly<Record<string, string | null>>;
  readonly body?: string;
  /** Answers 307 (or `status`) to this address. */
  readonly redirectTo?: string | ((request: RecordedRequest) => string);
  /** Waits before the headers. */
  readonly delayMs?: number;
  /** Waits for it before the headers. */
  readonly after?: Promise<unknown>;
  /** Never answers; the connection stays open. */
  readonly hang?: boolean;
  /** Destroys the socket before the headers. */
  readonly reset?: boolean;
  /** Destroys the socket after so many bytes of the body. */
  readonly cutAtByte?: number;
  /** Stops after so many bytes of the body; the connection stays open. */
  readonly hangAtByte?: number;
  /** Sends no more than so many bytes of the body before `until` resolves. */
  readonly pause?: { readonly atByte: number; readonly until: Promise<unknown> };
  /** Flips this byte of the body. */
  readonly corruptByte?: number;
  /** The speed of this answer alone. */
  readonly bytesPerS?: number;
  /** What Content-Length says instead of the truth. */
  readonly contentLength?: number;
  /** Sends an endless body of this many bytes, of spaces, instead of the content. */
  readonly spaces?: number;
}

export interface RecordedRequest {
  readonly method: string;
  readonly kind: RequestKind;
  /** With the query. */
  readonly path: string;
  readonly repository: string | undefined;
  /** Tag or digest. */
  readonly reference: string | undefined;
  readonly headers: IncomingHttpHeaders;
  /** Of a Basic `Authorization`. */
  readonly username: string | undefined;
  readonly atMs: number;
  /** Of the answer; 0 when none was sent (yet). */
  status: number;
  /** How much of the answer's body was sent so far. */
  sentBytes: number;
}

const ROUTE = /^\/v2\/(.+)\/(manifests|blobs|tags|referrers)\/([^/]+)$/;
const KINDS: ReadonlyMap<string | undefined, RequestKind> = new Map([
  ['manifests', 'manifest'],
  ['blobs', 'blob'],
  ['tags', 'tags'],
  ['referrers', 'referrers'],
]);

/** The misbehaviours that are armed; the newest that fits and is not used up applies. */
export class Misbehaviours {
  readonly #armed: { readonly rule: Misbehaviour; seen: number }[] = [];

  /** Returns the way to end it. */
  add(rule: Misbehaviour): () => void {
    const armed = { rule, seen: 0 };
    this.#armed.unshift(armed);
    return () => {
      const at = this.#armed.indexOf(armed);
      if (at !== -1) this.#armed.splice(at, 1);
    };
  }

  clear(): void {
    this.#armed.length = 0;
  }

  /** What goes wrong with this request, which counts as seen. */
  meet(request: RecordedRequest): Misbehaviour {
    for (const armed of this.#armed) {
      const { rule } = armed;
      if (!fits(rule, request)) continue;
      armed.seen += 1;
      const skip = rule.skip ?? 0;
      if (armed.seen > skip && armed.seen <= skip + (rule.times ?? Number.POSITIVE_INFINITY)) return rule;
    }
    return {};
  }
}

/** Reads what a request is for from its path. */
export function recordOf(request: IncomingMessage, url: URL): RecordedRequest {
  const route = ROUTE.exec(url.pathname);
  const storage = /^\/storage\/([^/]+)$/.exec(url.pathname)?.[1];
  const fixed: Readonly<Record<string, RequestKind>> = { '/v2/': 'ping', '/v2': 'ping', '/token': 'token' };
  return {
    method: request.method ?? '',
    kind: KINDS.get(route?.[2]) ?? (storage ? 'storage' : (fixed[url.pathname] ?? 'other')),
    path: request.url ?? '',
    repository: route?.[1],
    reference: storage ?? route?.[3],
    headers: request.headers,
    username: parseBasic(request.headers.authorization)?.username,
    atMs: Date.now(),
    status: 0,
    sentBytes: 0,
  };
}

/** Whether the request is one that `match` means, whatever its number. */
export function fits(match: Match, request: RecordedRequest): boolean {
  return (['kind', 'method', 'repository', 'reference'] as const).every(
    key => match[key] === undefined || match[key] === request[key],
  );
}
