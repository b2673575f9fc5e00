import type { Server } from 'node:net';

/** An address to listen on. */
export interface ListenAddress {
  readonly host: string;
  readonly port: number;
  /** The configuration key of the address, for the error message. */
  readonly setting: 'server.listen' | 'server.opsListen';
}

/** Binds, and resolves with the port; rejects with the system's error (EADDRINUSE, EACCES, EADDRNOTAVAIL). */
export function listen(server: Server, { host, port, setting }: ListenAddress): Promise<number> {
  return new Promise((resolve, reject) => {
    const fail = (error: Error): void => {
      error.message = `${setting}: ${error.message}`;
      reject(error);
    };
    server.once('error', fail);
    server.listen({ host, port }, () => {
      server.removeListener('error', fail);
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : port);
    });
  });
}

/** A URL such as `http://127.0.0.1:5000`, with an IPv6 address in brackets. */
export function urlOf(scheme: 'http' | 'https', host: string, port: number): string {
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
