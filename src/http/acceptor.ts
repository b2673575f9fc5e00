import { createServer, type Server, type Socket } from 'node:net';
import { bindListener, type BoundAddress, type Listener } from './listen.ts';

/** A connection that was accepted for another process. */
export interface Accepted {
  readonly id: number;
  /** Its listener's index. */
  readonly listener: number;
}

/** A process that serves connections. */
export interface Taker {
  /**
   * Passes on the connection; then calls `Acceptor.took`, and `Acceptor.left` when it is closed; or `Acceptor.refused`,
   * if the process has no descriptor for it.
   */
  take(accepted: Accepted, socket: Socket): void;
}

/** A process that is busy takes a connection some milliseconds later. One that takes longer is not waited for. */
const SLOW_MS = 100;
/** How long a process that had no descriptor for a connection gets no other: until some of its own have been closed. */
const REST_MS = 500;
/** How long a connection waits for a process, as while all are replaced. Clients give up after 30 s. */
const WAIT_MS = 20_000;

interface Load {
  connections: number;
  /** When it was given one that it has not taken yet, by `performance.now()`. It gets no more until then. */
  untakenSinceMs: number | undefined;
  /** Until when it gets none, by `performance.now()`. */
  restsUntilMs: number;
}

interface Open extends Accepted {
  /** `undefined` while it waits for one. */
  taker: Taker | undefined;
  /** This process's handle of it; `undefined` once the taker has its own. */
  socket: Socket | undefined;
}

export interface AcceptorOptions {
  readonly listeners: readonly Listener[];
  /** Open connections of one listener, in all processes; further ones are closed at once. */
  readonly maxConnections: number;
}

/**
 * The registry's ports for several processes: accepts connections, reads nothing of them, and passes each on to the
 * process that has the fewest. Ports stay open while a process is replaced. If a process ends, the connections that it
 * has not taken are closed, so that their clients notice.
 *
 * Sharing one listening socket among the processes would need nothing of this, but which of them accepts is then up to
 * the kernel: of 32 connections that arrived at once, one of two processes got 25, and of 4 sometimes all.
 */
export class Acceptor {
  readonly #servers: readonly { readonly listener: Listener; readonly server: Server }[];
  readonly #maxConnections: number;
  readonly #open = new Map<number, Open>();
  /** Those of them that have no taker, in order. */
  readonly #waiting = new Set<Open>();
  /** In the order in which they got their last connections. */
  readonly #takers = new Map<Taker, Load>();
  readonly #ofListener: number[];
  #addresses: readonly BoundAddress[] = [];
  #later: NodeJS.Timeout | undefined;
  #lastId = 0;

