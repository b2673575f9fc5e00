import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { tracesOn } from '../../test/support/signal-traces.ts';
import { HttpClient, type HttpClientOptions } from './http-client.ts';
import type { HttpResponse } from './http-message.ts';

const LIMITS = { connectMs: 2_000, headersMs: 10_000, idleBodyMs: 10_000 };
const OK = 'HTTP/1.1 200 OK\r\n';
const CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`;
const MIB = 1024 * 1024;
const cleanups: (() => unknown)[] = [];

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

type Answer = (socket: Socket, request: number, tcp: Socket) => void;

/** A server that answers the nth request, over all connections, with whatever `answer` does to its socket. */
class RawServer {
  /** Those of TCP that are open. */
  readonly sockets = new Set<Socket>();
  connections = 0;
  requests = 0;
  readonly #server: Server;
  readonly #scheme: string;

  constructor(answer: Answer, isTls: boolean) {
    this.#scheme = isTls ? 'https' : 'http';
    this.#server = createServer(tcp => {
      this.connections += 1;
      this.sockets.add(tcp);
      tcp.on('close', () => this.sockets.delete(tcp));
      tcp.on('error', () => {});
      const options = { isServer: true, key: file('server.key'), cert: file('server.pem') };
      const socket = isTls ? new TLSSocket(tcp, options) : tcp;
      socket.on('error', () => {});
      socket.on('data', (bytes: Buffer) => {
        if (bytes.includes('\r\n\r\n')) answer(socket, this.requests++, tcp);
      });
    });
    cleanups.push(() => {
      for (const socket of this.sockets) socket.destroy();
      return new Promise(resolve => this.#server.close(resolve));
    });
  }

  async start(): Promise<this> {
    await once(this.#server.listen(0, '127.0.0.1'), 'listening');
    return this;
  }

  get url(): URL {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('not listening');
    return new URL(`${this.#scheme}://127.0.0.1:${address.port}/blob`);
  }
}

const file = (name: string) =>
  readFileSync(new URL(`../../test/support/tls/${name}`, import.meta.url), 'utf8');

const serve = (answer: Answer, isTls = false) => new RawServer(answer, isTls).start();

function bulkClient(options: Partial<HttpClientOptions> = {}) {
  const client = new HttpClient({ ...LIMITS, ca: file('ca.pem'), ...options });
  cleanups.push(() => client.close());
  return (server: RawServer, signal?: AbortSignal, headers: Record<string, string> = {}) =>
    client.request({ method: 'GET', url: server.url, headers, isBulk: true, signal });
}

interface Read {
  readonly bytes: Buffer;
  readonly error: unknown;
}

/** Reads the body as a download does: each piece is released, and then filled with other bytes. */
async function read({ body, release }: HttpResponse): Promise<Read> {
  const pieces: Uint8Array[] = [];
  let error: unknown;
  try {
    for await (const piece of body as AsyncIterable<Uint8Array>) {
      pieces.push(Uint8Array.from(piece));
      piece.fill(0xee);
      release?.(piece);
    }
  } catch (reason) {
    error = reason;
  }
  return { bytes: Buffer.concat(pieces), error };
}

/** What a request and its body come to. */
async function outcome(response: Promise<HttpResponse>): Promise<Read> {
  try {
    return await read(await response);
  } catch (error) {
    return { bytes: Buffer.alloc(0), error };
  }
}

function sendWhole(socket: Socket, bytes: Uint8Array): void {
  socket.write(`${OK}Content-Length: ${bytes.length}\r\n\r\n`);
  socket.write(bytes);
}

