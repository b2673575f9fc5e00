// The way to a real API server: it tells what was asked and answered, can be shut, and can ask for shorter watches.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { Agent, request } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { KubeCluster } from './kube-cluster.ts';

/** One request of a client, and what the API server says to it. */
export interface Asked {
  /** `secrets`, or `namespaces/team-a`. */
  readonly resource: string;
  readonly isWatch: boolean;
  /** A watch's place to start from. */
  readonly resourceVersion: string | null;
  /** 0 until it answered. */
  status: number;
  /** All that it said so far. */
  text: string;
  /** It said all that it wanted to; not so when the gate was shut meanwhile. */
  isComplete: boolean;
}

export class KubeGate {
  readonly asked: Asked[] = [];
  /** For how long watches are asked for, in place of what the client wants: the server ends them then. */
  watchSeconds: number | undefined;
  readonly #target: URL;
  readonly #agent: Agent;
  readonly #server: Server;
  #isOpen = true;

  private constructor(target: URL, ca: string) {
    this.#target = target;
    this.#agent = new Agent({ ca });
    this.#server = createServer((incoming, response) => this.#pass(incoming, response));
    this.#server.on('connection', socket => {
      if (!this.#isOpen) socket.destroy();
    });
  }

  static async start(cluster: KubeCluster): Promise<KubeGate> {
    const gate = new KubeGate(new URL(cluster.url), await cluster.certificate());
    await new Promise<void>(resolve => gate.#server.listen(0, '127.0.0.1', resolve));
    return gate;
  }

  get url(): string {
    const { port } = this.#server.address() as AddressInfo;
    return `http://127.0.0.1:${port}`;
  }

  get watches(): readonly Asked[] {
    return this.asked.filter(({ isWatch }) => isWatch);
  }

  /** Of whole collections. */
  get lists(): readonly Asked[] {
    return this.asked.filter(({ isWatch, resource }) => !isWatch && /^[a-z]+$/.test(resource));
  }

  /** Breaks all connections, and every new one. */
  shut(): void {
    this.#isOpen = false;
    this.#server.closeAllConnections();
  }

  open(): void {
    this.#isOpen = true;
  }

  async remove(): Promise<void> {
    this.shut();
    this.#agent.destroy();
    await new Promise(resolve => this.#server.close(resolve));
  }

  #pass(incoming: IncomingMessage, response: ServerResponse): void {
    const url = new URL(incoming.url ?? '/', this.#target);
    const isWatch = url.searchParams.get('watch') === '1';
    if (isWatch && this.watchSeconds !== undefined) {
      url.searchParams.set('timeoutSeconds', String(this.watchSeconds));
    }
    const asked: Asked = {
      resource: url.pathname.replace('/api/v1/', ''),
      isWatch,
      resourceVersion: url.searchParams.get('resourceVersion'),
      status: 0,
      text: '',
      isComplete: false,
    };
    this.asked.push(asked);
    const { authorization = '', accept = '' } = incoming.headers;
    const passed = request(url, { agent: this.#agent, headers: { authorization, accept } }, answer => {
      asked.status = answer.statusCode ?? 0;
      response.writeHead(asked.status, { 'content-type': answer.headers['content-type'] });
      response.flushHeaders();
      answer.setEncoding('utf8');
      answer.on('data', (piece: string) => {
        asked.text += piece;
        response.write(piece);
      });
      answer.once('end', () => {
        asked.isComplete = true;
        response.end();
      });
      answer.once('error', () => response.destroy());
    });
    passed.once('error', () => response.destroy());
    response.once('close', () => passed.destroy());
    passed.end();
  }
}
