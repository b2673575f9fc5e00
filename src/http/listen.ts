import type { Server } from 'node:net';
import type { TlsMaterial } from '../ops/tls-files.ts';

/** An address to listen on. */
export interface ListenAddress {
  readonly host: string;
  readonly port: number;
  /** The configuration key of the address, for the error message. */
  readonly setting: 'server.listen' | 'server.opsListen' | 'cluster.listen';
}

/**
 * Binds, and resolves with the port; rejects with the system's error (EADDRINUSE, EACCES, EADDRNOTAVAIL). A connection that
 * cannot be accepted later, since descriptors or memory are short, or the network has failed (accept(2)), is left to its
 * client: without somebody who listens, the error would end the process.
 */
export function listen(server: Server, { host, port, setting }: ListenAddress): Promise<number> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      error.message = `${setting}: ${error.message}`;
      reject(error);
    };
    server.once('error', fail);
    server.listen({ host, port }, () => {
      server.removeListener('error', fail);
      server.on('error', () => {});
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : port);
    });
  });
}

/** A URL such as `http://127.0.0.1:5000`, with an IPv6 address in brackets. */
export function urlOf(scheme: 'http' | 'https', host: string, port: number): string {
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** A port of the registry. */
export interface Listener {
  /** An address to bind, such as `127.0.0.1` or `::`. */
  readonly host: string;
  /** 0 lets the system choose. */
  readonly port: number;
  /** Paths without an upstream are names within this one. */
  readonly upstream?: string | undefined;
  readonly tls?: TlsMaterial | undefined;
}

/** A port that is open. */
export interface BoundAddress {
  readonly host: string;
  readonly port: number;
  readonly upstream: string | undefined;
  /** `http://127.0.0.1:5000` */
  readonly url: string;
}

/** Binds `server` to the address of a listener of the registry. */
export async function bindListener(
  server: Server,
  { host, port, upstream, tls }: Listener,
): Promise<BoundAddress> {
  const bound = await listen(server, { host, port, setting: 'server.listen' });
  return { host, port: bound, upstream, url: urlOf(tls === undefined ? 'http' : 'https', host, bound) };
}
