// A request whose body the test sends as it likes.
import { type ClientRequest, request } from 'node:http';

/** A body under way to the server. */
export class SlowSender {
  /** The status, or 0 when the connection broke. */
  readonly status: Promise<number>;
  readonly #request: ClientRequest;

  /** Begins a request with a body of `contentLength` bytes. */
  constructor(
    method: 'PATCH' | 'PUT',
    url: string,
    contentLength: number,
    headers: Readonly<Record<string, string>> = {},
  ) {
    this.#request = request(url, { method, headers: { 'content-length': contentLength, ...headers } });
    this.status = new Promise(resolve => {
      this.#request.on('response', response => {
        response.resume();
        response.on('end', () => resolve(response.statusCode ?? 0));
        response.on('error', () => resolve(0));
      });
      this.#request.on('error', () => resolve(0));
    });
    this.#request.flushHeaders();
  }

  send(bytes: Uint8Array): void {
    this.#request.write(bytes);
  }

  end(): void {
    this.#request.end();
  }

  /** Leaves, as a client that was killed. */
  leave(): void {
    this.#request.destroy();
  }
}
