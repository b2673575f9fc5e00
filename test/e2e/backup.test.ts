// Backup, restore and rebuild of the built program: what an operator has when a store is damaged.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import {
  chmod,
  mkdir,
  open,
  readdir,
  readFile,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { Backup } from '../../src/archive/backup.ts';
import { openFileStores } from '../../src/blobs/file-stores.ts';
import { silentLog } from '../../src/lib/log.ts';
import { whileLocked } from '../../src/metadata/life.ts';
import { IndexSnapshot } from '../../src/metadata/sqlite-snapshot.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { codeOf, get } from '../support/client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { tryRun, until } from '../support/programs.ts';

const UPSTREAM = 'up.example';

let upstream: FakeUpstream;
let entrepot: Entrepot;
let hosted: Image;
let mirrored: Content;
let file: string;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  entrepot = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    hosted: { prefixes: ['team'], anonymous: 'push' },
  });
  hosted = imageOf([randomBlob(300_000, 'hosted layer'), randomBlob(20, 'small layer')]);
  mirrored = randomBlob(200_000, 'mirrored layer');
  upstream.add('app', imageOf([mirrored]), '1');
  await pushHosted();
  await pullMirrored(entrepot);
  file = join(entrepot.folder, 'backup.tar');
  await backUp();
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function pushHosted(): Promise<void> {
  for (const blob of [hosted.config, ...hosted.layers]) {
    const url = `${entrepot.url}/v2/team/app/blobs/uploads/?digest=${blob.digest}`;
    expect((await get(url, { method: 'POST', body: bytesOf(blob) })).status).toBe(201);
  }
  const put = await get(`${entrepot.url}/v2/team/app/manifests/v1`, {
    method: 'PUT',
    headers: { 'content-type': hosted.manifest.mediaType },
    body: bytesOf(hosted.manifest),
  });
  expect(put.status).toBe(201);
}

/** Beside the running server. */
async function backUp(): Promise<void> {
  expect(await entrepot.command('backup', file)).toMatchObject({ code: 0 });
}

async function pullMirrored(from: Entrepot): Promise<void> {
  for (const path of ['manifests/1', `blobs/${mirrored.digest}`]) {
    // A download is stored a moment after its reader has all of it.
    await until(`${path} to be stored`, 60_000, async () => {
      const got = await get(`${from.url}/v2/app/${path}?ns=${UPSTREAM}`);
      expect([got.status, got.complete]).toEqual([200, true]);
      return got.headers['cache-status'] === 'entrepot; hit';
    });
  }
}

async function statusOf(from: Entrepot, content: Content): Promise<number> {
  const got = await get(`${from.url}/v2/team/app/blobs/${content.digest}`);
  expect(got.status !== 200 || `sha256:${got.sha256}` === content.digest).toBe(true);
  return got.status;
}

const restoreInto = (folder: string, from: string) =>
  tryRun(process.execPath, [...STARTER, 'restore', from], { env: { ENTREPOT_STORAGE__PATH: folder } });

const blobFile = (store: string, { digest }: Content): string =>
  join(store, 'blobs', 'sha256', digest.slice(7, 9), digest.slice(7));

/** Another byte in the middle of the blob. */
async function damage(path: string): Promise<void> {
  await chmod(path, 0o644);
  const handle = await open(path, 'r+');
  await handle.write(Buffer.from('?'), 0, 1, Math.floor((await stat(path)).size / 2));
  await handle.close();
}

/** A server with the same configuration on a store of its own. */
async function restored(from: string): Promise<Entrepot> {
  const other = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    hosted: { prefixes: ['team'], anonymous: 'push' },
  });
  await other.stop();
  const store = join(other.folder, 'store');
  await rm(store, { recursive: true });
  expect(await restoreInto(store, from)).toMatchObject({ code: 0 });
  return other.startAgain();
}