  private constructor({ listeners, maxConnections }: AcceptorOptions) {
    this.#maxConnections = maxConnections;
    this.#ofListener = listeners.map(() => 0);
    this.#servers = listeners.map((listener, index) => ({
      listener,
      // Reads nothing of a connection, and lets it stay open after its client has sent everything.
      server: createServer({ pauseOnConnect: true, allowHalfOpen: true }, socket =>
        this.#accept(index, socket),
      ),
    }));
  }

  /** Binds all listeners or none, as `createRegistryServer`. */
  static async open(options: AcceptorOptions): Promise<Acceptor> {
    const acceptor = new Acceptor(options);
    try {
      acceptor.#addresses = await Promise.all(
        acceptor.#servers.map(({ server, listener }) => bindListener(server, listener)),
      );
      return acceptor;
    } catch (error) {
      acceptor.close();
      throw error;
    }
  }

  /** In the order of the listeners. */
  get addresses(): readonly BoundAddress[] {
    return this.#addresses;
  }

  /** The number of open connections that `taker` was given. */
  connectionsOf(taker: Taker): number {
    return this.#takers.get(taker)?.connections ?? 0;
  }

  /** From now on `taker` gets connections, those that wait first. */
  add(taker: Taker): void {
    this.#takers.set(taker, { connections: 0, untakenSinceMs: undefined, restsUntilMs: 0 });
    this.#passAll();
  }

  /** `taker` gets no more connections. */
  remove(taker: Taker): void {
    this.#takers.delete(taker);
  }

  /** `taker` has ended, and with it all its connections. */
  forget(taker: Taker): void {
    this.remove(taker);
    for (const open of this.#open.values()) if (open.taker === taker) this.#drop(open);
  }

  /** The taker has its own handle of the connection. */
  took(id: number): void {
    const open = this.#open.get(id);
    if (open?.socket === undefined) return;
    // Closes the handle of this process alone: the connection has another.
    open.socket.destroy();
    open.socket = undefined;
    const load = open.taker && this.#takers.get(open.taker);
    if (load === undefined) return;
    load.untakenSinceMs = undefined;
    this.#passAll();
  }

  /** The taker has got no handle of the connection, which another one gets, or the same one later. */
  refused(id: number): void {
    const open = this.#open.get(id);
    if (open?.socket === undefined) return;
    const load = open.taker && this.#takers.get(open.taker);
    open.taker = undefined;
    if (load !== undefined) {
      load.connections -= 1;
      load.untakenSinceMs = undefined;
      load.restsUntilMs = performance.now() + REST_MS;
    }
    this.#wait(open);
  }

  /** These connections are closed. */
  left(ids: readonly number[]): void {
    for (const id of ids) {
      this.took(id);
      const open = this.#open.get(id);
      if (open !== undefined) this.#drop(open);
    }
  }

  /** Accepts no more connections, and closes those that nobody has taken. */
  close(): void {
    for (const { server } of this.#servers) server.close();
    for (const open of this.#open.values()) if (open.socket !== undefined) this.#drop(open);
  }

  #accept(listener: number, socket: Socket): void {
    const count = this.#ofListener[listener] ?? 0;
    if (count >= this.#maxConnections) {
      socket.destroy();
      return;
    }
    // Of a connection that is reset before it is passed on; whoever takes it notices.
    socket.on('error', () => {});
    this.#ofListener[listener] = count + 1;
    this.#lastId += 1;
    const open: Open = { id: this.#lastId, listener, taker: undefined, socket };
    this.#open.set(open.id, open);
    this.#wait(open);
  }

  /** Passes the connection on at once if possible. */
  #wait(open: Open): void {
    this.#waiting.add(open);
    this.#passAll();
    if (!this.#waiting.has(open)) return;
    setTimeout(() => {
      if (open.taker === undefined) this.#drop(open);
    }, WAIT_MS).unref();
  }

  /** Passes on what waits, as far as there are takers. */
  #passAll(): void {
    for (const open of this.#waiting) {
      const next = this.#next();
      if (next === undefined) return;
      const [taker, load] = next;
      this.#waiting.delete(open);
      open.taker = taker;
      load.connections += 1;
      load.untakenSinceMs = performance.now();
      this.#takers.delete(taker);
      this.#takers.set(taker, load);
      if (open.socket !== undefined) taker.take({ id: open.id, listener: open.listener }, open.socket);
    }
  }

  /**
   * The taker with the fewest connections, of several the one that got its last one first; `undefined` if it has to take
   * another one first. Those that are slow, or rest, are passed over.
   */
  #next(): readonly [Taker, Load] | undefined {
    const nowMs = performance.now();
    const prompt = [...this.#takers].filter(
      ([, { untakenSinceMs = nowMs, restsUntilMs }]) =>
        nowMs - untakenSinceMs < SLOW_MS && nowMs >= restsUntilMs,
    );
    const least = Math.min(...prompt.map(([, { connections }]) => connections));
    const next = prompt.find(([, { connections }]) => connections === least);
    if (next !== undefined && next[1].untakenSinceMs === undefined) return next;
    if (this.#takers.size > 0) this.#passLater();
    return undefined;
  }

  /** For when a taker turns out to be slow, or has rested. */
  #passLater(): void {
    if (this.#later !== undefined) return;
    this.#later = setTimeout(() => {
      this.#later = undefined;
      this.#passAll();
    }, SLOW_MS).unref();
  }

  #drop(open: Open): void {
    const { id, listener, taker, socket } = open;
    if (!this.#open.delete(id)) return;
    this.#waiting.delete(open);
    socket?.destroy();
    this.#ofListener[listener] = (this.#ofListener[listener] ?? 1) - 1;
    const load = taker && this.#takers.get(taker);
    if (load !== undefined) load.connections -= 1;
  }
}
