import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import http from 'node:http';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Meter, silentMeter } from '../lib/meter.ts';
import { OciError } from '../oci/errors.ts';
import { BodyMemory } from './body-memory.ts';
import {
  connect,
  KeptLog,
  MemoryReader,
  MemorySource,
  openSubject,
  RIGHT,
  request,
  startServer,
  until,
} from './server.fixture.ts';
import type { RegistryServer, RegistryServerOptions } from './server.ts';

const MIB = 1024 * 1024;

let source: MemorySource;
let server: (RegistryServer & { port: number }) | undefined;

beforeEach(() => {
  source = new MemorySource();
});

afterEach(async () => {
  await server?.close(0);
  server = undefined;
});

async function start(options: Partial<RegistryServerOptions> = {}): Promise<number> {
  server = await startServer(source, options);
  return server.port;
}

function openSockets(): number {
  return readdirSync('/proc/self/fd').length;
}

/** A blob whose reader stops for ever behind its first bytes. */
function addStuckBlob(size: number, stuckFrom: number): { path: string; readers: MemoryReader[] } {
  const bytes = randomBytes(size);
  const readers: MemoryReader[] = [];
  const digest = source.addBlob('ghcr.io/a', bytes, () => {
    const reader = new MemoryReader(bytes, (position, closed) =>
      position >= stuckFrom ? closed : Promise.resolve(),
    );
    readers.push(reader);
    return reader;
  });
  return { path: `/v2/ghcr.io/a/blobs/${digest}`, readers };
}

describe('a request head', () => {
  it('of 10 MB is 431 with an OCI body', async () => {
    const { socket, closed } = connect(await start());
    socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Huge: ');
    const chunk = 'x'.repeat(64 * 1024);
    for (let sent = 0; sent < 10 * MIB && !socket.destroyed; sent += chunk.length) socket.write(chunk);
    const text = await closed;
    expect(text).toMatch(/^HTTP\/1\.1 431 /);
    expect(text).toContain('"errors":[{"code":');
  });

  it('that is not HTTP is 400', async () => {
    const { socket, closed } = connect(await start());
    socket.write('HELO registry\r\n\r\n');
    expect(await closed).toMatch(/^HTTP\/1\.1 400 /);
  });

  it('that is not HTTP counts as a client error, and a connection that a proxy resets after a response does not', async () => {
    const count = vi.fn<Meter['count']>();
    const port = await start({ meter: { ...silentMeter, count } });
    const idle = connect(port);
    idle.socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n');
    await until(() => idle.received().startsWith('HTTP/1.1 200'));
    idle.socket.resetAndDestroy();
    await until(() => server?.connections === 0);
    const malformed = connect(port);
    malformed.socket.write('HELO registry\r\n\r\n');
    await malformed.closed;
    const errors = count.mock.calls.filter(([name]) => name === 'http_client_errors_total');
    expect(errors.map(([, labels]) => labels)).toEqual([{ code: 'malformed' }]);
  });

  it('that arrives too slowly is 408 after its time', async () => {
    const { socket, closed } = connect(
      await start({ limits: { headersTimeoutMs: 100, checkIntervalMs: 20 } }),
    );
    socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\n');
    const trickle = setInterval(() => socket.write('X-A: b\r\n'), 30);
    const text = await closed;
    clearInterval(trickle);
    expect(text).toMatch(/^HTTP\/1\.1 408 /);
  });

  it('is read even if it follows garbage during a response, and the response is not mixed with an error', async () => {
    const { path } = addStuckBlob(4 * MIB, 2 * MIB);
    const { socket, received, closed } = connect(await start());
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => received().startsWith('HTTP/1.1 200'));
    socket.write('\0\0junk\r\n\r\n');
    expect(await closed).not.toContain('HTTP/1.1 400');
  });
});

/** Lets time pass that is within the deadline of 20 s once, and not twice. */
async function slow<T>(value: T): Promise<T> {
  await nextTurn();
  vi.advanceTimersByTime(12_000);
  return value;
}

