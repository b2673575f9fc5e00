import type { Server } from 'node:net';

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
  /** The key of the configuration that names it, for who reads that it cannot be bound. */
  readonly setting: 'server.listen' | 'server.opsListen';
}

/** Binds, and resolves to the port; rejects with what the system says (EADDRINUSE, EACCES, EADDRNOTAVAIL). */
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

/** `http://127.0.0.1:5000`, with an IPv6 address in brackets. */
export function urlOf(scheme: 'http' | 'https', host: string, port: number): string {
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
