import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get, type GetOptions } from '../support/client.ts';
import { type Content, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import { beginUpload, sendBytes } from '../support/push-client.ts';

const MIB = 1024 * 1024;

let upstream: FakeUpstream;
let entrepot: Entrepot;
let blob: Content;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ linkBytesPerS: 4 * MIB });
  blob = randomBlob(12 * MIB, 'stop');
  upstream.add('app', blob);
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function start(shutdownTimeout: string): Promise<void> {
  entrepot = await Entrepot.start({
    server: { shutdownTimeout },
    upstreams: { 'up.example': { url: upstream.url } },
  });
}

const pull = (options: GetOptions = {}) =>
  get(`${entrepot.url}/v2/up.example/app/blobs/${blob.digest}`, options);

describe('a stop', () => {
  it('accepts no new work, lets a body in progress finish, and ends with code 0', async () => {
    await start('60s');
    let seen = 0;
    let read: (() => void) | undefined;
    const readAfter = new Promise<void>(resolve => (read = resolve));
    const body = pull({ onData: bytes => (seen = bytes), readAfter });
    await until('the body to begin', 60_000, async () => seen > 0);
    process.kill(entrepot.pid, 'SIGTERM');
    await until(
      'new connections to be refused',
      60_000,
      async () => (await get(`${entrepot.url}/v2/`)).status === 0,
    );
    const ready = await get(`${entrepot.ops}/readyz`);
    expect([ready.status, ready.text]).toEqual([503, 'stopping\n']);
    read?.();
    const got = await body;
    expect([got.complete, `sha256:${got.sha256}`]).toEqual([true, blob.digest]);
    await until('the end', 60_000, async () => !entrepot.isRunning);
    expect(entrepot.exitCode).toBe(0);
  });

  it('aborts a body at the deadline, and the next process continues with a Range where it was', async () => {
    await start('500ms');
    let seen = 0;
    const body = pull({ onData: bytes => (seen = bytes) });
    await until('some of the body', 60_000, async () => seen > MIB);
    await entrepot.stop();
    expect((await body).complete).toBe(false);
    upstream.requests.length = 0;
    entrepot = await entrepot.startAgain();
    const got = await pull();
    expect([got.complete, `sha256:${got.sha256}`]).toEqual([true, blob.digest]);
    const gets = upstream.requests.filter(({ kind, method }) => kind === 'blob' && method === 'GET');
    expect(gets.map(({ headers }) => headers.range)).toEqual([expect.stringMatching(/^bytes=[1-9]\d*-$/)]);
  });

  it('does not wait for an upstream that never responds', async () => {
    await start('500ms');
    let seen = 0;
    const body = pull({ onData: bytes => (seen = bytes) });
    await until('some of the body', 60_000, async () => seen > MIB);
    await entrepot.stop();
    await body;
    entrepot = await entrepot.startAgain();
    upstream.misbehave({ kind: 'blob', hang: true });
    const before = upstream.count('blob');
    const again = pull();
    await until('upstream to be asked', 60_000, async () => upstream.count('blob') > before);
    await entrepot.stop();
    await again;
    expect(entrepot.exitCode).toBe(0);
  });

  it('does not wait for a client that has its response and leaves its connection open', async () => {
    await start('60s');
    const socket = connect({ port: Number(new URL(entrepot.url).port), allowHalfOpen: true });
    socket.on('error', () => {});
    socket.write(`GET /v2/up.example/app/blobs/${blob.digest} HTTP/1.1\r\nHost: ${entrepot.host}\r\n\r\n`);
    let received = 0;
    socket.on('data', chunk => (received += chunk.byteLength));
    await until('the body to begin', 60_000, async () => received > MIB);
    await entrepot.stop();
    await until('all that it sent', 60_000, async () => received > blob.size);
    expect(entrepot.exitCode).toBe(0);
    socket.destroy();
  });

  it('does not wait for a process that is suspended with an upload', async () => {
    const config = {
      server: { shutdownTimeout: '60s' },
      hosted: { prefixes: ['team'], anonymous: 'push' },
    };
    entrepot = await Entrepot.start(config);
    const other = await Entrepot.start({ ...config, storage: { path: join(entrepot.folder, 'store') } });
    const location = await beginUpload(other.url, 'team/app');
    const end = MIB;
    expect(await sendBytes('PATCH', `${other.url}${location}`, blob, { end })).toBe(202);
    process.kill(other.pid, 'SIGSTOP');
    const waiting = sendBytes('PATCH', `${entrepot.url}${location}`, blob, { start: end, end: 2 * end });
    await sleep(1_000);
    await entrepot.stop();
    // Had it waited, it would have taken the upload over.
    expect([await waiting, entrepot.exitCode]).toEqual([429, 0]);
    process.kill(other.pid, 'SIGCONT');
    await other.remove();
  });
});
