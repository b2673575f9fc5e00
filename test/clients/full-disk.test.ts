// A file system that is really full, and has room again later. Making one needs root.
import { mkdir, rm, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { OverviewDocument } from '../../src/admin/documents/overview.ts';
import type { SessionDocument } from '../../src/admin/documents/session.ts';
import type { TaskDocument } from '../../src/admin/documents/tasks.ts';
import { errorCode } from '../../src/lib/error-code.ts';
import { codeOf, get } from '../support/client.ts';
import { bytesOf, type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { hasPrograms, run, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;
const DISK = '32M';
const LARGER_DISK = '160M';

const isRoot = process.getuid?.() === 0;

describe.skipIf(!isRoot || !hasPrograms('mount', 'umount'))('a full disk', () => {
  const small = randomBlob(MIB, 'small');
  const big = randomBlob(40 * MIB, 'big');
  const mirrored = randomBlob(40 * MIB, 'mirrored');
  let folder: string;
  let store: string;
  let upstream: FakeUpstream;
  let entrepot: Entrepot;

  beforeAll(async () => {
    folder = await makeTempFolder('full');
    store = join(folder, 'store');
    await mkdir(store);
    await run('mount', ['-t', 'tmpfs', '-o', `size=${DISK}`, 'tmpfs', store]);
    upstream = await FakeUpstream.start();
    upstream.add('app', imageOf([mirrored]), 'v1');
    entrepot = await Entrepot.start(
      {
        hosted: { prefixes: ['team'], anonymous: 'push' },
        upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
      },
      { folder },
    );
  });

  afterAll(async () => {
    await entrepot?.stop();
    await upstream?.stop();
    await run('umount', [store]);
    await removeFolder(folder);
  });

  async function admin<Document>(path: string): Promise<Document> {
    const { status, text } = await get(`${entrepot.ops}/admin/v1/${path}`);
    expect(status).toBe(200);
    return JSON.parse(text);
  }

  function push(blob: Content) {
    const url = `${entrepot.url}/v2/team/app/blobs/uploads/?digest=${blob.digest}`;
    return get(url, { method: 'POST', body: bytesOf(blob) });
  }

  function read(blob: Content) {
    return get(`${entrepot.url}/v2/team/app/blobs/${blob.digest}`);
  }

  function pull() {
    return get(`${entrepot.url}/v2/app/blobs/${mirrored.digest}?ns=${UPSTREAM}`);
  }

  test('refuses a push with 507, and keeps nothing of it', async () => {
    expect((await push(small)).status).toBe(201);
    const refused = await push(big);
    expect([refused.status, codeOf(refused)]).toEqual([507, 'INSUFFICIENT_STORAGE']);
    expect((await read(big)).status).toBe(404);
    expect(`sha256:${(await read(small)).sha256}`).toBe(small.digest);
  });

  test('streams a mirrored blob, again and again, without storing it', async () => {
    for (let round = 0; round < 2; round += 1) {
      const got = await pull();
      expect([got.status, got.complete, `sha256:${got.sha256}`]).toEqual([200, true, mirrored.digest]);
    }
    expect(`sha256:${(await read(small)).sha256}`).toBe(small.digest);
  });

  test('tells operators that it is full, and that collecting garbage was of no use', async () => {
    const filler = join(store, 'filler');
    const { bavail, bsize } = await statfs(store);
    // The server may have used some of that meanwhile.
    await writeFile(filler, Buffer.alloc(bavail * bsize)).catch((error: unknown) => {
      if (errorCode(error) !== 'ENOSPC') throw error;
    });
    try {
      const { token } = await admin<SessionDocument>('session');
      const headers = { 'X-Entrepot-Token': token, 'Content-Type': 'application/json' };
      const begun = await get(`${entrepot.ops}/admin/v1/actions/gc`, { method: 'POST', headers, body: '{}' });
      const { id }: TaskDocument = JSON.parse(begun.text);
      await expect.poll(async () => (await admin<TaskDocument>(`tasks/${id}`)).state).toBe('done');
      expect((await admin<TaskDocument>(`tasks/${id}`)).message).toMatch(
        /; less of the disk is free than storage\.minFree, and nothing else can be evicted$/,
      );
      const problems = async () =>
        (await admin<OverviewDocument>('overview')).problems.map(({ text }) => text);
      await expect.poll(problems).toEqual([expect.stringMatching(/^the disk of storage\.path has /)]);
      expect((await entrepot.command('status')).stdout).toMatch(/^problem +the disk of storage\.path has /m);
    } finally {
      await rm(filler);
    }
  });

  test('fails a pull at once, since it cannot keep what it would fetch', async () => {
    const startedMs = performance.now();
    const { code, stderr } = await entrepot.spawnCommand('pull', `${UPSTREAM}/app:v1`);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/sha256:[0-9a-f]{64} could not be stored: /)]);
    expect(performance.now() - startedMs).toBeLessThan(20_000);
  });

  test('has lost nothing, and garbage can be collected', async () => {
    const { code, stdout } = await entrepot.spawnCommand('scrub', '--rate', '1GiB');
    expect([code, stdout]).toEqual([0, expect.stringContaining('0 damaged')]);
    expect((await entrepot.spawnCommand('gc')).code).toBe(0);
    const again = randomBlob(MIB, 'again');
    expect([201, 507]).toContain((await push(again)).status);
  });

  test('works again by itself when there is space', async () => {
    await run('mount', ['-o', `remount,size=${LARGER_DISK}`, store]);
    expect((await push(big)).status).toBe(201);
    expect(`sha256:${(await read(big)).sha256}`).toBe(big.digest);
    expect(`sha256:${(await pull()).sha256}`).toBe(mirrored.digest);
    // It is stored a moment after its reader has all of it.
    await until('it to be stored', 60_000, async () => {
      const got = await pull();
      expect(`sha256:${got.sha256}`).toBe(mirrored.digest);
      return got.headers['cache-status'] === 'entrepot; hit';
    });
    expect((await entrepot.spawnCommand('scrub', '--rate', '1GiB')).code).toBe(0);
  });

  test('starts from a disk that is full to the last byte', async () => {
    await run('mount', ['-o', `remount,size=${LARGER_DISK}`, store]);
    await run('sh', ['-c', `dd if=/dev/zero of=${store}/filler bs=64k 2>/dev/null || true`]);
    await entrepot.kill();
    await run('rm', [join(store, 'filler')]);
    entrepot = await entrepot.startAgain();
    expect(`sha256:${(await read(big)).sha256}`).toBe(big.digest);
    expect((await push(randomBlob(MIB, 'last'))).status).toBe(201);
  });
});
