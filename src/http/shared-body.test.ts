import { randomBytes } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { OutgoingMessage, ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { connect, MemoryReader, MemorySource, request, startServer, until } from './server.fixture.ts';

const MIB = 1024 * 1024;

let source: MemorySource;
let server: Awaited<ReturnType<typeof startServer>>;
let readers: MemoryReader[];

beforeEach(async () => {
  source = new MemorySource();
  readers = [];
  server = await startServer(source);
});

afterEach(() => server.close(0));

/** A blob; each request's reader is made by `make`, which is told how many came before. Its path. */
function addBlob(bytes: Uint8Array, make: (before: number) => MemoryReader): string {
  const digest = source.addBlob('ghcr.io/a', bytes, () => {
    const reader = make(readers.length);
    readers.push(reader);
    return reader;
  });
  return `/v2/ghcr.io/a/blobs/${digest}`;
}

function sharing(shares: object | undefined, bytes: Uint8Array, gate?: Gate): MemoryReader {
  const reader = new MemoryReader(bytes, gate);
  reader.shares = shares;
  return reader;
}

function lending(bytes: Uint8Array, lendsBytes: number | undefined): MemoryReader {
  const reader = sharing({}, bytes);
  reader.lendsBytes = lendsBytes;
  return reader;
}

type Gate = ConstructorParameters<typeof MemoryReader>[1];

class Latch {
  readonly #events = new EventEmitter();
  readonly opened = this.#opened();

  open(): void {
    this.#events.emit('open');
  }

  async #opened(): Promise<void> {
    await once(this.#events, 'open');
  }
}

const totalReads = () => readers.reduce((sum, { reads }) => sum + reads, 0);

describe('bodies of the same bytes', () => {
  it('that are sent to 30 clients at once are read hardly more often than for one', async () => {
    const bytes = randomBytes(4 * MIB + 12_345);
    const shares = {};
    const allThere = new Latch();
    const path = addBlob(bytes, () =>
      sharing(shares, bytes, position => (position === 0 ? allThere.opened : Promise.resolve())),
    );
    const asking = Array.from({ length: 30 }, () => request(server.port, path));
    await until(() => readers.length === 30);
    allThere.open();
    const replies = await Promise.all(asking);
    expect(replies.every(({ body }) => body.equals(bytes))).toBe(true);
    // 17 pages of 256 KiB for one.
    expect(totalReads()).toBeLessThan(3 * 17);
  });

  it('arrive complete for ranges that begin anywhere', async () => {
    const bytes = randomBytes(3 * MIB);
    const shares = {};
    const path = addBlob(bytes, () => sharing(shares, bytes));
    const starts = [0, 1, 65_535, 65_536, 1_000_000, MIB, 2 * MIB + 7, 0, 1];
    const replies = await Promise.all(
      starts.map(start =>
        request(server.port, path, { headers: { range: `bytes=${start}-${start + MIB - 1}` } }),
      ),
    );
    replies.forEach(({ body }, at) => {
      const start = starts[at] ?? 0;
      expect(body.equals(bytes.subarray(start, start + MIB))).toBe(true);
    });
  });

  it('that are requested as the same range many times are queued for the client twice at most', async () => {
    const bytes = randomBytes(40 * MIB);
    const shares = {};
    const path = addBlob(bytes, () => sharing(shares, bytes));
    let queued = 0;
    const write = vi.spyOn(ServerResponse.prototype, 'write');
    write.mockImplementation(function (this: ServerResponse, ...args) {
      const isRoom = OutgoingMessage.prototype.write.apply(this, args);
      queued = Math.max(queued, this.writableLength);
      return isRoom;
    });
    try {
      const ranges = Array.from({ length: 40 }, () => `0-${MIB - 1}`).join(',');
      const reply = await request(server.port, path, { headers: { range: `bytes=${ranges}` } });
      expect([reply.status, totalReads() > 0]).toEqual([206, true]);
      expect(queued).toBeGreaterThan(MIB);
      expect(queued).toBeLessThan(3 * MIB);
    } finally {
      write.mockRestore();
    }
  });

  it('are read by another body when the client for which they were being read disconnects', async () => {
    const bytes = randomBytes(MIB);
    const shares = {};
    const path = addBlob(bytes, before =>
      sharing(shares, bytes, (_position, closed) => (before === 0 ? closed : Promise.resolve())),
    );
    const first = connect(server.port);
    first.socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => totalReads() === 1);
    const asking = Array.from({ length: 5 }, () => request(server.port, path));
    await until(() => readers.length === 6);
    first.socket.destroy();
    const replies = await Promise.all(asking);
    expect(replies.every(({ body }) => body.equals(bytes))).toBe(true);
  });

  it('that turn out to be for one client alone are read by the others for themselves', async () => {
    const [right, other] = [randomBytes(MIB), randomBytes(MIB)];
    const shares = {};
    const latch = new Latch();
    const path = addBlob(right, before =>
      before === 0 ? sharing(shares, other, () => latch.opened) : sharing(shares, right),
    );
    const first = request(server.port, path);
    await until(() => totalReads() === 1);
    const second = request(server.port, path);
    await until(() => readers.length === 2);
    const [reader] = readers;
    if (reader !== undefined) reader.shares = undefined;
    latch.open();
    expect((await first).body.equals(other)).toBe(true);
    expect((await second).body.equals(right)).toBe(true);
  });

  it('are never shared with a reader that does not allow that', async () => {
    const [one, another] = [randomBytes(MIB), randomBytes(MIB)];
    const path = addBlob(one, before => sharing(undefined, before === 0 ? one : another));
    const first = await request(server.port, path);
    const second = await request(server.port, path);
    expect([first.body.equals(one), second.body.equals(another)]).toEqual([true, true]);
  });
});

describe('bodies of bytes that are lent', () => {
  it('are sent without being read, as far as they are lent, and given back', async () => {
    const bytes = randomBytes(3 * MIB);
    const path = addBlob(bytes, () => lending(bytes, 500_000));
    const reply = await request(server.port, path, { headers: { range: 'bytes=100-' } });
    expect(reply.body.equals(bytes.subarray(100))).toBe(true);
    const [reader] = readers;
    await until(() => reader?.isClosed === true);
    expect(reader?.reads).toBe(0);
    expect(reader?.loans).toEqual({ lent: 7, givenBack: 7, abandoned: 0 });
  });

  it('are two pieces at a time, none of which is kept when the client leaves before it has taken them', async () => {
    const bytes = randomBytes(64 * MIB);
    const path = addBlob(bytes, () => lending(bytes, 32 * MIB));
    const client = connect(server.port);
    client.socket.pause();
    client.socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => readers[0]?.loans.lent === 2);
    client.socket.destroy();
    await until(() => readers[0]?.isClosed === true);
    const { lent, givenBack, abandoned } = readers[0]?.loans ?? {};
    expect([lent, (givenBack ?? 0) + (abandoned ?? 0)]).toEqual([2, 2]);
  });
});
