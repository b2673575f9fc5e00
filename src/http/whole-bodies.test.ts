import { once } from 'node:events';
import http from 'node:http';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { readerOfBytes } from '../lib/bytes-reader.ts';
import { MemoryBudget } from '../lib/memory-budget.ts';
import { OCI_MANIFEST } from '../oci/media-types.ts';
import type { Requester } from '../oci/requester.ts';
import { MemorySource, openSubject, request, RIGHT, startServer, until } from './server.fixture.ts';
import type { RegistryServer, RegistryServerOptions } from './server.ts';

const MIB = 1024 * 1024;
/** More than the kernel takes for a client that reads nothing. */
const LARGE = 24 * MIB;

let source: MemorySource;
let memory: MemoryBudget;
let server: RegistryServer & { readonly port: number };
let slow: http.ClientRequest[];

beforeEach(async () => {
  source = new MemorySource();
  for (const tag of ['a', 'b', 'c']) source.addManifest('ghcr.io/app', tag, tag.repeat(LARGE), OCI_MANIFEST);
  memory = new MemoryBudget({ totalBytes: 4 * LARGE, shareBytes: LARGE, groupBytes: 2 * LARGE });
  slow = [];
});

afterEach(async () => {
  for (const each of slow) each.destroy();
  await server.close(0);
});

async function start(options: Partial<RegistryServerOptions> = {}): Promise<void> {
  server = await startServer(source, { memory, ...options });
}

const path = (tag: string) => `/v2/ghcr.io/app/manifests/${tag}`;
/** Addresses of this machine, which are sources of their own. */
const [NEAR, OTHER, THIRD] = ['127.0.0.1', '127.0.0.2', '127.0.0.3'];

const as = (authorization: string): Client => ({ headers: { authorization } });

type Client = { readonly localAddress?: string; readonly headers?: http.OutgoingHttpHeaders };

setFlagsFromString('--expose-gc');
const collectGarbage: () => void = runInNewContext('gc');

/** A client that reads no more than the headers. */
function stall(what: string, client: Client = {}): Promise<http.IncomingMessage> {
  return new Promise((resolve, reject) => {
    const options = { port: server.port, host: NEAR, path: what, agent: false, ...client };
    const get = http.get(options, resolve);
    get.on('error', reject);
    slow.push(get);
  });
}

