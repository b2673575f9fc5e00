import type { Socket } from 'node:net';

/** Connections that have not shown yet that they speak TLS: they are no client's, and hold a descriptor all the same. */
export class Handshakes {
  readonly #limitMs: number;
  /** By the peer: what comes of a handshake is another socket, which does not say which one it came from. */
  readonly #pending = new Map<string, { readonly socket: Socket; readonly timer: NodeJS.Timeout }>();

  /** `limitMs`: for the whole handshake; a socket that takes longer is destroyed. */
  constructor(limitMs: number) {
    this.#limitMs = limitMs;
  }

  get count(): number {
    return this.#pending.size;
  }

  begin(socket: Socket): void {
    const peer = peerOf(socket);
    const timer = setTimeout(() => this.#destroy(peer), this.#limitMs).unref();
    this.#pending.set(peer, { socket, timer });
    socket.once('close', () => {
      if (this.#pending.get(peer)?.socket === socket) this.#forget(peer);
    });
  }

  /** The handshake that made `secure` is done. */
  end(secure: Socket): void {
    this.#forget(peerOf(secure));
  }

  destroyAll(): void {
    for (const peer of this.#pending.keys()) this.#destroy(peer);
  }

  #destroy(peer: string): void {
    this.#pending.get(peer)?.socket.destroy();
    this.#forget(peer);
  }

  #forget(peer: string): void {
    clearTimeout(this.#pending.get(peer)?.timer);
    this.#pending.delete(peer);
  }
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