describe('a backup that was made beside a running server', () => {
  it('restores everything, and nothing has to be fetched again', async () => {
    const other = await restored(file);
    try {
      for (const blob of [hosted.config, ...hosted.layers]) expect(await statusOf(other, blob)).toBe(200);
      const got = await get(`${other.url}/v2/team/app/manifests/v1`);
      expect([got.status, `sha256:${got.sha256}`]).toEqual([200, hosted.manifest.digest]);
      const before = upstream.requests.length;
      await pullMirrored(other);
      expect(upstream.requests).toHaveLength(before);
      expect(await other.command('gc')).toMatchObject({ code: 0 });
      expect(await other.command('scrub')).toMatchObject({ code: 0 });
      expect(await statusOf(other, hosted.config)).toBe(200);
    } finally {
      await other.remove();
    }
  });

  it('leaves nothing else behind, in the store and where it was written', async () => {
    expect((await readdir(join(entrepot.folder, 'store'))).filter(name => name.includes('snapshot'))).toEqual(
      [],
    );
    expect((await readdir(entrepot.folder)).filter(name => name.includes('partial'))).toEqual([]);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
  });

  it('is refused if it is truncated or damaged anywhere, and then nothing is restored', async () => {
    const whole = await readFile(file);
    const torn = join(entrepot.folder, 'torn.tar');
    const store = join(entrepot.folder, 'elsewhere');
    const manifest = whole.lastIndexOf('complete.json');
    const layer = whole.indexOf(bytesOf(hosted.layers[0] ?? mirrored).subarray(0, 64));
    const changes: (() => Promise<void>)[] = [
      ...[0, 700, whole.length / 2, manifest, manifest + 512 + 40].map(
        size => () => truncate(torn, Math.floor(size)),
      ),
      ...[layer + 1_000, whole.indexOf('SQLite format 3') + 5_000].map(at => async () => {
        const handle = await open(torn, 'r+');
        await handle.write(Buffer.from('????'), 0, 4, at);
        await handle.close();
      }),
    ];
    for (const change of changes) {
      await writeFile(torn, whole);
      await change();
      const { code, stderr } = await restoreInto(store, torn);
      expect([code, stderr]).toEqual([
        1,
        expect.stringMatching(/truncated|damaged|not a backup|broken|end of data/i),
      ]);
      expect(existsSync(store)).toBe(false);
    }
    await mkdir(store);
    expect(await restoreInto(store, join(entrepot.folder, 'config.yaml'))).toMatchObject({ code: 1 });
    expect(await readdir(store)).toEqual([]);
  });

  it('does not overwrite anything', async () => {
    const { code, stderr } = await restoreInto(join(entrepot.folder, 'store'), file);
    expect([code, stderr]).toEqual([1, expect.stringContaining('is not empty')]);
    expect(await statusOf(entrepot, hosted.config)).toBe(200);
  });

  it('replaces what a killed restore left', async () => {
    const store = join(entrepot.folder, 'killed');
    expect(await restoreInto(store, file)).toMatchObject({ code: 0 });
    for (const name of ['index.db', 'index.db-wal', 'index.db-shm'])
      await rm(join(store, name), { force: true });
    await writeFile(join(store, 'index.db.restoring'), 'half');
    await rm(join(store, 'store.json'), { force: true });
    expect(await restoreInto(store, file)).toMatchObject({ code: 0 });
    expect(existsSync(join(store, 'index.db'))).toBe(true);
  });

  it('from a named pipe without a writer can be stopped', async () => {
    const store = join(entrepot.folder, 'piped');
    const pipe = join(entrepot.folder, 'pipe');
    execFileSync('mkfifo', [pipe]);
    const restoring = spawn(process.execPath, [...STARTER, 'restore', pipe], {
      env: { ...process.env, ENTREPOT_STORAGE__PATH: store },
      stdio: 'ignore',
    });
    const exited = once(restoring, 'exit');
    await until('it to have begun', 60_000, async () => existsSync(join(store, 'index.db.restoring')));
    restoring.kill('SIGTERM');
    expect(await exited).toEqual([143, null]);
    expect(existsSync(store)).toBe(false);
  });

  describe('that is being restored', () => {
    let store: string;
    let backup: Buffer;
    let restoring: ChildProcess;

    beforeEach(async () => {
      store = join(entrepot.folder, 'restoring');
      backup = await readFile(file);
      restoring = spawn(process.execPath, [...STARTER, 'restore', '-'], {
        env: { ...process.env, ENTREPOT_STORAGE__PATH: store },
        stdio: ['pipe', 'ignore', 'ignore'],
      });
      restoring.stdin?.on('error', () => {});
      restoring.stdin?.write(backup.subarray(0, backup.length / 2));
      await until('it to have begun', 60_000, async () => existsSync(join(store, 'index.db.restoring')));
    });

    afterEach(() => rm(store, { recursive: true, force: true }));

    const ended = async (rest: Buffer) => {
      const exited = once(restoring, 'exit');
      restoring.stdin?.end(rest);
      return (await exited)[0] as number;
    };

    it('gets no second restore, even if the first one is suspended', async () => {
      process.kill(restoring.pid ?? 0, 'SIGSTOP');
      const again = await restoreInto(store, file);
      expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining('another entrepot restore') });
      for (const command of [
        ['rebuild'],
        ['images'],
        ['gc'],
        ['backup', join(entrepot.folder, 'other.tar')],
      ]) {
        const used = await tryRun(process.execPath, [...STARTER, ...command], {
          env: { ENTREPOT_STORAGE__PATH: store },
        });
        expect(used).toMatchObject({ code: 1, stderr: expect.stringContaining('is being restored') });
      }
      process.kill(restoring.pid ?? 0, 'SIGCONT');
      expect(await ended(backup.subarray(backup.length / 2))).toBe(0);
      expect((await readdir(store)).filter(name => name.startsWith('.'))).toEqual([]);
      expect(await restoreInto(store, file)).toMatchObject({
        stderr: expect.stringContaining('is not empty'),
      });
    });

    it.each([
      ['as a whole', () => backup.subarray(backup.length / 2)],
      ['and turns out to be truncated', () => Buffer.alloc(0)],
    ])('%s leaves a store alone that was made there meanwhile', async (_, rest) => {
      await writeFile(join(store, 'index.db'), 'of a server');
      expect(await ended(rest())).toBe(1);
      expect(await readFile(join(store, 'index.db'), 'utf8')).toBe('of a server');
      expect(existsSync(join(store, 'blobs'))).toBe(true);
    });
  });

  it('does not fail for content that is removed meanwhile; a restore reports what of that is hosted', async () => {
    const source = await restored(file);
    const store = join(source.folder, 'store');
    const blobs = await openFileStores(store, { log: silentLog });
    const snapshot = await IndexSnapshot.take(join(store, 'index.db'), join(source.folder, 'copy.db'));
    for (const name of ['team/app:v1', `${UPSTREAM}/app:1`]) {
      expect(await source.command('rm', '--purge', name)).toMatchObject({ code: 0 });
    }
    const made = new Backup(snapshot, blobs.blobs);
    const partly = join(source.folder, 'partly.tar');
    await writeFile(partly, made.tar());
    expect([made.lacking, made.removed, made.blobs]).toEqual([[], 4, 0]);
    snapshot.close();
    await blobs.close();
    const { code, stderr } = await restoreInto(join(source.folder, 'other'), partly);
    expect(code).toBe(0);
    for (const { digest } of [hosted.config, ...hosted.layers]) {
      expect(stderr).toContain(`not in the backup: blob ${digest}: it was removed while the backup was made`);
    }
    expect(stderr).not.toContain(mirrored.digest);
    const other = await restored(partly);
    expect(await statusOf(other, hosted.config)).toBe(404);
    await pullMirrored(other);
    await Promise.all([other.remove(), source.remove()]);
  });

  it('replaces no file of the store, and neither does a bundle or a list', async () => {
    const store = join(entrepot.folder, 'store');
    const link = join(entrepot.folder, 'link');
    await symlink(store, link);
    const index = await stat(join(store, 'index.db'));
    for (const output of [join(store, 'index.db'), join(link, 'blobs', 'new.tar')]) {
      for (const args of [['backup'], ['export', 'team/app:v1', '-o'], ['have', '-o']]) {
        const { code, stderr } = await entrepot.command(...args, output);
        expect([code, stderr]).toEqual([2, expect.stringContaining(`${output} is part of the store`)]);
      }
    }
    expect((await stat(join(store, 'index.db'))).ino).toBe(index.ino);
    const beside = ['backup.tar', 'index.db.bak'].map(name => join(store, name));
    for (const path of beside) expect(await entrepot.command('backup', path)).toMatchObject({ code: 0 });
    for (const path of [link, ...beside]) await rm(path);
  });

  it('of a store without an index is refused with a message', async () => {
    const { code, stderr } = await tryRun(
      process.execPath,
      [...STARTER, 'backup', join(entrepot.folder, 'x')],
      {
        env: { ENTREPOT_STORAGE__PATH: join(entrepot.folder, 'none') },
      },
    );
    expect([code, stderr]).toEqual([1, expect.stringContaining('there is no store')]);
  });
});

