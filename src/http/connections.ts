import type { Socket } from 'node:net';
import type { Exchange } from './exchange.ts';

/** What a client that sent too much still has in flight is read and dropped for so long, so that it reads our answer. */
export const LINGER_MS = 1_000;

/** The open sockets and what each is busy with: for idle limits, for parse errors, and for a graceful stop. */
export class Connections {
  readonly #sockets = new Set<Socket>();
  readonly #exchanges = new Map<Socket, Exchange>();
  /** Requests that were sent before the answer to the one before them. */
  readonly #queues = new Map<Socket, ((isOurTurn: boolean) => void)[]>();
  #isDraining = false;

  get count(): number {
    return this.#sockets.size;
  }

  /** From `drain` on. A function, so that each exchange can hold it. */
  readonly isDraining = (): boolean => this.#isDraining;

  has(socket: Socket): boolean {
    return this.#sockets.has(socket);
  }

  add(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#exchanges.delete(socket);
      const queue = this.#queues.get(socket) ?? [];
      this.#queues.delete(socket);
      for (const proceed of queue) proceed(false);
    });
  }

  /**
   * Waits for the answers before a pipelined request; false when the client left meanwhile. One connection is served
   * one request at a time, else its later ones would hold memory and readers that its first one may be waiting for.
   */
  turn(socket: Socket): Promise<boolean> {
    return new Promise(resolve => {
      const queue = this.#queues.get(socket);
      if (queue === undefined) this.#queues.set(socket, [resolve]);
      else queue.push(resolve);
    });
  }

  begin(socket: Socket, exchange: Exchange): void {
    this.#exchanges.set(socket, exchange);
  }

  end(socket: Socket): void {
    const exchange = this.#exchanges.get(socket);
    this.#exchanges.delete(socket);
    const next = this.#queues.get(socket)?.shift();
    if (this.#isDraining) leave(socket, exchange);
    else next?.(!socket.destroyed);
  }

  isBusy(socket: Socket): boolean {
    return this.#exchanges.has(socket);
  }

  /**
   * Whether nothing happens on the socket because its client does not do its part: it reads no more of what was
   * written, sends no more of a body, or has no request at all. Otherwise we are the ones who are slow.
   */
  isClientIdle(socket: Socket): boolean {
    const exchange = this.#exchanges.get(socket);
    return exchange === undefined || socket.writableLength > 0 || !exchange.req.complete;
  }

  /** Ends what has no request now, and from now on everything as soon as it has none. */
  drain(): void {
    this.#isDraining = true;
    for (const socket of this.#sockets) {
      if (!this.#exchanges.has(socket)) socket.destroy();
    }
  }

  destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }
}

/** Closes the connection once its client has the answer, whether or not the client closes its side. */
function leave(socket: Socket, exchange: Exchange | undefined): void {
  if (exchange?.req.complete !== false) {
    socket.destroySoon();
    return;
  }
  socket.end();
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}
