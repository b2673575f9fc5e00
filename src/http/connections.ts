import type { Socket } from 'node:net';
import type { Exchange } from './exchange.ts';

/** The open sockets and what each is busy with: for idle limits, for parse errors, and for a graceful stop. */
export class Connections {
  readonly #sockets = new Set<Socket>();
  readonly #exchanges = new Map<Socket, Exchange>();
  #isDraining = false;

  get count(): number {
    return this.#sockets.size;
  }

  /** From `drain` on. A function, so that each exchange can hold it. */
  readonly isDraining = (): boolean => this.#isDraining;

  add(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#exchanges.delete(socket);
    });
  }

  begin(socket: Socket, exchange: Exchange): void {
    this.#exchanges.set(socket, exchange);
  }

  end(socket: Socket, exchange: Exchange): void {
    // With pipelining the next exchange has begun already.
    if (this.#exchanges.get(socket) !== exchange) return;
    this.#exchanges.delete(socket);
    if (this.#isDraining) socket.end();
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
