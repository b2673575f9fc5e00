import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it, type Mock, vi } from 'vitest';
import { bytesOf, randomBlob } from '../../../test/support/content.ts';
import { FakeUpstream } from '../../../test/support/fake-upstream.ts';
import { MirrorWorld, whole } from '../../../test/support/mirror-world.ts';
import { ManualClock } from '../../lib/manual-clock.fixture.ts';
import { PagePool } from '../../lib/page-pool.ts';
import { OciError } from '../../oci/errors.ts';

const blob = randomBlob(300_000, 'hostile');
const bytes = bytesOf(blob);
/** No pause between two attempts is longer. */
const MAX_BACKOFF_MS = 2_000;
const OK = 'HTTP/1.1 200 OK\r\n';
const LENGTH = `Content-Length: ${bytes.length}\r\n`;
const CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`;

/** What the server does with a request, beginning at `from`. */
type Answer = (socket: Socket, from: number) => void;

let fake: FakeUpstream;
let server: Server;
let world: MirrorWorld;
let answer: Answer;
/** Called for each body on its way in. */
let begun: Mock<PagePool['enter']>;
let ended: Mock<PagePool['leave']>;
const sockets = new Set<Socket>();

const honest: Answer = (socket, from) => {
  const range = `Content-Range: bytes ${from}-${bytes.length - 1}/${bytes.length}\r\n`;
  const head = from === 0 ? OK : `HTTP/1.1 206 Partial Content\r\n${range}`;
  socket.write(`${head}Content-Length: ${bytes.length - from}\r\n\r\n`);
  socket.write(bytes.subarray(from));
};

function wrong(at: number): Buffer {
  const changed = Buffer.from(bytes);
  changed[at] = (changed[at] ?? 0) ^ 1;
  return changed;
}

function send(socket: Socket, ...parts: (string | Uint8Array)[]): void {
  for (const part of parts) socket.write(part);
}

/** Connections and the memory of bodies come back, but for a connection that may be used again. */
async function expectNothingHeld(): Promise<void> {
  await expect.poll(() => sockets.size).toBeLessThanOrEqual(1);
  await expect.poll(() => ended.mock.calls.length).toBe(begun.mock.calls.length);
  expect(begun.mock.calls.length).toBeGreaterThan(0);
}

beforeEach(async () => {
  begun = vi.spyOn(PagePool.prototype, 'enter');
  ended = vi.spyOn(PagePool.prototype, 'leave');
  fake = await FakeUpstream.start();
  server = createServer(socket => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    socket.on('error', () => {});
    socket.on('data', (request: Buffer) => {
      const from = Number(/range: bytes=(\d+)-/i.exec(request.toString())?.[1] ?? 0);
      answer(socket, from);
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('not listening');
  const url = `http://127.0.0.1:${address.port}`;
  world = await MirrorWorld.open(fake, {
    upstream: { url, timeouts: { headersMs: 200, idleBodyMs: 200 } },
    clock: new ManualClock().skipWaits(MAX_BACKOFF_MS),
  });
});

afterEach(async () => {
  await world.remove();
  for (const socket of sockets) socket.destroy();
  await new Promise(resolve => server.close(resolve));
  await fake.stop();
});

