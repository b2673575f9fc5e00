import type { Socket } from 'node:net';

/** For each connection. Registry clients do not pipeline at all. */
const MAX_WAITING = 100;
/** For all connections together. Each costs about 6 KB, so this is 25 MB. */
const MAX_WAITING_IN_ALL = 4_096;

/** Pipelined requests (RFC 9112 §9.3.2) that wait for the responses before them. */
export class Turns {
  readonly #maxInAll: number;
  readonly #queues = new Map<Socket, ((isOurTurn: boolean) => void)[]>();
  #waiting = 0;

  constructor(maxInAll = MAX_WAITING_IN_ALL) {
    this.#maxInAll = maxInAll;
  }

  /**
   * Resolves to true when `next` is called; to false if the connection is closed first, also because too many requests
   * wait.
   */
  async wait(socket: Socket): Promise<boolean> {
    const queue = this.#queues.get(socket) ?? [];
    if (queue.length >= MAX_WAITING || this.#waiting >= this.#maxInAll) socket.destroy();
    if (socket.destroyed) return false;
    this.#queues.set(socket, queue);
    this.#waiting += 1;
    return new Promise(resolve => {
      queue.push(resolve);
    });
  }

  /** Lets the first waiting request proceed, if there is one. */
  next(socket: Socket): void {
    const proceed = this.#queues.get(socket)?.shift();
    if (proceed === undefined) return;
    this.#waiting -= 1;
    proceed(!socket.destroyed);
  }

  /** Call when the connection is closed. */
  close(socket: Socket): void {
    const queue = this.#queues.get(socket) ?? [];
    this.#queues.delete(socket);
    this.#waiting -= queue.length;
    for (const proceed of queue) proceed(false);
  }
}
