import type { Socket } from 'node:net';
import type { Exchange } from './exchange.ts';
import { Turns } from './turns.ts';

/** After an error, how long to read and drop what the client is still sending, so that it receives the response. */
export const LINGER_MS = 1_000;

/** The open sockets and their exchanges: for idle limits, for parse errors, and for a graceful shutdown. */
export class Connections {
  readonly #sockets = new Set<Socket>();
  readonly #exchanges = new Map<Socket, Exchange>();
  readonly #turns = new Turns();
  #isDraining = false;
  readonly #waitingForNone: (() => void)[] = [];

  get count(): number {
    return this.#sockets.size;
  }

  /** True after `drain`. A function, so that each exchange can hold it. */
  readonly isDraining = (): boolean => this.#isDraining;

  has(socket: Socket): boolean {
    return this.#sockets.has(socket);
  }

  add(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#exchanges.delete(socket);
      this.#turns.close(socket);
      if (this.#sockets.size === 0) this.#waitingForNone.splice(0).forEach(tell => tell());
    });
  }

  /** Resolves when there is none. */
  async gone(): Promise<void> {
    if (this.#sockets.size > 0) await new Promise<void>(resolve => this.#waitingForNone.push(resolve));
  }

  /**
   * Waits for the responses before a pipelined request; false if the connection is closed first. A connection is served
   * one request at a time: later ones could hold memory and readers that the first one is waiting for.
   */
  turn(socket: Socket): Promise<boolean> {
    return this.#turns.wait(socket);
  }

  begin(socket: Socket, exchange: Exchange): void {
    this.#exchanges.set(socket, exchange);
  }

  end(socket: Socket): void {
    const exchange = this.#exchanges.get(socket);
    this.#exchanges.delete(socket);
    if (this.#isDraining) leave(socket, exchange);
    else this.#turns.next(socket);
  }

  isBusy(socket: Socket): boolean {
    return this.#exchanges.has(socket);
  }

  /**
   * Whether a socket without traffic waits for its client, which does not read the response, does not send the rest of
   * a body, or has sent no request. Otherwise it waits for us.
   */
  isClientIdle(socket: Socket): boolean {
    const exchange = this.#exchanges.get(socket);
    return exchange === undefined || socket.writableLength > 0 || !exchange.req.complete;
  }

  /** Closes connections without a request, and all others as soon as they have none. */
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

/** Closes the connection once its client has the response, whether or not the client closes its side. */
function leave(socket: Socket, exchange: Exchange | undefined): void {
  if (exchange?.req.complete !== false) {
    socket.destroySoon();
    return;
  }
  socket.end();
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
}