describe('an answer', () => {
  it('has one deadline for authorization and pull together', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
    try {
      const access = { authenticate: async () => ({ ...openSubject, authorize: () => slow(RIGHT) }) };
      const { digest } = source.addManifest('ghcr.io/a', 'v1', '{}', 'application/json');
      const port = await start({ access, limits: { answerWithinMs: 20_000 } });
      const pull = () => request(port, `/v2/ghcr.io/a/manifests/${digest}`);
      expect((await pull()).status).toBe(200);
      const manifest = source.manifest.bind(source);
      source.manifest = async (...asked) => slow(await manifest(...asked));
      expect(await pull()).toMatchObject({ status: 503, headers: { 'retry-after': '5' } });
    } finally {
      vi.useRealTimers();
    }
  });
});

/** Whether nobody is connected any more. */
function isLeft(): boolean {
  return server?.connections === 0;
}

describe('an idle client', () => {
  it('that reads no more of its body is disconnected, and its reader closed', async () => {
    const bytes = randomBytes(32 * MIB);
    const digest = source.addBlob('ghcr.io/a', bytes);
    const log = new KeptLog();
    const port = await start({ limits: { idleTimeoutMs: 150 }, log });
    const { socket, closed } = connect(port);
    socket.on('connect', () => socket.pause());
    socket.write(`GET /v2/ghcr.io/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`);
    socket.pause();
    await until(() => source.opened === 1 && source.stillOpen.size === 0);
    await until(() => server?.connections === 0);
    expect(log.lines.at(-1)?.fields).toMatchObject({ status: 200, aborted: true });
    socket.resume();
    expect(log.lines.at(-1)?.fields['bytes']).toBeLessThanOrEqual((await closed).length);
  });

  it('that stops reading in the end of a response counts as one that did not get it', async () => {
    const bytes = Buffer.alloc(60_000, 'x');
    const digest = source.addBlob('ghcr.io/a', bytes);
    const log = new KeptLog();
    const port = await start({ limits: { idleTimeoutMs: 150 }, log });
    const { socket, closed } = connect(port);
    socket.on('connect', () => socket.pause());
    await once(socket, 'connect');
    for (let asked = 1; !isLeft(); asked += 1) {
      socket.write(`GET /v2/ghcr.io/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`);
      await until(() => log.lines.length === asked || isLeft());
    }
    await until(() => log.lines.at(-1)?.fields['aborted'] === true);
    socket.resume();
    const responses = (await closed).split('HTTP/1.1 200').slice(1);
    const complete = responses.filter(response => response.endsWith(bytes.toString()));
    expect(log.lines.filter(({ fields }) => fields['aborted'] === undefined)).toHaveLength(complete.length);
  });

  it('that waits for our bytes is not', async () => {
    const bytes = randomBytes(100_000);
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      return new MemoryReader(
        bytes,
        () =>
          new Promise(resolve => {
            setTimeout(resolve, 600);
          }),
      );
    });
    const reply = await request(
      await start({ limits: { idleTimeoutMs: 300 } }),
      `/v2/ghcr.io/a/blobs/${digest}`,
    );
    expect(reply.body.equals(bytes)).toBe(true);
  });

  it('that stops in the middle of an upload is disconnected', async () => {
    const port = await start({
      limits: { idleTimeoutMs: 100 },
      hostedHandlers: {
        ...refuseAll,
        putManifest: async ({ exchange }) => {
          exchange.req.resume();
          await once(exchange.req, 'end');
        },
      },
    });
    const { socket, closed } = connect(port);
    socket.write(
      'PUT /v2/team-a/app/manifests/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf',
    );
    expect(await closed).toBe('');
    await until(() => server?.connections === 0);
  });

  it('is not one that uploads for longer than headers may take, as long as bytes arrive', async () => {
    const port = await start({
      limits: { headersTimeoutMs: 400, checkIntervalMs: 20 },
      hostedHandlers: {
        ...refuseAll,
        putManifest: async ({ exchange: { req, res } }) => {
          req.resume();
          await once(req, 'end');
          res.writeHead(201, { 'Content-Length': 0, Connection: 'close' }).end();
        },
      },
    });
    const { socket, closed } = connect(port);
    socket.write('PUT /v2/team-a/app/manifests/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n');
    for (const byte of 'flowing!') {
      await new Promise(resolve => setTimeout(resolve, 100));
      socket.write(byte);
    }
    expect(await closed).toMatch(/^HTTP\/1\.1 201 /);
  });

  it('without a request is disconnected', async () => {
    const { closed } = connect(await start({ limits: { idleTimeoutMs: 50, keepAliveTimeoutMs: 50 } }));
    expect(await closed).toBe('');
  });
});