describe('a large body in memory', () => {
  it('is in memory once for all who receive it, and freed when they have disconnected', async () => {
    await start();
    await Promise.all([stall(path('a')), stall(path('a')), stall(path('a'))]);
    expect(memory.bytes).toBe(LARGE);
    const { status, body } = await request(server.port, path('a'));
    expect([status, body.byteLength]).toEqual([200, LARGE]);
    for (const each of slow) each.destroy();
    await until(() => memory.bytes === 0);
  });

  it('is not kept by each client for which it was read from the index', async () => {
    await start();
    const read: WeakRef<Uint8Array>[] = [];
    const fresh = (): Uint8Array => {
      const bytes = new Uint8Array(LARGE / 4);
      read.push(new WeakRef(bytes));
      return bytes;
    };
    const [descriptor, blob] = [
      source.addManifest('ghcr.io/app', 'd', '', OCI_MANIFEST),
      source.addBlob('ghcr.io/app', fresh(), () => readerOfBytes(fresh())),
    ];
    source.manifests.set('ghcr.io/app@d', {
      descriptor,
      get bytes() {
        return fresh();
      },
    });
    for (const what of [path('d'), `/v2/ghcr.io/app/blobs/${blob}`]) {
      read.length = 0;
      for (let client = 0; client < 6; client += 1) await stall(what);
      expect(read).toHaveLength(6);
      await until(() => {
        collectGarbage();
        return read.filter(each => each.deref() !== undefined).length === 1;
      });
    }
  });

  it('is not kept for a client that was sent a small part of it', async () => {
    await start();
    const bytes = Buffer.alloc(LARGE, 'x');
    const digest = source.addBlob('ghcr.io/app', bytes, () => readerOfBytes(bytes));
    const end = vi.spyOn(http.ServerResponse.prototype, 'end');
    const headers = { range: 'bytes=5-9' };
    expect((await request(server.port, `/v2/ghcr.io/app/blobs/${digest}`, { headers })).status).toBe(206);
    const sent = end.mock.calls.flatMap(([chunk]) => (chunk instanceof Uint8Array ? chunk : []));
    end.mockRestore();
    expect(sent.map(({ buffer }) => buffer === bytes.buffer)).toEqual([false]);
  });

  it('is refused with Retry-After if its requester has used up its share, until its clients have read', async () => {
    await start();
    await stall(path('a'));
    const refused = await request(server.port, path('b'));
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '5']);
    expect((await request(server.port, path('b'), { method: 'HEAD' })).status).toBe(200);
    for (const each of slow) each.destroy();
    await until(() => memory.bytes === 0);
    expect((await request(server.port, path('b'))).body.byteLength).toBe(LARGE);
  });

  it('is not refused because of unknown clients elsewhere that read nothing', async () => {
    await start();
    await stall(path('a'), { localAddress: OTHER });
    expect((await request(server.port, path('b'), { localAddress: OTHER })).status).toBe(429);
    expect((await request(server.port, path('b'))).body.byteLength).toBe(LARGE);
  });

  it('is not refused to a tenant because of unknown clients, from however many addresses', async () => {
    const requesters: Readonly<Record<string, Requester>> = {
      account: { tenant: undefined, id: 'credential:1', credentialId: '1', isUnknown: true },
      'other-account': { tenant: undefined, id: 'credential:2', credentialId: '2', isUnknown: true },
      tenant: { tenant: 'team-a', id: 'tenant:team-a', credentialId: '3' },
    };
    await start({
      access: {
        authenticate: async ({ authorization = '' }) => {
          const requester = requesters[authorization] ?? RIGHT.requester;
          return { ...openSubject, requester, authorize: async () => ({ ...RIGHT, requester }) };
        },
      },
    });
    await stall(path('a'), { localAddress: OTHER, ...as('account') });
    // Another account of the same source is no other share, and nobody's either.
    for (const client of [as('other-account'), {}]) {
      expect((await request(server.port, path('b'), { localAddress: OTHER, ...client })).status).toBe(429);
    }
    await stall(path('b'), { localAddress: THIRD });
    expect((await request(server.port, path('c'))).status).toBe(503);
    expect((await request(server.port, path('c'), as('tenant'))).body.byteLength).toBe(LARGE);
  });

  it('counts in the same way if it is requested as a blob, whole or in part', async () => {
    await start();
    const bytes = Buffer.concat([Buffer.alloc(LARGE / 2, 'x'), Buffer.alloc(LARGE / 2, 'y')]);
    const digest = source.addBlob('ghcr.io/app', bytes, () => readerOfBytes(bytes));
    const blob = `/v2/ghcr.io/app/blobs/${digest}`;
    await Promise.all([stall(blob), stall(blob, { headers: { range: `bytes=1-${LARGE - 2}` } })]);
    expect(memory.bytes).toBe(LARGE);
    expect((await request(server.port, path('a'))).status).toBe(429);
    const first = LARGE / 2 - 100_000;
    const part = await request(server.port, blob, {
      headers: { range: `bytes=${first}-${first + 199_999}` },
    });
    expect([part.status, part.headers['content-range']]).toEqual([
      206,
      `bytes ${first}-${first + 199_999}/${LARGE}`,
    ]);
    expect(part.body.equals(bytes.subarray(first, first + 200_000))).toBe(true);
    for (const each of slow) each.destroy();
    await until(() => memory.bytes === 0);
    const ranges = `bytes=0-${LARGE / 2},${LARGE / 2 + 1_000}-`;
    await stall(blob, { headers: { range: ranges } });
    expect(memory.bytes).toBeGreaterThan(LARGE - 1_000);
    expect((await request(server.port, path('a'))).status).toBe(429);
    const parts = await request(server.port, blob, { headers: { range: 'bytes=5-9,-5' } });
    expect(parts.body.toString()).toMatch(
      /^--\w+\r\n.*\r\n\r\nxxxxx\r\n--\w+\r\n.*\r\n\r\nyyyyy\r\n--\w+--\r\n$/s,
    );
    const few = await request(server.port, blob, { headers: { range: 'bytes=5-9' } });
    expect(few.body.toString()).toBe('xxxxx');
  });
});

describe('a client that takes a large body too slowly', () => {
  const limits = { wholeBodyFreeMs: 200, wholeBodyBytesPerS: 40 * MIB };

  it('is disconnected, whether it reads nothing or a little', async () => {
    await start({ limits });
    const answers = await Promise.all([stall(path('a')), stall(path('a'))]);
    const trickling = setInterval(() => answers[1]?.read(1), 20);
    const cut = answers.map(answer => once(answer, 'error'));
    await until(() => memory.bytes === 0 && server.connections === 0);
    clearInterval(trickling);
    for (const answer of answers) answer.resume();
    expect(await Promise.all(cut)).toMatchObject([[{ code: 'ECONNRESET' }], [{ code: 'ECONNRESET' }]]);
  });

  it('is not one that reads steadily', async () => {
    await start({ limits: { ...limits, wholeBodyBytesPerS: 4 * MIB } });
    expect((await request(server.port, path('a'))).body.byteLength).toBe(LARGE);
  });
});
