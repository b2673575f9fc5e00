import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { randomBlob } from '../../test/support/content.ts';
import { HostedBench } from '../../test/support/hosted-bench.ts';
import { MemoryBudget } from '../lib/memory-budget.ts';
import { Cursors } from './cursors.ts';
import { MemorySource, openSubject, request, startServer } from './server.fixture.ts';
import { hostedHandlers } from './hosted.ts';
import type { RegistryServer } from './server.ts';

const KEY = 'ab'.repeat(32);
const NAMES = ['a/1', 'secret-b/1', 'secret-b/2', 'team/1', 'team/2', 'secret-z/1'];

let bench: HostedBench;
let memory: MemoryBudget;
let server: RegistryServer & { readonly port: number };

beforeEach(async () => {
  bench = await HostedBench.open();
  for (const name of NAMES) await bench.pushBlob({ upstream: '', name }, randomBlob(5, name));
  memory = new MemoryBudget();
  const subject = {
    ...openSubject,
    maySee: async ({ name }: { name: string }) => !name.startsWith('secret'),
  };
  const { hosted, uploads, publication, removal } = bench;
  server = await startServer(new MemorySource(), {
    access: { authenticate: async () => subject },
    memory,
    hosted,
    hostedHandlers: hostedHandlers({ hosted, uploads, publication, removal, cursors: new Cursors(KEY) }),
  });
});

afterEach(async () => {
  vi.restoreAllMocks();
  await server.close(0);
  await bench.remove();
});

it.each([1, 2, 3, 4])('pages of %i show everything that the requester may see, and nothing else', async n => {
  const shown: string[] = [];
  for (let path: string | undefined = `/v2/_catalog?n=${n}`; path !== undefined; ) {
    const { status, headers, body } = await request(server.port, path);
    expect(status).toBe(200);
    expect(`${String(headers['link'])} ${body.toString()}`).not.toContain('secret');
    shown.push(...JSON.parse(body.toString()).repositories);
    path = /<([^>]*)>/.exec(String(headers['link']))?.[1];
  }
  expect(shown).toEqual(['a/1', 'team/1', 'team/2']);
});

it('a page that ends at a name that the requester may not see can be continued, and does not reveal the name', async () => {
  const list = bench.metadata.listRepositories.bind(bench.metadata);
  const asked: (string | undefined)[] = [];
  vi.spyOn(bench.metadata, 'listRepositories').mockImplementation(async (upstream, page) => {
    asked.push(page.after);
    if (page.after === 'secret-b/2000') return list(upstream, page);
    const first = Number(page.after?.slice('secret-b/'.length) ?? 1000) + 1;
    const entries = Array.from({ length: page.limit }, (_, at) => `secret-b/${first + at}`);
    return { entries, more: true };
  });
  const first = await request(server.port, '/v2/_catalog');
  expect(JSON.parse(first.body.toString())).toEqual({ repositories: [] });
  const link = String(first.headers['link']);
  expect(link).toMatch(/last=%7E[\w-]+>/);
  expect(link).not.toContain('secret');
  const { body } = await request(server.port, /<([^>]*)>/.exec(link)?.[1] ?? '');
  expect(JSON.parse(body.toString())).toEqual({ repositories: ['team/1', 'team/2'] });
  expect(asked).toContain('secret-b/2000');
});

it('any name is accepted as `last`, whether the requester may see it or not', async () => {
  for (const [last, rest] of [
    ['team/1', ['team/2']],
    ['secret-b/1', ['team/1', 'team/2']],
  ] as const) {
    const { body } = await request(server.port, `/v2/_catalog?last=${encodeURIComponent(last)}`);
    expect(JSON.parse(body.toString())).toEqual({ repositories: rest });
  }
});

it('a cursor always has the same length, can be opened with the same key, and is refused if it was changed', async () => {
  const cursors = new Cursors(KEY);
  const [short, long] = [cursors.seal('a'), cursors.seal('b'.repeat(255))];
  expect([short.length, new Cursors(KEY).open(long)]).toEqual([long.length, 'b'.repeat(255)]);
  const other = new Cursors('cd'.repeat(32)).seal('a');
  for (const last of [other, `${short}A`, `${short.slice(0, -3)}AAA`, '~', '~x']) {
    expect((await request(server.port, `/v2/_catalog?last=${last}`)).status).toBe(400);
  }
});

it('a large page counts against the share of the requester that reads it', async () => {
  const entries = Array.from({ length: 1000 }, (_, at) => `${at}`.padStart(255, 'n'));
  vi.spyOn(bench.metadata, 'listRepositories').mockImplementation(async (_upstream, { limit }) => {
    return { entries: entries.slice(0, limit), more: false };
  });
  expect((await request(server.port, '/v2/_catalog')).body.byteLength).toBeGreaterThan(250_000);
  const held = memory.leaseNow({ name: 'network 127.0.0.1', group: 'unknown' }, 8 * 1024 * 1024);
  expect((await request(server.port, '/v2/_catalog')).status).toBe(429);
  expect((await request(server.port, '/v2/_catalog?n=10')).status).toBe(200);
  held.release();
});