const refuse = async (): Promise<never> => {
  throw new OciError('UNSUPPORTED');
};
const refuseAll = {
  putManifest: refuse,
  deleteManifest: refuse,
  deleteBlob: refuse,
  startUpload: refuse,
  readUpload: refuse,
  appendUpload: refuse,
  finishUpload: refuse,
  cancelUpload: refuse,
  catalog: refuse,
};

describe('a body', () => {
  it('whose reader fails halfway is aborted, never completed', async () => {
    const bytes = randomBytes(4 * MIB);
    const log = new KeptLog();
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      return new MemoryReader(bytes, async position => {
        if (position >= 2 * MIB) throw new Error('upstream cut');
      });
    });
    const port = await start({ log });
    await expect(request(port, `/v2/ghcr.io/a/blobs/${digest}`)).rejects.toThrow(
      /aborted|hang up|ECONNRESET/,
    );
    await until(() => log.lines.some(({ message }) => message === 'response'));
    expect(log.lines.at(-1)?.fields).toMatchObject({ aborted: true });
    expect(log.lines.at(-1)?.fields['err']).toBeInstanceOf(Error);
  });

  it.each([
    {
      what: 'an outage of storage has broken off',
      error: new OciError('UNAVAILABLE', {
        message: 'the storage of blobs cannot be reached',
        cause: new Error('connect ECONNREFUSED'),
      }),
      reason: 'UNAVAILABLE: the storage of blobs cannot be reached (connect ECONNREFUSED)',
    },
    {
      what: 'upstream has sent with wrong bytes',
      error: new OciError('UPSTREAM_INVALID', { message: 'other bytes' }),
      reason: 'UPSTREAM_INVALID: other bytes',
    },
  ])('that $what is logged with the reason and no stack', async ({ error, reason }) => {
    const bytes = randomBytes(4 * MIB);
    const log = new KeptLog();
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      return new MemoryReader(bytes, async position => {
        if (position >= 2 * MIB) throw error;
      });
    });
    const port = await start({ log });
    await expect(request(port, `/v2/ghcr.io/a/blobs/${digest}`)).rejects.toThrow(
      /aborted|hang up|ECONNRESET/,
    );
    await until(() => log.lines.some(({ message }) => message === 'response'));
    expect(log.lines.at(-1)?.fields).toMatchObject({ aborted: true, err: undefined, reason });
  });

  it('whose reader ends early is aborted', async () => {
    const bytes = randomBytes(MIB);
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      const reader = new MemoryReader(bytes.subarray(0, MIB / 2));
      return {
        size: MIB,
        read: (buffer, position) => reader.read(buffer, position),
        close: () => reader.close(),
      };
    });
    await expect(request(await start(), `/v2/ghcr.io/a/blobs/${digest}`)).rejects.toThrow(
      /aborted|hang up|ECONNRESET/,
    );
  });

  it('whose reader fails before its first byte gets the status of its error, on a connection that stays open', async () => {
    const bytes = randomBytes(100);
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      return new MemoryReader(bytes, async () => {
        throw new OciError('TOOMANYREQUESTS', { headers: { 'Retry-After': '3' } });
      });
    });
    const port = await start();
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const reply = await request(port, `/v2/ghcr.io/a/blobs/${digest}`, { agent });
    expect([reply.status, reply.headers['retry-after'], reply.headers['cache-status']]).toEqual([
      429,
      '3',
      undefined,
    ]);
    expect(reply.headers['content-range']).toBeUndefined();
    expect((await request(port, '/v2/', { agent })).status).toBe(200);
    expect(server?.connections).toBe(1);
    agent.destroy();
  });

  it('whose client disconnects closes its reader at once, even during a read that would never end', async () => {
    const { path, readers } = addStuckBlob(4 * MIB, MIB);
    const port = await start();
    const { socket, received } = connect(port);
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => received().length > 1000);
    socket.destroy();
    await until(() => readers[0]?.isClosed === true && server?.connections === 0);
    expect(source.stillOpen.size).toBe(0);
  });

  it('without a first byte sends its headers in time, and its bytes when they arrive', async () => {
    const bytes = randomBytes(100);
    let release: (() => void) | undefined;
    const digest = source.addBlob('ghcr.io/a', bytes, () => {
      return new MemoryReader(
        bytes,
        () =>
          new Promise(resolve => {
            release = resolve;
          }),
      );
    });
    const { socket, received } = connect(await start({ limits: { bodyHeadersAfterMs: 30 } }));
    socket.write(`GET /v2/ghcr.io/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => received().endsWith('\r\n\r\n'));
    expect(received()).toMatch(/^HTTP\/1\.1 200 .*content-length: 100\r\n/is);
    release?.();
    await until(() => received().endsWith(bytes.toString('latin1')));
    socket.destroy();
  });

  it('is one packet with its headers if it is small', async () => {
    const digest = source.addBlob('ghcr.io/a', Buffer.from('small body'));
    const { socket } = connect(await start());
    const chunks: string[] = [];
    socket.on('data', chunk => chunks.push(chunk.toString()));
    socket.write(`GET /v2/ghcr.io/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => chunks.join('').endsWith('small body'));
    expect(chunks).toHaveLength(1);
    socket.destroy();
  });

  it('arrives intact at 40 clients at once with memory for three', async () => {
    const bytes = randomBytes(MIB + 12_345);
    const digest = source.addBlob('ghcr.io/a', bytes);
    const memory = new BodyMemory(3 * 2 * 16 * 1024);
    const port = await start({ bodyMemory: memory });
    const replies = await Promise.all(
      Array.from({ length: 40 }, () => request(port, `/v2/ghcr.io/a/blobs/${digest}`)),
    );
    expect(replies.every(({ body }) => body.equals(bytes))).toBe(true);
    await until(() => memory.lentBytes === 0 && memory.bodies === 0);
  });

  it('leaves nothing behind, no memory, no reader, no socket, even if half of the clients disconnect', async () => {
    const bytes = randomBytes(8 * MIB);
    const digest = source.addBlob('ghcr.io/a', bytes);
    const memory = new BodyMemory();
    const port = await start({ bodyMemory: memory });
    const before = openSockets();
    const clients = Array.from({ length: 20 }, (_, index) => {
      const client = connect(port);
      client.socket.write(
        `GET /v2/ghcr.io/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
      );
      if (index % 2 === 0) client.socket.once('data', () => client.socket.destroy());
      return client;
    });
    const texts = await Promise.all(clients.map(({ closed }) => closed));
    expect(texts.filter(text => text.length > bytes.length)).toHaveLength(10);
    await until(() => server?.connections === 0 && memory.lentBytes === 0 && memory.bodies === 0);
    await until(() => source.stillOpen.size === 0);
    expect(source.opened).toBe(20);
    await until(() => openSockets() <= before);
  });

  it('comes to a client though others read nothing of theirs and hold all memory', async () => {
    const { path: stuck } = addStuckBlob(MIB, 16 * 1024);
    const bytes = randomBytes(100_000);
    const digest = source.addBlob('ghcr.io/a', bytes);
    const memory = new BodyMemory(16 * 1024);
    const port = await start({ bodyMemory: memory });
    const holder = connect(port);
    holder.socket.write(`GET ${stuck} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => memory.lentBytes > 0);
    const reply = await request(port, `/v2/ghcr.io/a/blobs/${digest}`);
    expect(reply.body.equals(bytes)).toBe(true);
    holder.socket.destroy();
  });
});

