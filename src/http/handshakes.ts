import type { Socket } from 'node:net';
import type { Log } from '../lib/log.ts';
import { PacedLines } from '../lib/paced-lines.ts';
import { rawProblem } from './problem.ts';

/** OpenSSL's word for a request line of HTTP where a handshake should begin. */
const PLAIN_HTTP = 'ERR_SSL_HTTP_REQUEST';

/** An alert by which a client turns the certificate down, in OpenSSL's words. Many only close the connection. */
const DISTRUST = /alert (unknown ca|bad certificate|certificate unknown)/;

const SPEAKS_TLS = rawProblem(400, 'Bad Request', 'this port speaks HTTPS, not HTTP: use an https:// URL');

interface Pending {
  readonly socket: Socket;
  readonly remote: string;
  readonly timer: NodeJS.Timeout;
}

/** What a TLS layer says of a handshake that failed. */
type HandshakeError = NodeJS.ErrnoException & { readonly reason?: string };

/**
 * Connections that have not shown yet that they speak TLS: they are no client's, and hold a descriptor all the same. The
 * log says why some never became one, since their clients are often told no more than that the connection broke.
 */
export class Handshakes {
  readonly #limitMs: number;
  readonly #log: Log;
  /** By the reason. Anybody may cause them, as often as they like. */
  readonly #failures: PacedLines<string>;
  /** By the peer: what comes of a handshake is another socket, which does not say which one it came from. */
  readonly #pending = new Map<string, Pending>();

  /** `limitMs`: for the whole handshake; a socket that takes longer is destroyed. */
  constructor(limitMs: number, log: Log) {
    this.#limitMs = limitMs;
    this.#log = log;
    this.#failures = new PacedLines((reason, { events, count }) => {
      log.warn({ reason, remotes: [...new Set(events)], count }, 'TLS handshakes failed');
    });
  }

  get count(): number {
    return this.#pending.size;
  }

  begin(socket: Socket): void {
    const peer = peerOf(socket);
    const remote = socket.remoteAddress ?? 'unknown';
    const timer = setTimeout(() => {
      this.#failures.note(`not completed within ${this.#limitMs} ms`, remote);
      this.#destroy(peer);
    }, this.#limitMs).unref();
    this.#pending.set(peer, { socket, remote, timer });
    socket.once('close', () => {
      if (this.#pending.get(peer)?.socket !== socket) return;
      this.#forget(peer);
      this.#noteLeft(remote, socket.bytesRead);
    });
  }

  /** The handshake that made `secure` is done. */
  end(secure: Socket): void {
    this.#forget(peerOf(secure));
  }

  /** The handshake on `secure` has failed, which is closed by itself. Who spoke plain HTTP is answered in it. */
  fail({ code, reason, message }: HandshakeError, secure: Socket): void {
    const peer = peerOf(secure);
    const pending = this.#pending.get(peer);
    // Of a connection that broke the address is not known any more: its own socket tells of it.
    if (pending === undefined || code === 'ECONNRESET') return;
    if (code === PLAIN_HTTP) pending.socket.write(SPEAKS_TLS);
    this.#forget(peer);
    this.#failures.note(reasonOf(code, reason ?? message), pending.remote);
  }

  destroyAll(): void {
    for (const peer of this.#pending.keys()) this.#destroy(peer);
    this.#failures.close();
  }

  /** Who connects and leaves without a byte looks only whether the port is open: a load balancer, each few seconds. */
  #noteLeft(remote: string, bytesRead: number): void {
    if (bytesRead === 0) this.#log.debug({ remote }, 'a connection was closed before its TLS handshake');
    else this.#failures.note('the client disconnected: it may not trust the certificate', remote);
  }

  #destroy(peer: string): void {
    const socket = this.#pending.get(peer)?.socket;
    this.#forget(peer);
    socket?.destroy();
  }

  #forget(peer: string): void {
    clearTimeout(this.#pending.get(peer)?.timer);
    this.#pending.delete(peer);
  }
}

function reasonOf(code: string | undefined, text: string): string {
  if (code === PLAIN_HTTP) return 'the client spoke plain HTTP';
  return DISTRUST.test(text) ? `the client does not trust the certificate (${text})` : text;
}

function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