describe('a body', () => {
  it.each<readonly [string, Answer]>([
    ['whose last byte is wrong', socket => send(socket, OK, LENGTH, '\r\n', wrong(bytes.length - 1))],
    [
      'whose first byte is wrong, in chunks',
      socket => send(socket, CHUNKED, '493e0\r\n', wrong(0), '\r\n0\r\n\r\n'),
    ],
    [
      'without an end, whose middle is wrong',
      socket => void socket.end(Buffer.concat([Buffer.from(`${OK}\r\n`), wrong(5)])),
    ],
    ['with two lengths', socket => send(socket, OK, LENGTH, 'Content-Length: 5\r\n\r\n', bytes)],
    [
      'with a length and chunks',
      socket =>
        send(socket, OK, LENGTH, 'Transfer-Encoding: chunked\r\n\r\n', '493e0\r\n', bytes, '\r\n0\r\n\r\n'),
    ],
    ['of chunks that lie', socket => send(socket, CHUNKED, '493df\r\n', bytes, '\r\n0\r\n\r\n')],
    ['that is too long', socket => send(socket, CHUNKED, '493e1\r\n', bytes, 'x\r\n0\r\n\r\n')],
    ['that always ends at once', socket => void socket.end(`${OK}${LENGTH}\r\n`)],
    [
      'that is a part that nobody asked for',
      socket =>
        send(
          socket,
          `HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 1-299999/300000\r\nContent-Length: 299999\r\n\r\n`,
          bytes.subarray(1),
        ),
    ],
    [
      'of several parts',
      socket =>
        send(
          socket,
          'HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=x\r\n',
          LENGTH,
          '\r\n',
          bytes,
        ),
    ],
    ['that never comes', socket => send(socket, OK, LENGTH, '\r\n')],
  ])('%s is complete for nobody, and the next honest one is', async (_, hostile) => {
    answer = hostile;
    await expect(world.pull(blob.digest)).rejects.toBeInstanceOf(Error);
    await expect.poll(() => world.mirror.runningFills).toBe(0);
    expect(await world.metadata.statBlob(blob.digest)).toBeUndefined();
    answer = honest;
    world.nowMs += 60_000;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    await expectNothingHeld();
  });

  it.each<readonly [string, Answer]>([
    [
      'is cut again and again',
      (socket, from) => {
        const range = `Content-Range: bytes ${from}-${bytes.length - 1}/${bytes.length}\r\n`;
        socket.write(
          `HTTP/1.1 206 Partial Content\r\n${range}Content-Length: ${bytes.length - from}\r\n\r\n`,
        );
        socket.end(bytes.subarray(from, from + 70_000));
      },
    ],
    [
      'comes in parts that are shorter than the rest that was asked for',
      (socket, from) => {
        const part = bytes.subarray(from, from + 100_000);
        const range = `Content-Range: bytes ${from}-${from + part.length - 1}/${bytes.length}\r\n`;
        send(socket, `HTTP/1.1 206 Partial Content\r\n${range}Content-Length: ${part.length}\r\n\r\n`, part);
      },
    ],
    [
      'is continued in such parts by a server that does not tell the size then',
      (socket, from) => {
        const part = bytes.subarray(from, from + 100_000);
        const range = `Content-Range: bytes ${from}-${from + part.length - 1}/*\r\n`;
        const head = `HTTP/1.1 206 Partial Content\r\n${range}Content-Length: ${part.length}\r\n\r\n`;
        send(socket, from === 0 ? `${OK}${LENGTH}\r\n` : head, part);
        if (from === 0) socket.end();
      },
    ],
    [
      'comes in tiny pieces, with interim responses, extensions and trailers',
      socket => {
        socket.setNoDelay(true);
        send(socket, 'HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n', CHUNKED.slice(0, 20));
        setImmediate(() => {
          socket.write(CHUNKED.slice(20));
          for (let at = 0; at < bytes.length; at += 997) {
            const piece = bytes.subarray(at, at + 997);
            send(socket, `${piece.length.toString(16)};a="b"\r\n`, piece, '\r\n');
          }
          socket.write('0\r\nDigest: none\r\n\r\n');
        });
      },
    ],
  ])('that %s is whole in the end', async (_, odd) => {
    answer = odd;
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
    await expect.poll(async () => (await world.metadata.statBlob(blob.digest))?.size).toBe(bytes.length);
    await expectNothingHeld();
  });

  it('that is cut five times by a server that ignores ranges is downloaded', async () => {
    let end = 200_000;
    answer = socket => {
      send(socket, OK, LENGTH, '\r\n');
      socket.end(bytes.subarray(0, end));
      end = end < 204_000 ? end + 1_000 : bytes.length;
    };
    expect(await world.pull(blob.digest)).toMatchObject(whole(blob));
  });

  describe('that is sent from its start each time, and a little more of it,', () => {
    const all = `bytes 0-${bytes.length - 1}/${bytes.length}`;
    const growing = (): (() => Buffer) => {
      let end = 200_000;
      return () => bytes.subarray(0, (end += 1_000));
    };

    it.each<readonly [string, (part: Buffer, from: number) => string]>([
      ['by a server that ignores ranges', () => `${OK}${LENGTH}\r\n`],
      [
        'by a server that answers ranges with others',
        (_, from) =>
          from === 0
            ? `${OK}${LENGTH}\r\n`
            : `HTTP/1.1 206 Partial Content\r\nContent-Range: ${all}\r\n${LENGTH}\r\n`,
      ],
      [
        'as a part of its own accord',
        part =>
          `HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-${part.length - 1}/${bytes.length}\r\n` +
          `Content-Length: ${part.length}\r\n\r\n`,
      ],
    ])('is not requested again without end (%s)', async (_, head) => {
      const next = growing();
      let requests = 0;
      answer = (socket, from) => {
        requests += 1;
        const part = next();
        socket.write(head(part, from));
        socket.end(part);
      };
      await expect(world.pull(blob.digest)).rejects.toBeInstanceOf(OciError);
      expect(requests).toBeLessThan(20);
      await expectNothingHeld();
    });
  });
});
