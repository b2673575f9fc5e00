import type { Socket } from 'node:net';
import type { Log } from '../lib/log.ts';
import { PacedLines } from '../lib/paced-lines.ts';
import { rawProblem } from './problem.ts';

/** OpenSSL's code for an HTTP request where a handshake should begin. */
const PLAIN_HTTP = 'ERR_SSL_HTTP_REQUEST';

/** Alerts by which a client rejects the certificate, as OpenSSL words them. Many clients only close the connection. */
const DISTRUST = /alert (unknown ca|bad certificate|certificate unknown)/;

const SPEAKS_TLS = rawProblem(400, 'Bad Request', 'this port speaks HTTPS, not HTTP: use an https:// URL');

interface Pending {
  readonly socket: Socket;
  readonly remote: string;
  readonly timer: NodeJS.Timeout;
}

/** The error of a failed handshake. */
type HandshakeError = NodeJS.ErrnoException & { readonly reason?: string };

/**
 * Connections whose TLS handshake is not finished: they use descriptors, and are closed after a while. Logs why
 * handshakes fail, since clients often report no more than a broken connection.
 */
export class Handshakes {
  readonly #limitMs: number;
  readonly #log: Log;
  /** By reason. Anybody can cause any number of them, so the log lines are limited. */
  readonly #failures: PacedLines<string>;
  /** By the connection's ends: the secure socket of a handshake does not say from which socket it was made. */
  readonly #pending = new Map<string, Pending>();

  /** `limitMs`: how long a handshake may take before its socket is destroyed. */
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
    const ends = endsOf(socket);
    const remote = socket.remoteAddress;
    if (remote === undefined) {
      // The client has left already.
      socket.destroy();
      return;
    }
    const timer = setTimeout(() => {
      this.#failures.note(`not completed within ${this.#limitMs} ms`, remote);
      this.#destroy(ends);
    }, this.#limitMs).unref();
    this.#pending.set(ends, { socket, remote, timer });
    socket.once('close', () => {
      if (this.#pending.get(ends)?.socket !== socket) return;
      this.#forget(ends);
      this.#noteLeft(remote, socket.bytesRead);
    });
  }

  /** The handshake that made `secure` has finished. */
  end(secure: Socket): void {
    this.#forget(endsOf(secure));
  }

  /** The handshake on `secure`, which closes itself, has failed. A client that spoke plain HTTP gets a response. */
  fail({ code, reason, message }: HandshakeError, secure: Socket): void {
    const ends = endsOf(secure);
    const pending = this.#pending.get(ends);
    // The address of a broken connection is not known any more; its own socket reports it.
    if (pending === undefined || code === 'ECONNRESET') return;
    if (code === PLAIN_HTTP) pending.socket.write(SPEAKS_TLS);
    this.#forget(ends);
    this.#failures.note(reasonOf(code, reason ?? message), pending.remote);
  }

  destroyAll(): void {
    for (const ends of this.#pending.keys()) this.#destroy(ends);
    this.#failures.close();
  }

  /** A connection without a byte only checks whether the port is open, as load balancers do every few seconds. */
  #noteLeft(remote: string, bytesRead: number): void {
    if (bytesRead === 0) this.#log.debug({ remote }, 'a connection was closed before its TLS handshake');
    else this.#failures.note('the client disconnected: it may not trust the certificate', remote);
  }

  #destroy(ends: string): void {
    const socket = this.#pending.get(ends)?.socket;
    this.#forget(ends);
    socket?.destroy();
  }

  #forget(ends: string): void {
    clearTimeout(this.#pending.get(ends)?.timer);
    this.#pending.delete(ends);
  }
}

function reasonOf(code: string | undefined, text: string): string {
  if (code === PLAIN_HTTP) return 'the client spoke plain HTTP';
  return DISTRUST.test(text) ? `the client does not trust the certificate (${text})` : text;
}

/** A client may have connections from one port to several of this server's addresses and ports. */
function endsOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress} ${remotePort} ${localAddress} ${localPort}`;
}