describe('a body that a client sends', () => {
  it('may be refused: the client gets the reason, and can send another request on the same connection', async () => {
    const port = await start({ hostedHandlers: refuseAll });
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    const body = 'x'.repeat(8 * MIB);
    const reply = await request(port, '/v2/team-a/app/manifests/x', { method: 'PUT', body, agent });
    expect(reply.status).toBe(405);
    expect((await request(port, '/v2/', { agent })).status).toBe(200);
    expect(server?.connections).toBe(1);
    agent.destroy();
  });

  it('that never ends is cut, refused or not', async () => {
    const { socket, received, closed } = connect(await start({ hostedHandlers: refuseAll }));
    socket.write(
      'PUT /v2/team-a/app/manifests/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n',
    );
    const chunk = Buffer.alloc(MIB);
    const pump = (): void => {
      while (!socket.destroyed && socket.write(chunk));
    };
    socket.on('drain', pump);
    pump();
    await until(() => received().startsWith('HTTP/1.1 405'));
    expect(await closed).toContain('UNSUPPORTED');
  });
});

function ask(digest: string, more = ''): string {
  return `GET /v2/ghcr.io/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n${more}\r\n`;
}

describe('pipelined requests', () => {
  it('are answered in order, one at a time', async () => {
    const bytes = randomBytes(MIB);
    const big = source.addBlob('ghcr.io/a', bytes);
    const small = source.addBlob('ghcr.io/a', Buffer.from('small'));
    // Memory for one body: the second must not hold what the first needs.
    const memory = new BodyMemory(16 * 1024);
    const { socket, closed } = connect(await start({ bodyMemory: memory }));
    socket.write(ask(big) + ask(small) + ask(big) + ask(small, 'Connection: close\r\n'));
    const text = await closed;
    const lengths = [...text.matchAll(/content-length: (\d+)/gi)].map(([, length]) => Number(length));
    expect(lengths).toEqual([MIB, 5, MIB, 5]);
    expect(text.endsWith('small')).toBe(true);
  });

  it('behind a response that the client did not wait for never reach a source', async () => {
    const { path } = addStuckBlob(4 * MIB, MIB);
    const { socket, received } = connect(await start());
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(50));
    await until(() => received().length > 1000);
    socket.destroy();
    await until(() => server?.connections === 0 && source.stillOpen.size === 0);
    expect(source.opened).toBe(1);
  });

  it('beyond a limit end their connection, and hold nothing', async () => {
    const { path } = addStuckBlob(4 * MIB, MIB);
    const { socket, received, closed } = connect(await start());
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => received().length > 1000);
    socket.write('GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(1_000));
    await closed;
    await until(() => server?.connections === 0);
    expect(source.stillOpen.size).toBe(0);
  });
});

