import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

/** Bytes let through per turn: small enough that many connections share the link evenly. */
const SLICE_BYTES = 64 * 1024;

/**
 * A TCP link of a bounded rate in front of a port: all connections together, or each of them, get at most `bytesPerSecond`
 * towards the client. Counts what went through, which is what an upstream's bill would say.
 */
export class TcpLink {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #bytesPerMs: number;
  readonly #isShared: boolean;
  readonly #pace: Pace = { freeAtMs: 0 };
  /** Bytes passed to clients, and requests that clients began to send, since somebody last set them to 0. */
  bytes = 0;
  requests = 0;

  /** `isShared`: whether the rate is that of all connections together (default), or of each. */
  static async open(
    target: number,
    bytesPerSecond: number,
    { isShared = true }: { readonly isShared?: boolean | undefined } = {},
  ): Promise<TcpLink> {
    const link = new TcpLink(target, bytesPerSecond, isShared);
    await new Promise<void>(resolve => link.#server.listen(0, '127.0.0.1', resolve));
    return link;
  }

  private constructor(target: number, bytesPerSecond: number, isShared: boolean) {
    this.#isShared = isShared;
    this.#bytesPerMs = bytesPerSecond / 1000;
    this.#server = createServer({ pauseOnConnect: false, noDelay: true }, client =>
      this.#join(client, target),
    );
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) {
      socket.destroy();
    }
    await new Promise(resolve => this.#server.close(resolve));
  }

  #join(client: Socket, target: number): void {
    const upstream = connect({ port: target, host: '127.0.0.1', noDelay: true });
    const end = () => {
      client.destroy();
      upstream.destroy();
      this.#sockets.delete(client);
      this.#sockets.delete(upstream);
    };
    for (const socket of [client, upstream]) {
      this.#sockets.add(socket);
      socket.on('error', end);
    }
    client.on('close', end);
    // Each request is short enough to come in one piece.
    client.on('data', () => (this.requests += 1));
    client.pipe(upstream);
    // Whichever side leaves early, the other is ended too; the measured program says what it makes of that. What upstream
    // sent before it closed the connection reaches the client.
    this.#pass(upstream, client).then(() => client.end(), end);
  }

  async #pass(from: Socket, to: Socket): Promise<void> {
    const left = new Promise<never>((_, reject) => to.once('close', () => reject(new Error('client left'))));
    // Heard by whoever waits for the client; nobody may be, when it leaves.
    left.catch(() => {});
    const pace = this.#isShared ? this.#pace : { freeAtMs: 0 };
    for await (const chunk of from as AsyncIterable<Buffer>) {
      for (let at = 0; at < chunk.length; at += SLICE_BYTES) {
        const slice = chunk.subarray(at, at + SLICE_BYTES);
        await this.#turn(slice.length, pace);
        this.bytes += slice.length;
        if (!to.write(slice)) await Promise.race([once(to, 'drain'), left]);
      }
    }
  }

  /** Waits until the link has carried what was let through before. First come, first served. */
  async #turn(bytes: number, pace: Pace): Promise<void> {
    if (this.#bytesPerMs === Number.POSITIVE_INFINITY) {
      return;
    }
    const nowMs = performance.now();
    const startMs = Math.max(nowMs - MAX_BURST_MS, pace.freeAtMs);
    pace.freeAtMs = startMs + bytes / this.#bytesPerMs;
    const waitMs = pace.freeAtMs - nowMs;
    if (waitMs > 1) {
      await new Promise<void>(resolve => setTimeout(resolve, waitMs));
    }
  }
}

/** When what was let through is carried. */
interface Pace {
  freeAtMs: number;
}

/** A timer comes late by a few milliseconds; what it missed may be made good, no more. */
const MAX_BURST_MS = 5;
