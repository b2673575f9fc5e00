// An endpoint of notifications that answers as the test says.
import { createHmac } from 'node:crypto';
import http from 'node:http';
import { pipeline, type Readable } from 'node:stream';
import { collectBytes } from '../lib/collect-bytes.ts';

/** A request as it arrived. */
export interface Received {
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
}

/** A status, a redirect, a status with a body, or no answer at all. */
export type ReceiverAnswer =
  | number
  | { readonly location: string }
  | { readonly status: number; readonly body: Readable }
  | 'hang'
  | 'reset';

export class Receiver {
  readonly received: Received[] = [];
  /** How many connections were made. */
  connections = 0;
  /** Decides how each request is answered. */
  answer: (request: Received) => ReceiverAnswer | Promise<ReceiverAnswer> = () => 204;
  readonly port: number;
  readonly #server: http.Server;

  private constructor(server: http.Server, port: number) {
    this.#server = server;
    this.port = port;
  }

  /** With a port, in the place of one that was closed. */
  static async start(port = 0): Promise<Receiver> {
    const server = http.createServer();
    await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('it does not listen');
    const receiver = new Receiver(server, address.port);
    server.on('connection', () => {
      receiver.connections += 1;
    });
    server.on('request', (req, res) => void receiver.#serve(req, res));
    return receiver;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/hook`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise(resolve => this.#server.close(resolve));
  }

  async #serve(req: http.IncomingMessage, res: http.ServerResponse): Promise<void> {
    const body = await collectBytes(req, 1 << 20, () => new Error('too long')).catch(() => undefined);
    if (body === undefined) return;
    const request = { headers: req.headers, body: body.toString() };
    this.received.push(request);
    const answer = await this.answer(request);
    if (answer === 'hang') return;
    if (answer === 'reset') req.socket.destroy();
    else if (typeof answer === 'number') res.writeHead(answer).end();
    // The client may close the connection before the body ends.
    else if ('status' in answer) pipeline(answer.body, res.writeHead(answer.status), () => {});
    else res.writeHead(307, { location: answer.location }).end();
  }
}

/** What a receiver with this key expects in `webhook-signature`. */
export function signatureOf({ headers, body }: Received, key: string | Buffer): string {
  const [id, timestamp] = [String(headers['webhook-id']), String(headers['webhook-timestamp'])];
  return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`;
}