describe('a graceful stop', () => {
  it('finishes what runs, closes idle connections, and accepts no more', async () => {
    const bytes = randomBytes(2 * MIB);
    let release: (() => void) | undefined;
    const released = new Promise<void>(resolve => {
      release = resolve;
    });
    const digest = source.addBlob(
      'ghcr.io/a',
      bytes,
      () => new MemoryReader(bytes, position => (position > 0 ? released : Promise.resolve())),
    );
    const port = await start();
    const agent = new http.Agent({ keepAlive: true });
    await request(port, '/v2/', { agent });
    const silent = connect(port);
    await until(() => server?.connections === 2);
    const running = request(port, `/v2/ghcr.io/a/blobs/${digest}`);
    await until(() => source.opened === 1);
    const stopped = server?.close(10_000);
    await silent.closed;
    await until(() => server?.connections === 1);
    await expect(request(port, '/v2/')).rejects.toThrow('ECONNREFUSED');
    release?.();
    expect((await running).body.equals(bytes)).toBe(true);
    await stopped;
    expect(server?.connections).toBe(0);
    agent.destroy();
  });

  it('tells a connection whose response has not begun that it is the last one', async () => {
    let release: (() => void) | undefined;
    source.tags = () =>
      new Promise(resolve => {
        release = () => resolve({ tags: [], next: undefined, outcome: 'hit', stored: true, upstreamMs: 0 });
      });
    const port = await start();
    const agent = new http.Agent({ keepAlive: true });
    const running = request(port, '/v2/ghcr.io/a/tags/list', { agent });
    await until(() => release !== undefined);
    const stopped = server?.close(10_000);
    release?.();
    expect((await running).headers['connection']).toBe('close');
    await stopped;
    agent.destroy();
  });

  it('aborts at the deadline what still runs', async () => {
    const { path, readers } = addStuckBlob(4 * MIB, MIB);
    const port = await start();
    const running = request(port, path);
    const outcome = running.then(
      () => 'complete',
      () => 'broken off',
    );
    await until(() => readers.length === 1);
    await server?.close(50);
    expect(await outcome).toBe('broken off');
    await until(() => readers[0]?.isClosed === true);
  });
});
