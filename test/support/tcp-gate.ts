import { connect, createServer, type Server, type Socket } from 'node:net';

/** What a command says that was suspended for longer than its Leases last, or than it waits for the answer to a statement. */
export const WAS_SUSPENDED = /suspended for so long|cannot be reached: Query read timeout/;

/** A message that a test has asked for. */
export interface HeldMessage {
  /** Resolves when it is here, and does not go on. */
  readonly met: Promise<void>;
  /** Lets it go on, with what came behind it. */
  release(): void;
}

interface Hold {
  readonly pattern: RegExp;
  readonly meet: () => void;
  readonly released: Promise<void>;
}

/**
 * TCP connections to a port of this machine, which can be cut off, or held at a message: what a network between two parts
 * does to them, or a process that is suspended in the middle of a conversation.
 */
export class TcpGate {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #hold: Hold | undefined;
  #state: 'open' | 'closed' | 'silent' = 'open';

  private constructor(target: number) {
    this.#server = createServer({ noDelay: true }, client => this.#join(client, target));
  }

  static async open(target: number): Promise<TcpGate> {
    const gate = new TcpGate(target);
    await new Promise<void>(resolve => gate.#server.listen(0, '127.0.0.1', resolve));
    return gate;
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /**
   * Holds the next message of a client in which `pattern` is found, read as Latin-1. One connection after the other stands
   * still then, and only in this direction.
   */
  hold(pattern: RegExp): HeldMessage {
    let meet = () => {};
    let release = () => {};
    const met = new Promise<void>(resolve => (meet = resolve));
    const released = new Promise<void>(resolve => (release = resolve));
    const hold = { pattern, meet, released };
    this.#hold = hold;
    return {
      met,
      release: () => {
        if (this.#hold === hold) this.#hold = undefined;
        release();
      },
    };
  }

  /** `closed`: connections break, and no other is made. `silent`: nothing arrives any more, in either direction. */
  cut(how: 'closed' | 'silent'): void {
    this.#state = how;
    for (const socket of this.#sockets) {
      if (how === 'closed') socket.destroy();
      else socket.pause();
    }
  }

  /** Ends a cut. What was silent is broken off: packets that were lost for long do not come back. */
  heal(): void {
    if (this.#state === 'silent') for (const socket of this.#sockets) socket.destroy();
    this.#state = 'open';
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise(resolve => this.#server.close(resolve));
  }

  #join(client: Socket, target: number): void {
    if (this.#state === 'closed') {
      client.destroy();
      return;
    }
    const server = connect({ port: target, host: '127.0.0.1', noDelay: true });
    const end = () => {
      for (const socket of [client, server]) {
        socket.destroy();
        this.#sockets.delete(socket);
      }
    };
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on('error', end);
      socket.on('close', end);
    }
    client.on('data', (chunk: Buffer) => void this.#pass(chunk, client, server));
    server.on('data', (chunk: Buffer) => void this.#pass(chunk, server, client, { isAnswer: true }));
    if (this.#state === 'silent') for (const socket of [client, server]) socket.pause();
  }

  async #pass(chunk: Buffer, from: Socket, to: Socket, { isAnswer = false } = {}): Promise<void> {
    const hold = this.#hold;
    if (!isAnswer && hold?.pattern.test(chunk.toString('latin1')) === true) {
      this.#hold = undefined;
      from.pause();
      hold.meet();
      await hold.released;
      this.#resume(from);
    }
    if (to.write(chunk)) return;
    from.pause();
    to.once('drain', () => this.#resume(from));
  }

  #resume(socket: Socket): void {
    if (this.#state !== 'silent') socket.resume();
  }
}
