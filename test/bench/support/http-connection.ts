import { connect, type Socket } from 'node:net';

export interface Response {
  readonly status: number;
  readonly headers: string;
  /** Body bytes received. */
  readonly bytes: number;
  /** Milliseconds from the request to the first body byte (to the head, when there is no body). */
  readonly firstByteMs: number;
}

/** Big enough that reading costs few wake-ups, reused so that it costs no garbage. */
const READ_BUFFER_BYTES = 1 << 20;

/**
 * One keep-alive HTTP/1.1 connection that counts body bytes and throws them away: cheap enough on a shared machine
 * that the server is what is measured. Needs Content-Length answers, which a registry always gives.
 */
export class HttpConnection {
  readonly #socket: Socket;
  readonly #host: string;
  #head = '';
  #bodyLeft = -1;
  #bodyBytes = 0;
  #status = 0;
  #headers = '';
  #isHead = false;
  #sentAtMs = 0;
  #firstByteMs = 0;
  #settle: { resolve: (response: Response) => void; reject: (error: Error) => void } | undefined;

  static open(port: number): Promise<HttpConnection> {
    return new Promise((resolve, reject) => {
      const connection = new HttpConnection(port, () => resolve(connection), reject);
    });
  }

  private constructor(port: number, ready: () => void, failed: (error: Error) => void) {
    const buffer = Buffer.allocUnsafe(READ_BUFFER_BYTES);
    this.#host = `127.0.0.1:${port}`;
    this.#socket = connect({
      port,
      host: '127.0.0.1',
      noDelay: true,
      onread: { buffer, callback: (length, chunk) => this.#received(chunk.subarray(0, length) as Buffer) },
    });
    this.#socket.once('connect', ready);
    const fail = (error?: Error) => {
      const reason = error ?? new Error('connection closed');
      failed(reason);
      this.#settle?.reject(reason);
      this.#settle = undefined;
    };
    this.#socket.once('error', fail);
    this.#socket.once('close', () => fail());
  }

  request(method: string, path: string, headers = ''): Promise<Response> {
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
      this.#head = '';
      this.#bodyLeft = -1;
      this.#bodyBytes = 0;
      this.#isHead = method === 'HEAD';
      this.#sentAtMs = performance.now();
      this.#socket.write(`${method} ${path} HTTP/1.1\r\nHost: ${this.#host}\r\n${headers}\r\n`);
    });
  }

  close(): void {
    this.#settle = undefined;
    this.#socket.destroy();
  }

  #received(chunk: Buffer): boolean {
    if (this.#bodyLeft >= 0) {
      this.#body(chunk.length);
      return true;
    }
    this.#head += chunk.toString('latin1');
    const end = this.#head.indexOf('\r\n\r\n');
    if (end >= 0) {
      const early = this.#head.length - end - 4;
      this.#headers = this.#head.slice(0, end);
      this.#status = Number(this.#headers.slice(9, 12));
      this.#bodyLeft = this.#isHead
        ? 0
        : Number(/content-length: *(\d+)/i.exec(this.#headers)?.[1] ?? Number.NaN);
      this.#firstByteMs = performance.now() - this.#sentAtMs;
      this.#body(early);
    }
    return true;
  }

  #body(length: number): void {
    if (this.#bodyBytes === 0 && length > 0) {
      this.#firstByteMs = performance.now() - this.#sentAtMs;
    }
    this.#bodyBytes += length;
    this.#bodyLeft -= length;
    if (this.#bodyLeft === 0) {
      const settle = this.#settle;
      this.#settle = undefined;
      settle?.resolve({
        status: this.#status,
        headers: this.#headers,
        bytes: this.#bodyBytes,
        firstByteMs: this.#firstByteMs,
      });
    } else if (!(this.#bodyLeft > 0)) {
      this.#settle?.reject(new Error(`not a body that can be counted: ${this.#headers}`));
      this.#settle = undefined;
    }
  }
}
