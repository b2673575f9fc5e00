import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bodyFor, wantOf } from './blob-parts.ts';
import {
  connect,
  MemoryReader,
  MemorySource,
  type Reply,
  request,
  startServer,
  until,
} from './server.fixture.ts';

const SIZE = 300_000;
const bytes = randomBytes(SIZE);

let source: MemorySource;
let server: Awaited<ReturnType<typeof startServer>>;
let path: string;

beforeEach(async () => {
  source = new MemorySource();
  path = `/v2/ghcr.io/a/blobs/${source.addBlob('ghcr.io/a', bytes)}`;
  server = await startServer(source);
});

afterEach(() => server.close(0));

const ask = (range: string, method = 'GET', headers = {}): Promise<Reply> =>
  request(server.port, path, { method, headers: { range, ...headers } });

interface Part {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/** The parts of a multipart body, read as RFC 2046 §5.1.1 writes it, byte by byte. */
function partsOf({ headers, body }: Reply): Part[] {
  const boundary = /^multipart\/byteranges; boundary=([0-9a-f]+)$/.exec(headers['content-type'] ?? '')?.[1];
  if (boundary === undefined) throw new Error(`not multipart: ${headers['content-type']}`);
  const parts: Part[] = [];
  let at = 0;
  const take = (text: string): void => {
    expect(body.subarray(at, at + text.length).toString('latin1')).toBe(text);
    at += text.length;
  };
  take(`--${boundary}`);
  while (body.subarray(at, at + 2).toString() !== '--') {
    take('\r\n');
    const end = body.indexOf('\r\n\r\n', at);
    const lines = body.subarray(at, end).toString('latin1').split('\r\n');
    const fields = Object.fromEntries(lines.map(line => line.toLowerCase().split(': ')));
    const [, first, last] = /^bytes (\d+)-(\d+)\//.exec(fields['content-range']) ?? [];
    at = end + 4;
    const length = Number(last) - Number(first) + 1;
    parts.push({ headers: fields, body: body.subarray(at, at + length) });
    at += length;
    take(`\r\n--${boundary}`);
  }
  take('--\r\n');
  expect(at).toBe(body.byteLength);
  return parts;
}

it('what is wanted of a blob are the ranges with an end, or the last bytes; from some byte on it is the rest', () => {
  expect(wantOf('bytes=5-9, -3')(100)).toEqual([
    { start: 5, end: 10 },
    { start: 97, end: 100 },
  ]);
  expect([wantOf('bytes=5-9, -3').first, wantOf('bytes=-3').first]).toEqual([
    { start: 5, end: 10 },
    undefined,
  ]);
  // Lists may have empty members (RFC 9110 §5.6.1.2).
  expect(wantOf('bytes=, 5-9').first).toEqual({ start: 5, end: 10 });
  for (const rest of ['bytes=0-', 'bytes=99-', 'bytes=9-,', 'bytes=, ,9- , ', 'bytes=7'])
    expect(wantOf(rest)(100)).toBeUndefined();
  expect([wantOf('bytes=99-').first, wantOf('bytes=9-5').first]).toEqual([undefined, undefined]);
});

describe('several ranges in one request', () => {
  it('are one part each, in the order of the request, neither merged nor sorted', async () => {
    const reply = await ask('bytes=200000-299999, 0-9,10-19, -5');
    expect(reply.status).toBe(206);
    expect(reply.headers).toMatchObject({
      'content-length': String(reply.body.byteLength),
      'docker-content-digest': path.split('/').at(-1),
    });
    expect(reply.headers['content-range']).toBeUndefined();
    const parts = partsOf(reply);
    expect(parts.map(part => part.headers)).toEqual(
      ['200000-299999', '0-9', '10-19', '299995-299999'].map(range => ({
        'content-type': 'application/octet-stream',
        'content-range': `bytes ${range}/${SIZE}`,
      })),
    );
    expect(
      Buffer.concat(parts.map(({ body }) => body)).equals(
        Buffer.concat([bytes.subarray(200_000), bytes.subarray(0, 20), bytes.subarray(299_995)]),
      ),
    ).toBe(true);
    await until(() => source.stillOpen.size === 0);
  });

  it('may be as many as containers/storage asks for; more are 400', async () => {
    const ranges = Array.from({ length: 1_024 }, (_, at) => `${at * 290}-${at * 290 + 281}`);
    const parts = partsOf(await ask(`bytes=${ranges.join(',')}`));
    expect(parts.length).toBe(1_024);
    expect(parts.every(({ body }, at) => body.equals(bytes.subarray(at * 290, at * 290 + 282)))).toBe(true);
    expect(
      (await ask(`bytes=${Array.from({ length: 1_025 }, (_, at) => `${at}-${at}`).join(',')}`)).status,
    ).toBe(400);
    await until(() => source.stillOpen.size === 0);
  });

  it('are without those that begin after the end; if all do, the answer is 416', async () => {
    expect(partsOf(await ask('bytes=5-5,500000-,0-0')).map(({ body }) => body)).toEqual([
      bytes.subarray(5, 6),
      bytes.subarray(0, 1),
    ]);
    const one = await ask('bytes=0-0,500000-');
    expect([one.status, one.headers['content-range']]).toEqual([206, `bytes 0-0/${SIZE}`]);
    const reply = await ask('bytes=300000-,500000-');
    expect([reply.status, reply.headers['content-range']]).toEqual([416, `bytes */${SIZE}`]);
  });

  it('of a blob that is only streamed are 400 unless they are in order, since it is read once', async () => {
    source.stored = false;
    try {
      expect((await ask('bytes=200000-299999, 0-9')).status).toBe(400);
      expect((await ask('bytes=0-99, 99-149')).status).toBe(400);
      expect(partsOf(await ask('bytes=0-99, 100-149, -5')).length).toBe(3);
      expect((await ask('bytes=5-9')).status).toBe(206);
      await until(() => source.stillOpen.size === 0);
    } finally {
      source.stored = true;
    }
  });

  it('take little memory while a slow client reads them, however many they are', () => {
    setFlagsFromString('--expose-gc');
    const collectGarbage: () => void = runInNewContext('gc');
    const used = (): number => {
      collectGarbage();
      const { heapUsed, external } = process.memoryUsage();
      return heapUsed + external;
    };
    const header = `bytes=${Array.from({ length: 1024 }, (_, at) => `${at * 200}-${at * 200 + 9}`).join(',')}`;
    const before = used();
    const bodies = Array.from({ length: 100 }, () => bodyFor(header, SIZE, 'application/octet-stream'));
    expect((used() - before) / bodies.length).toBeLessThan(100_000);
    expect(bodies.every(({ parts }) => parts.length === 1024)).toBe(true);
  });

  it('that overlap to more than the blob are 416', async () => {
    expect((await ask('bytes=0-,0-')).status).toBe(416);
    expect((await ask('bytes=0-199999,100000-299999')).status).toBe(416);
    expect(partsOf(await ask('bytes=0-99,50-149')).length).toBe(2);
    await until(() => source.stillOpen.size === 0);
  });

  it('by HEAD have the headers of the GET, without a body', async () => {
    const got = await ask('bytes=0-9,20-29');
    const head = await ask('bytes=0-9,20-29', 'HEAD');
    expect([head.status, head.body.byteLength]).toEqual([206, 0]);
    expect(head.headers['content-length']).toBe(got.headers['content-length']);
    expect(head.headers['content-type']).toMatch(/^multipart\/byteranges; boundary=/);
    const one = await ask('bytes=0-9', 'HEAD');
    expect([one.status, one.headers['content-range'], one.headers['content-length']]).toEqual([
      206,
      `bytes 0-9/${SIZE}`,
      '10',
    ]);
    expect((await ask('bytes=300000-', 'HEAD')).status).toBe(416);
    expect(source.opened).toBe(1);
  });

  it('are the whole if If-Range is another entity tag', async () => {
    const reply = await ask('bytes=0-9,20-29', 'GET', { 'if-range': '"other"' });
    expect([reply.status, reply.body.equals(bytes)]).toEqual([200, true]);
  });

  it('are never complete if the blob breaks off in between', async () => {
    const breaking = new AbortController();
    const client = askOf(
      addGated(() => once(breaking.signal, 'abort').then(() => Promise.reject(new Error('broken off')))),
      'bytes=0-9,200000-200009',
    );
    await until(() => client.received().includes('Content-Range: bytes 0-9'));
    breaking.abort();
    expect(await client.closed).not.toMatch(/--\r\n$/);
    await until(() => source.stillOpen.size === 0);
  });

  it('end with their client', async () => {
    const client = askOf(
      addGated(closed => closed),
      'bytes=0-9,200000-200009',
    );
    await until(() => client.received().includes('Content-Range: bytes 0-9'));
    expect(source.stillOpen.size).toBe(1);
    client.socket.destroy();
    await until(() => source.stillOpen.size === 0);
  });
});

/** A blob of which what is beyond 200,000 bytes can be read when `gate` opens. Its path. */
function addGated(gate: (closed: Promise<void>) => Promise<void>): string {
  const gated = Buffer.concat([bytes, Buffer.from('x')]);
  const digest = source.addBlob(
    'ghcr.io/a',
    gated,
    () =>
      new MemoryReader(gated, async (position, closed) => (position < 200_000 ? undefined : gate(closed))),
  );
  return `/v2/ghcr.io/a/blobs/${digest}`;
}

function askOf(target: string, range: string): ReturnType<typeof connect> {
  const client = connect(server.port);
  client.socket.write(`GET ${target} HTTP/1.1\r\nHost: h\r\nRange: ${range}\r\n\r\n`);
  return client;
}