describe('a bulk body', () => {
  const blob = randomBytes(5 * MIB + 17);

  it.each([
    ['with a length', sendWhole],
    [
      'in chunks',
      (socket: Socket) => {
        socket.write(CHUNKED);
        for (let at = 0; at < blob.length; at += 100_001) {
          const chunk = blob.subarray(at, at + 100_001);
          socket.write(`${chunk.length.toString(16)};x=y\r\n`);
          socket.write(chunk);
          socket.write('\r\n');
        }
        socket.write('0\r\nX: 1\r\n\r\n');
      },
    ],
    [
      'until the connection ends',
      (socket: Socket) => {
        socket.write(`${OK}\r\n`);
        socket.end(blob);
      },
    ],
  ])('%s arrives whole, and its memory is used again', async (_, send) => {
    for (const isTls of [false, true]) {
      const server = await serve(socket => send(socket, blob), isTls);
      const get = bulkClient();
      const reads = await Promise.all(Array.from({ length: 4 }, async () => read(await get(server))));
      for (const { bytes, error } of reads) expect([bytes.equals(blob), error]).toEqual([true, undefined]);
    }
  });

  it('leaves its connection to the next one, and is not disturbed by it', async () => {
    const second = randomBytes(3 * MIB);
    const server = await serve((socket, request) => sendWhole(socket, request === 0 ? blob : second));
    const get = bulkClient();
    const first = await get(server);
    // All of it has arrived once its reader is given what is beyond the first pieces.
    expect((await read(first)).bytes.equals(blob)).toBe(true);
    expect((await read(await get(server))).bytes.equals(second)).toBe(true);
    expect([server.connections, server.requests]).toEqual([1, 2]);
  });

  it('comes in pieces as a slow server sends it, without waiting for a whole page', async () => {
    const slow = await serve(socket => socket.write(`${OK}Content-Length: 600000\r\n\r\n`));
    const { body } = await bulkClient()(slow);
    const pieces = body[Symbol.asyncIterator]();
    const [socket] = slow.sockets;
    for (const bytes of [1, 300_000, 10]) {
      socket?.write(Buffer.alloc(bytes));
      let got = 0;
      while (got < bytes) got += (await pieces.next()).value.length;
      expect(got).toBe(bytes);
    }
    body.destroy();
  });

  it('that nobody reads stops the server, and goes on when somebody does', async () => {
    const mebibyte = Buffer.alloc(MIB, 'x');
    let sent = 0;
    const server = await serve(socket => {
      socket.write(`${OK}Content-Length: ${64 * MIB}\r\n\r\n`);
      for (let count = 0; count < 64; count += 1) socket.write(mebibyte, () => (sent += MIB));
    });
    const response = await bulkClient()(server);
    let before = 0;
    const hasStopped = (): boolean => {
      const isSame = sent > 0 && sent === before;
      before = sent;
      return isSame;
    };
    await expect.poll(hasStopped, { interval: 200 }).toBe(true);
    expect(sent).toBeLessThan(32 * MIB);
    expect((await read(response)).bytes.length).toBe(64 * MIB);
  });

  it('whose reader leaves, or whose signal aborts, ends its connection', async () => {
    const server = await serve(socket => socket.write(`${OK}Content-Length: 9000000\r\n\r\nhello`));
    const get = bulkClient();
    const left = await get(server);
    left.body.destroy();
    const leaving = new AbortController();
    const aborted = await get(server, leaving.signal);
    const reading = read(aborted);
    leaving.abort(new Error('enough'));
    expect((await reading).error).toBe(leaving.signal.reason);
    await expect.poll(() => server.sockets.size).toBe(0);
  });

  it('leaves nothing on the signal of its request', async () => {
    const server = await serve(socket => sendWhole(socket, blob));
    const get = bulkClient();
    const { signal } = new AbortController();
    // The second time over the same connection.
    for (const _ of [1, 2]) expect((await read(await get(server, signal))).error).toBeUndefined();
    expect(tracesOn(signal)).toBe(0);
  });

  it('is given as far as it came before its connection broke', async () => {
    const server = await serve(socket => {
      sendWhole(socket, blob.subarray(0, MIB + 1));
      socket.resetAndDestroy();
    });
    const cut = await serve(socket => {
      socket.write(`${OK}Content-Length: ${blob.length}\r\n\r\n`);
      socket.end(blob.subarray(0, 3 * MIB + 5));
    });
    const get = bulkClient();
    const { bytes, error } = await read(await get(cut));
    expect([bytes.equals(blob.subarray(0, 3 * MIB + 5)), error]).toEqual([true, expect.any(Error)]);
    // A reset may overtake bytes, but changes none.
    const reset = await outcome(get(server));
    expect(blob.subarray(0, reset.bytes.length).equals(reset.bytes)).toBe(true);
  });
});

const reset =
  (before: string): Answer =>
  (socket, _, tcp) =>
    void socket.write(before, () => tcp.resetAndDestroy());
const end = (before: string) => (socket: Socket) => void socket.end(before);

