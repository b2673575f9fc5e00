// A client that rejects the server's certificate in the middle of the handshake, as OpenSSL, Go and curl do. Node's own
// client completes the handshake first, and whether the server notices is a matter of chance.
import { once } from 'node:events';
import { connect } from 'node:net';
import { Duplex } from 'node:stream';
import { connect as connectTls } from 'node:tls';

/** A fatal alert of TLS 1.2: unknown_ca (RFC 5246, 7.2). */
const UNKNOWN_CA = Buffer.from([0x15, 3, 3, 0, 2, 2, 48]);

/**
 * Begins a handshake with the server on `port`, and ends it when it has the certificate: by an alert, or by
 * disconnecting `silently`. Resolves when the connection is closed.
 */
export async function distrust(port: number, { silently = false } = {}): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  const closed = once(socket, 'close');
  socket.write(await clientHello());
  await once(socket, 'data');
  if (silently) socket.destroy();
  else socket.end(UNKNOWN_CA);
  await closed;
}

/** The first message of a TLS 1.2 client, in which a certificate may be turned down in the clear. */
async function clientHello(): Promise<Buffer> {
  return new Promise(resolve => {
    const wire = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        resolve(chunk);
        done();
      },
    });
    const client = connectTls({ socket: wire, servername: 'localhost', maxVersion: 'TLSv1.2' });
    client.on('error', () => {});
  });
}