describe('a store with a damaged blob', () => {
  it('is backed up without that blob, which is reported, and is absent after the restore', async () => {
    const source = await restored(file);
    const [layer = mirrored] = hosted.layers;
    await damage(blobFile(join(source.folder, 'store'), layer));
    const partly = join(source.folder, 'partly.tar');
    const { code, stderr } = await source.command('backup', partly);
    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining(`blob ${layer.digest}: its content does not match the digest`),
    ]);
    const other = await restored(partly);
    expect(await statusOf(other, layer)).toBe(404);
    expect(await statusOf(other, hosted.config)).toBe(200);
    // The damage is known there from now on, and a backup of it still has no such blob.
    const again = await other.command('backup', '--json', join(other.folder, 'again.tar'));
    expect([again.code, again.stderr]).toEqual([
      1,
      expect.stringContaining(`not in the backup: blob ${layer.digest}`),
    ]);
    await other.remove();
    await source.remove();
  });

  it('is backed up with the same report after a scrub has found the damage', async () => {
    const source = await restored(file);
    const [layer = mirrored] = hosted.layers;
    for (const blob of [layer, mirrored]) await damage(blobFile(join(source.folder, 'store'), blob));
    expect(await source.command('scrub', '--rate', '100MiB')).toMatchObject({ code: 1 });
    expect(await source.command('scrub', '--rate', '100MiB')).toMatchObject({
      code: 1,
      stdout: expect.stringMatching(/: 0 damaged; 1 found earlier and not replaced yet/),
    });
    const partly = join(source.folder, 'partly.tar');
    const { code, stdout, stderr } = await source.command('backup', '--json', partly);
    expect([code, stderr]).toEqual([1, expect.stringContaining('; 1 damaged or missing')]);
    // What is mirrored is fetched again when it is requested: the store has not lost it.
    expect(JSON.parse(stdout)).toMatchObject({
      lacking: [{ digest: layer.digest, reason: expect.stringContaining('its content has the digest') }],
    });
    expect(await restoreInto(join(source.folder, 'other'), partly)).toMatchObject({
      code: 0,
      stderr: expect.stringContaining(`not in the backup: blob ${layer.digest}`),
    });
    await source.remove();
  });
});