describe('a hostile server', () => {
  it.each([
    ['resets at once', reset('')],
    ['resets within the head', reset(`${OK}Content-Le`)],
    ['resets behind the head', reset(`${OK}Content-Length: 5\r\n\r\n`)],
    ['resets within the body', reset(`${OK}Content-Length: 5\r\n\r\nhel`)],
    ['resets within a chunk', reset(`${CHUNKED}5\r\nhel`)],
    ['resets within the trailers', reset(`${CHUNKED}5\r\nhello\r\n0\r\nX`)],
    ['ends at once', end('')],
    ['ends within the head', end(OK)],
    ['ends within the body', end(`${OK}Content-Length: 6\r\n\r\nhello`)],
    ['ends before the last chunk', end(`${CHUNKED}5\r\nhello\r\n`)],
    ['sends no HTTP', end('hello'.repeat(100))],
    ['sends two lengths', end(`${OK}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`)],
    ['sends an endless header', (socket: Socket) => void socket.write(`${OK}X: ${'x'.repeat(64 * 1024)}`)],
    ['sends an endless chunk size', (socket: Socket) => void socket.write(`${CHUNKED}${'0'.repeat(2_000)}`)],
    ['sends wrong chunks', (socket: Socket) => void socket.write(`${CHUNKED}5\r\nhello, world`)],
  ])('that %s is an error, and leaves no connection open', async (_, send) => {
    for (const isTls of [false, true]) {
      const server = await serve(send, isTls);
      const { bytes, error } = await outcome(bulkClient()(server));
      expect('hello'.startsWith(bytes.toString())).toBe(true);
      expect(error).toMatchObject({});
      await expect.poll(() => server.sockets.size).toBe(0);
    }
  });

  it('that ends TLS without saying so does not end a body early', async () => {
    const server = await serve((socket, _, tcp) => {
      socket.write(`${OK}Content-Length: 6\r\n\r\nhello`, () => tcp.end());
    }, true);
    const { bytes, error } = await outcome(bulkClient()(server));
    expect('hello'.startsWith(bytes.toString())).toBe(true);
    expect(error).toBeInstanceOf(Error);
  });

  it('that sends more than a response gets no second request on that connection', async () => {
    const server = await serve(socket => socket.write(`${OK}Content-Length: 5\r\n\r\nhello${OK}\r\nevil`));
    const get = bulkClient();
    for (let round = 0; round < 2; round += 1)
      expect((await read(await get(server))).bytes.toString()).toBe('hello');
    expect(server.connections).toBe(2);
  });

  it('that speaks first is not heard', async () => {
    const server = await serve((socket, request) => {
      sendWhole(socket, Buffer.from(`answer ${request}`));
      setImmediate(() => socket.write(`${OK}Content-Length: 4\r\n\r\nevil`));
    });
    const get = bulkClient();
    expect((await read(await get(server))).bytes.toString()).toBe('answer 0');
    await expect.poll(() => server.sockets.size).toBe(0);
    expect((await read(await get(server))).bytes.toString()).toBe('answer 1');
  });

  it('that never finishes its head is given up, however steadily it sends', async () => {
    const server = await serve(socket => {
      socket.write(`${OK}X: `);
      const dripping = setInterval(() => socket.write('x'), 10);
      socket.once('close', () => clearInterval(dripping));
    });
    const { error } = await outcome(bulkClient({ headersMs: 300 })(server));
    expect(error).toMatchObject({ reason: 'timeout' });
    await expect.poll(() => server.sockets.size).toBe(0);
  });

  it('that falls silent is given up, in the head and in the body', async () => {
    const server = await serve((socket, request) => {
      if (request > 0) socket.write(`${OK}Content-Length: 6\r\n\r\nhello`);
    });
    const head = await outcome(bulkClient({ headersMs: 100 })(server));
    expect(head.error).toMatchObject({ reason: 'timeout' });
    const { bytes, error } = await outcome(bulkClient({ idleBodyMs: 100 })(server));
    expect([bytes.toString(), error]).toEqual(['hello', expect.any(Error)]);
    await expect.poll(() => server.sockets.size).toBe(0);
  });
});

describe('a connection', () => {
  it('that the server closed while it was idle is replaced once', async () => {
    const server = await serve((socket, request) => {
      if (request === 1) socket.destroy();
      else sendWhole(socket, Buffer.from('hello'));
    });
    const get = bulkClient();
    for (let round = 0; round < 2; round += 1)
      expect((await read(await get(server))).bytes.toString()).toBe('hello');
    expect([server.connections, server.requests]).toEqual([2, 3]);
  });

  it('that is new and broken is not', async () => {
    const server = await serve(socket => socket.destroy());
    expect((await outcome(bulkClient()(server))).error).toMatchObject({ reason: 'broken' });
    expect(server.requests).toBe(1);
  });

  it('is closed when the server wants it, and kept no longer than it says', async () => {
    for (const header of ['Connection: close', 'Keep-Alive: timeout=1']) {
      const server = await serve(socket => socket.write(`${OK}${header}\r\nContent-Length: 2\r\n\r\nhi`));
      await read(await bulkClient()(server));
      await expect.poll(() => server.sockets.size).toBe(0);
    }
  });

  it('is one of at most eight that are kept', async () => {
    const server = await serve(socket => sendWhole(socket, Buffer.from('hello')));
    const get = bulkClient();
    await Promise.all(Array.from({ length: 20 }, async () => read(await get(server))));
    await expect.poll(() => server.sockets.size).toBe(8);
  });

  it('ends with the client, and with it what is under way', async () => {
    const server = await serve(socket => socket.write(`${OK}Content-Length: 6\r\n\r\nhello`));
    const client = new HttpClient(LIMITS);
    const request = { method: 'GET', url: server.url, headers: {}, isBulk: true } as const;
    const reading = read(await client.request(request));
    await client.close();
    expect((await reading).error).toMatchObject({ reason: 'broken' });
    await expect.poll(() => server.sockets.size).toBe(0);
  });

  it('is not made for a request with a header that would be two', async () => {
    const server = await serve(socket => sendWhole(socket, Buffer.from('hello')));
    const request = bulkClient()(server, undefined, { authorization: 'a\r\nx: y' });
    await expect(request).rejects.toThrow('Invalid character');
    expect(server.requests).toBe(0);
    await expect.poll(() => server.sockets.size).toBe(0);
  });
});
