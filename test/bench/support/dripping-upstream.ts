import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { OCI_LAYER } from '../../../src/oci/media-types.ts';

const TURNS = 50;

/** A registry that has any blob, and sends each as slowly as one can: what it is asked for is never complete. */
export class DrippingUpstream {
  readonly #server: Server;
  readonly #sending = new Set<ServerResponse>();
  readonly #timer: NodeJS.Timeout;

  private constructor(server: Server, bytesPerS: number) {
    this.#server = server;
    const piece = Buffer.alloc(bytesPerS);
    let turn = 0;
    // Each once a second, and not all at the same time.
    this.#timer = setInterval(() => {
      turn = (turn + 1) % TURNS;
      for (const [at, response] of [...this.#sending].entries())
        if (at % TURNS === turn) response.write(piece);
    }, 1_000 / TURNS);
  }

  /** Listens on a free port of 127.0.0.1. `bytesPerS`: of each blob; `blobBytes`: the size of each. */
  static async start(bytesPerS: number, blobBytes: number): Promise<DrippingUpstream> {
    const server = createServer();
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    const upstream = new DrippingUpstream(server, bytesPerS);
    server.on('request', ({ method, url = '' }, response: ServerResponse) => {
      const digest = /\/blobs\/(sha256:[0-9a-f]{64})$/.exec(url)?.[1];
      if (url === '/v2/') response.end('{}');
      else if (digest === undefined) response.writeHead(404).end();
      else {
        response.writeHead(200, {
          'Content-Type': OCI_LAYER,
          'Content-Length': blobBytes,
          'Docker-Content-Digest': digest,
        });
        if (method === 'HEAD') response.end();
        else {
          upstream.#sending.add(response);
          response.on('close', () => upstream.#sending.delete(response));
          response.flushHeaders();
        }
      }
    });
    return upstream;
  }

  get url(): string {
    // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- it listens on a port
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** How many blobs it is sending. */
  get sending(): number {
    return this.#sending.size;
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    const closed = new Promise<void>(resolve => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }
}
