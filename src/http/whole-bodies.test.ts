import http from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MemoryBudget } from '../lib/memory-budget.ts';
import { OCI_MANIFEST } from '../oci/media-types.ts';
import { MemorySource, request, startServer, until } from './fixture.suite.ts';
import type { RegistryServer } from './server.ts';

const MIB = 1024 * 1024;
/** More than the kernel takes for a client that reads nothing. */
const LARGE = 24 * MIB;

let source: MemorySource;
let memory: MemoryBudget;
let server: RegistryServer & { readonly port: number };
let slow: http.ClientRequest[];

beforeEach(async () => {
  source = new MemorySource();
  for (const tag of ['a', 'b']) source.addManifest('ghcr.io/app', tag, tag.repeat(LARGE), OCI_MANIFEST);
  memory = new MemoryBudget({ totalBytes: 2 * LARGE, shareBytes: LARGE });
  server = await startServer(source, { memory });
  slow = [];
});

afterEach(async () => {
  for (const each of slow) each.destroy();
  await server.close(0);
});

const path = (tag: string) => `/v2/ghcr.io/app/manifests/${tag}`;

/** A client that reads no more than the headers. */
function stall(tag: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const get = http.get({ port: server.port, host: '127.0.0.1', path: path(tag), agent: false }, answer =>
      resolve(answer.statusCode),
    );
    get.on('error', reject);
    slow.push(get);
  });
}

describe('a large body in memory', () => {
  it('is there once for all who are sent it, and gone when they have left', async () => {
    expect(await Promise.all([stall('a'), stall('a'), stall('a')])).toEqual([200, 200, 200]);
    expect(memory.bytes).toBe(LARGE);
    const { status, body } = await request(server.port, path('a'));
    expect([status, body.byteLength]).toEqual([200, LARGE]);
    for (const each of slow) each.destroy();
    await until(() => memory.bytes === 0);
  });

  it('is refused with Retry-After to who has his share under way, until his clients have read', async () => {
    expect(await stall('a')).toBe(200);
    const refused = await request(server.port, path('b'));
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '5']);
    expect((await request(server.port, path('b'), { method: 'HEAD' })).status).toBe(200);
    for (const each of slow) each.destroy();
    await until(() => memory.bytes === 0);
    expect((await request(server.port, path('b'))).body.byteLength).toBe(LARGE);
  });
});
