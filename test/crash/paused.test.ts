// Two processes on one folder, one of which stands still (SIGSTOP) for longer than the living may, and then wakes.
import { randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import type { Digest } from '../../src/oci/digest.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Content, contentOf, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { Daemon, until } from '../support/programs.ts';
import { beginUpload, offsetOf, pushBlob, sendBytes } from '../support/push-client.ts';
import { SlowSender } from '../support/slow-sender.ts';
import { canPreload } from '../support/preload-library.ts';
import { type Fault, SyscallShim } from '../support/syscall-shim.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const MIB = 1024 * 1024;
const REPOSITORY = 'tools/app';
const UPSTREAM = 'up.example';
/** No criterion, only an end for what hangs: on a busy machine all of it takes many times as long. */
const HANG_MS = 180_000;
const HOSTED = { prefixes: ['tools'], anonymous: 'push' };

let folder: string;

beforeEach(async () => {
  folder = await makeTempFolder('paused');
});

afterEach(() => removeFolder(folder));

/** A process on the store of this test. */
const start = (config: Record<string, unknown> = {}): Promise<Entrepot> =>
  Entrepot.start({ hosted: HOSTED, storage: { path: join(folder, 'store') }, ...config });

const blobAt = (entrepot: Entrepot, digest: Digest, repository = REPOSITORY) =>
  get(`${entrepot.url}/v2/${repository}/blobs/${digest}`);

async function expectWhole(entrepot: Entrepot, blob: Content): Promise<void> {
  const got = await blobAt(entrepot, blob.digest);
  expect([got.status, got.complete, `sha256:${got.sha256}`]).toEqual([200, true, blob.digest]);
}

/** Finishes an upload at `entrepot`, which may have to wait until its holder counts as dead. */
async function finishAt(entrepot: Entrepot, location: string, blob: Content): Promise<void> {
  const url = `${entrepot.url}${location}`;
  let status = 0;
  await until('another process to finish the upload', HANG_MS, async () => {
    const begin = await offsetOf(url);
    status = await sendBytes('PUT', `${url}?digest=${blob.digest}`, blob, { start: begin });
    return status !== 429 && status !== 503;
  });
  expect(status).toBe(201);
}

describe('a process that is suspended in the middle of a push', () => {
  let paused: Entrepot;
  let other: Entrepot;

  beforeEach(async () => {
    [paused, other] = await Promise.all([start(), start()]);
  });

  afterEach(async () => {
    await Promise.all([paused.remove(), other.remove()]);
  });

  it('and finds other bytes in its socket when it wakes up does not write them into what was acknowledged elsewhere', async () => {
    const blob = randomBlob(4 * MIB, 'other bytes');
    const location = await beginUpload(paused.url, REPOSITORY);
    const sender = new SlowSender('PATCH', `${paused.url}${location}`, 2 * MIB);
    sender.send(bytesOf(blob).subarray(0, MIB));
    await until(
      'its first bytes',
      HANG_MS,
      async () => (await offsetOf(`${other.url}${location}`)) >= MIB / 2,
    );
    process.kill(paused.pid, 'SIGSTOP');
    sender.send(randomBytes(MIB));
    sender.end();
    await finishAt(other, location, blob);
    await expectWhole(other, blob);
    process.kill(paused.pid, 'SIGCONT');
    expect(await sender.status).not.toBe(202);
    await expectWhole(paused, blob);
    await expectWhole(other, blob);
  });

  it('and discards a PUT when it wakes up leaves what was acknowledged elsewhere', async () => {
    const blob = randomBlob(4 * MIB, 'taken back');
    const location = await beginUpload(paused.url, REPOSITORY);
    const sender = new SlowSender('PUT', `${paused.url}${location}?digest=${blob.digest}`, blob.size);
    sender.send(bytesOf(blob).subarray(0, 2 * MIB));
    await until('its first bytes', HANG_MS, async () => (await offsetOf(`${other.url}${location}`)) >= MIB);
    process.kill(paused.pid, 'SIGSTOP');
    sender.leave();
    await finishAt(other, location, blob);
    process.kill(paused.pid, 'SIGCONT');
    // It answers others, and so has done what it had to do first.
    expect((await get(`${paused.url}/v2/`)).status).toBe(200);
    await sleep(1000);
    await expectWhole(other, blob);
    await expectWhole(paused, blob);
  });
  it('and finds the push of a tag in its socket when it wakes up does not move it back from what was set elsewhere', async () => {
    const [mine, theirs] = ['mine', 'theirs'].map(name => imageOf([randomBlob(1000, name)])) as [
      Image,
      Image,
    ];
    for (const { config, layers } of [mine, theirs])
      for (const blob of [config, ...layers]) await pushBlob(other.url, REPOSITORY, blob);
    const push = ({ url }: Entrepot, { manifest }: Image) =>
      get(`${url}/v2/${REPOSITORY}/manifests/v1`, {
        method: 'PUT',
        headers: { 'content-type': manifest.mediaType },
        body: bytesOf(manifest),
      });
    const index = new Database(join(folder, 'store', 'index.db'), { readonly: true });
    try {
      process.kill(paused.pid, 'SIGSTOP');
      const pushing = push(paused, mine);
      expect((await push(other, theirs)).status).toBe(201);
      const processes = index.prepare(
        `SELECT address FROM processes WHERE address LIKE 'process ${paused.pid} %'`,
      );
      await until('the other to see that it is suspended', HANG_MS, async () => processes.all().length === 0);
      process.kill(paused.pid, 'SIGCONT');
      expect(await pushing).toMatchObject({ status: 503, headers: { 'retry-after': expect.any(String) } });
      const tag = await get(`${other.url}/v2/${REPOSITORY}/manifests/v1`);
      expect(tag.headers['docker-content-digest']).toBe(theirs.manifest.digest);
      await until('it to push again', HANG_MS, async () => (await push(paused, mine)).status === 201);
    } finally {
      index.close();
    }
  });
});

describe('a process that is suspended in the middle of a download', () => {
  it.each([
    ['when it wakes', 5 * MIB],
    ['before', MIB],
  ])('and gets wrong bytes %s spoils nothing that another has finished', async (_when, wrongFrom) => {
    const blob = randomBlob(8 * MIB, `download ${wrongFrom}`);
    const wrong = Buffer.from(bytesOf(blob));
    wrong.fill('?', wrongFrom, wrongFrom + MIB);
    const [bad, good] = await Promise.all([
      FakeUpstream.start({ linkBytesPerS: 4 * MIB }),
      FakeUpstream.start(),
    ]);
    good.add('app', blob);
    bad.add('app', { ...blob, slice: (from, to) => contentOf(wrong, blob.mediaType).slice(from, to) });
    const of = (upstream: FakeUpstream) => ({
      upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    });
    const [paused, other] = await Promise.all([start(of(bad)), start(of(good))]);
    try {
      const url = (entrepot: Entrepot) => `${entrepot.url}/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`;
      const pulling = get(url(paused));
      await until('its first bytes', HANG_MS, async () => bad.bytesSent > 3 * MIB);
      process.kill(paused.pid, 'SIGSTOP');
      // What is under way stays wrong. Asked anew, it shows what it has: a proof by wrong bytes would be refused.
      bad.add('app', blob);
      let got = await get(url(other));
      await until('the other to have it', HANG_MS, async () => {
        if (got.status !== 200 || !got.complete) got = await get(url(other));
        return got.status === 200 && got.complete;
      });
      expect(`sha256:${got.sha256}`).toBe(blob.digest);
      const asked = good.requests.length;
      process.kill(paused.pid, 'SIGCONT');
      const pulled = await pulling;
      expect(pulled.complete && `sha256:${pulled.sha256}` !== blob.digest).toBe(false);
      for (const entrepot of [other, paused, other]) {
        const again = await get(url(entrepot));
        expect([again.status, again.complete, `sha256:${again.sha256}`]).toEqual([200, true, blob.digest]);
      }
      // What was committed was never lost, and brought again.
      expect(good.requests.length).toBe(asked);
    } finally {
      await Promise.all([paused.remove(), other.remove(), bad.stop(), good.stop()]);
    }
  });
});

describe('a process that is suspended with the write lock of the index', () => {
  it('makes pushes to others fail with a hint when to retry, and only while it is suspended', async () => {
    const server = await start();
    const blob = randomBlob(1_000, 'locked out');
    const push = () =>
      get(`${server.url}/v2/${REPOSITORY}/blobs/uploads/?digest=${blob.digest}`, {
        method: 'POST',
        body: bytesOf(blob),
      });
    const other = new Database(join(folder, 'store', 'index.db'));
    try {
      other.exec('BEGIN IMMEDIATE');
      const refused = push();
      let ready = await get(`${server.ops}/readyz`);
      await until('it to be not ready', HANG_MS, async () => {
        ready = await get(`${server.ops}/readyz`);
        return ready.status !== 200;
      });
      expect([ready.status, ready.text]).toEqual([503, expect.stringContaining('has held the write lock')]);
      const { status, headers } = await refused;
      expect({ status, ...headers }).toMatchObject({ status: 503, 'retry-after': '5' });
      other.exec('ROLLBACK');
      await until('a push', HANG_MS, async () => (await push()).status === 201);
      expect((await get(`${server.ops}/readyz`)).status).toBe(200);
    } finally {
      other.close();
      await server.remove();
    }
  });
});

/** What removes a blob's file from its place, whichever way. */
const removals = (action: 'stop' | 'kill'): readonly Fault[] => [
  { id: 'removal', call: 'unlink', path: '/blobs/sha256/', nth: 1, action },
  { id: 'removal', call: 'rename', path: '/ingest/gone-', nth: 1, action },
];

describe.skipIf(!canPreload)('a garbage collection (gcc)', () => {
  let server: Entrepot;
  let shim: SyscallShim;
  const blobs = Array.from({ length: 10 }, (_, at) => randomBlob(10_000 + at, `removed ${at}`));
  const gc = ['gc', '--grace-period', '0s'];

  /** Whether the push was acknowledged. */
  async function push(blob: Content): Promise<boolean> {
    const url = `${server.url}/v2/${REPOSITORY}/blobs/uploads/?digest=${blob.digest}`;
    return (await get(url, { method: 'POST', body: bytesOf(blob) })).status === 201;
  }

  /** Runs the command beneath the faults. */
  const begin = (...command: string[]): Promise<Daemon> =>
    Daemon.start({
      program: process.execPath,
      args: [...STARTER, ...command, '--config', server.configFile],
      env: shim.env,
      isReady: async () => true,
    });

  beforeEach(async () => {
    server = await start();
    shim = await SyscallShim.open(join(folder, 'shim'));
    for (const blob of blobs) await push(blob);
  });

  afterEach(() => server.remove());

  it('that is suspended between a row and its file removes nothing that was pushed again meanwhile', async () => {
    for (const { digest } of blobs) {
      const url = `${server.url}/v2/${REPOSITORY}/blobs/${digest}`;
      expect((await get(url, { method: 'DELETE' })).status).toBe(202);
    }
    await shim.set(...removals('stop'));
    const collecting = await begin(...gc);
    await shim.untilMet('removal');
    const wake = sleep(7_000).then(() => process.kill(collecting.pid, 'SIGCONT'));
    for (const blob of blobs) await until('an acknowledged push', HANG_MS, () => push(blob));
    await wake;
    await until('the collection to end', HANG_MS, async () => !collecting.isRunning);
    for (const blob of blobs) await expectWhole(server, blob);
    expect(await filesOf(join(folder, 'store', 'blobs'))).toBe(blobs.length);
  });

  it.each([
    ['collection', gc, removals('kill')],
    ['scrub', ['scrub'], [{ id: 'end', call: 'open', path: '/blobs/sha256/', nth: 3, action: 'kill' }]],
  ] as const)(
    'or a %s that was killed does not keep the next one from its work',
    async (_, command, faults) => {
      await server.stop();
      await shim.set(...faults);
      const killed = await begin(...command);
      await until('it to be killed', HANG_MS, async () => !killed.isRunning);
      expect(await shim.met()).toHaveLength(1);
      const { code, stderr } = await server.spawnCommand(...command);
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    },
  );

  it('that is suspended is waited for by the next one, which says so, until it counts as dead', async () => {
    await server.stop();
    await shim.set({ id: 'stopped', call: 'open', path: '/blobs/sha256', nth: 1, action: 'stop' });
    const paused = await begin('scrub');
    await shim.untilMet('stopped');
    const { code, stderr } = await server.spawnCommand('scrub');
    expect({ code, stderr }).toMatchObject({ code: 0 });
    expect(stderr).toMatch(/process \d+ on \S+ is scrubbing: waiting for it to finish/);
    await paused.kill();
  });
});

async function filesOf(path: string): Promise<number> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true });
  return entries.filter(entry => entry.isFile()).length;
}
