import type { Readable } from 'node:stream';

/** Headers by lower-case name; of one that came more than once, all values. */
export type HttpHeaders = Readonly<Record<string, string | readonly string[] | undefined>>;

/** A request; `signal` aborts it and its body. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE';
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /**
   * What is sent: bytes, or a function that returns a stream of them, since a request may have to be repeated. The length
   * of a stream is in the headers.
   */
  readonly body?: Uint8Array | (() => Readable) | undefined;
  /**
   * Whether doing it twice has the effect of doing it once: then it is sent again if the server closes a connection that
   * it has answered on before, since it may just have been about to close it. Default: unless it is a POST (RFC 9110, 9.2.2).
   */
  readonly isIdempotent?: boolean | undefined;
  /** Whether the response to a GET may be large: it then costs less, and comes in pieces of up to 1 MiB. */
  readonly isBulk?: boolean | undefined;
}

/** The caller reads `body` to its end or destroys it: until then it occupies a connection. */
export interface HttpResponse {
  readonly status: number;
  readonly headers: HttpHeaders;
  readonly body: Readable;
  /**
   * Tells that a piece of a bulk body will not be looked at again: its memory is used for the next ones. A piece that is
   * not released stays as it is.
   */
  readonly release?: ((piece: Uint8Array) => void) | undefined;
}