describe('a store that has lost its index', () => {
  it('continues to serve and collects no garbage, and a rebuild finds every undamaged blob', async () => {
    let lost = await restored(file);
    const store = join(lost.folder, 'store');
    await lost.stop();
    for (const name of await readdir(store)) {
      if (name.startsWith('index.db')) await rm(join(store, name));
    }
    await damage(blobFile(store, hosted.config));
    lost = await lost.startAgain();
    const refused = await lost.command('gc', '--grace-period', '0s');
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining('entrepot rebuild')]);
    await until('the log to say so', 60_000, async () => lost.logs().includes('the index is new'));
    const rebuilt = await lost.command('rebuild');
    expect(rebuilt).toMatchObject({ code: 1 });
    expect(rebuilt.stdout).toContain(`damaged: blob ${hosted.config.digest}`);
    expect(rebuilt.stdout).toContain('3 blobs added');
    const bodies = () =>
      upstream.requests.filter(({ method, path }) => method === 'GET' && path.includes(mirrored.digest));
    const before = bodies().length;
    await pullMirrored(lost);
    // A proof of the right may ask for a few ranges; the body is not fetched again.
    expect(
      bodies()
        .slice(before)
        .every(({ headers }) => headers.range !== undefined),
    ).toBe(true);
    expect(await lost.command('gc', '--grace-period', '0s')).toMatchObject({ code: 1 });
    expect(await lost.command('gc', '--force', '--grace-period', '0s')).toMatchObject({ code: 0 });
    await pullMirrored(lost);
    expect(codeOf(await get(`${lost.url}/v2/team/app/manifests/v1`))).toBe('MANIFEST_UNKNOWN');
    await lost.remove();
  });

  it('because it is damaged has it moved aside by a rebuild', async () => {
    const broken = await restored(file);
    const store = join(broken.folder, 'store');
    await broken.stop();
    await rm(join(store, 'index.db'));
    await writeFile(join(store, 'index.db'), Buffer.alloc(8_192, 'no index'));
    const { code, stderr, stdout } = await broken.command('rebuild');
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining('index.db.damaged-') });
    expect(stdout).toContain('4 blobs added');
    expect((await readdir(store)).some(name => name.startsWith('index.db.damaged-'))).toBe(true);
    expect(digestOf(await readFile(blobFile(store, mirrored)))).toBe(mirrored.digest);
    await broken.remove();
  });

  it('because it is damaged leaves it alone while another rebuild is about to move it aside, even if that is suspended', async () => {
    const store = join(entrepot.folder, 'broken');
    await mkdir(store);
    await writeFile(join(store, 'index.db'), Buffer.alloc(8_192, 'no index'));
    const rebuild = () =>
      tryRun(process.execPath, [...STARTER, 'rebuild'], { env: { ENTREPOT_STORAGE__PATH: store } });
    const refused = await whileLocked(join(store, '.rebuilding'), () => new Error('locked'), rebuild);
    expect(refused).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('another entrepot rebuild'),
    });
    expect((await readFile(join(store, 'index.db'))).includes('no index')).toBe(true);
    expect(await rebuild()).toMatchObject({ code: 0 });
    await rm(store, { recursive: true });
  });
});
