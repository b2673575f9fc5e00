/**
 * HTTP/1.1 requests with persistent connections, a time limit for each phase, and control over the addresses to which
 * connections are made. Redirects, authentication and status codes are left to the caller.
 */
import { HttpFailure } from './http-failure.ts';
import type { HttpRequest, HttpResponse } from './http-message.ts';
import type { HttpClientOptions, HttpTransport } from './http-transport.ts';

export type { HttpRequest, HttpResponse } from './http-message.ts';
export type { AddressGuard, HttpClientOptions } from './http-transport.ts';

/** Loads the modules for requests in advance. */
export async function loadHttpClient(): Promise<void> {
  await import('./http-transport.ts');
}

/** Loaded with the first request, since most commands make none. */
export class HttpClient {
  readonly #options: HttpClientOptions;
  #transport: Promise<HttpTransport> | undefined;
  #isClosed = false;

  constructor(options: HttpClientOptions) {
    this.#options = options;
  }

  /**
   * Resolves when the response headers have arrived. Rejects with an HttpFailure, or with the signal's reason; if the
   * signal aborts later, the body is destroyed with that reason.
   */
  async request(request: HttpRequest): Promise<HttpResponse> {
    if (this.#isClosed) throw new HttpFailure('broken', 'the client is closed');
    this.#transport ??= this.#open();
    return (await this.#transport).request(request);
  }

  /** Aborts all requests. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await (await this.#transport)?.close();
  }

  async #open(): Promise<HttpTransport> {
    const loaded = await import('./http-transport.ts');
    return new loaded.HttpTransport(this.#options);
  }
}
