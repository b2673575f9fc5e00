// A week of operations by the documentation's own lines: a server of an ordinary user on a small disk of its own.
import { chown, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { codeOf, get } from '../support/client.ts';
import { bytesOf, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { tryRun, until } from '../support/programs.ts';
import { AS_NOBODY, canMount, NOBODY, SmallDisk } from '../support/small-disk.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;
const SOON_MS = 30_000;

/** What a newer Node says of a driver that was built for the one before. */
const WITHOUT_DRIVER = `
  const load = process.dlopen;
  process.dlopen = (module, file, ...more) => {
    if (!file.includes('sqlite')) return load.call(process, module, file, ...more);
    const message = 'compiled against a different Node.js version using NODE_MODULE_VERSION 115. This version of ' +
      'Node.js requires NODE_MODULE_VERSION 127.';
    throw Object.assign(new Error(message), { code: 'ERR_DLOPEN_FAILED' });
  };
`;

describe.skipIf(!canMount)('a week of operations', () => {
  const mirrored = imageOf([randomBlob(MIB, 'mirrored')]);
  const later = imageOf([randomBlob(MIB, 'asked for later')]);
  const pushed = imageOf([randomBlob(MIB, 'pushed')]);
  const account = { password: 'of monday', repositories: ['app', 'later'] };
  let disk: SmallDisk;
  let upstream: FakeUpstream;
  let entrepot: Entrepot;
  /** On another disk, as backups are. */
  let outside: string;
  let passwordFile: string;
  let backup: string;

  beforeAll(async () => {
    disk = await SmallDisk.mount('ext4', 64);
    outside = await makeTempFolder('outside');
    await chown(outside, NOBODY, NOBODY);
    passwordFile = join(outside, 'password');
    backup = join(outside, 'entrepot.tar');
    await writeFile(passwordFile, account.password);
    upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users: { mirror: account } } });
    upstream.add('app', mirrored, 'v1');
    upstream.add('later', later, 'v1');
    const credentials = { username: 'mirror', passwordFile };
    entrepot = await Entrepot.start(
      {
        // Backups are of a folder with its index.
        index: {},
        storage: { path: join(disk.path, 'store'), s3: undefined },
        hosted: { prefixes: ['tools'], anonymous: 'push' },
        upstreams: {
          [UPSTREAM]: { url: upstream.url, credentials, openToAll: true, pullPolicy: 'Always' },
        },
      },
      { folder: disk.folder, within: AS_NOBODY, commandsWithin: AS_NOBODY },
    );
  });

  afterAll(async () => {
    await entrepot?.stop();
    await upstream?.stop();
    await disk?.unmount();
    await removeFolder(outside);
  });

  async function succeed(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await entrepot.spawnCommand(...args);
    expect({ args, code, stderr }).toMatchObject({ code: 0 });
    return stdout;
  }

  /** The status of what was answered last. */
  async function push(tag: string, { config, layers, manifest }: Image): Promise<number> {
    for (const blob of [config, ...layers]) {
      const url = `${entrepot.url}/v2/tools/app/blobs/uploads/?digest=${blob.digest}`;
      const { status } = await get(url, { method: 'POST', body: bytesOf(blob) });
      if (status !== 201) return status;
    }
    const headers = { 'content-type': manifest.mediaType };
    const url = `${entrepot.url}/v2/tools/app/manifests/${tag}`;
    return (await get(url, { method: 'PUT', headers, body: bytesOf(manifest) })).status;
  }

  /** The status of the manifest and of each blob; what comes of one is looked at to its last byte. */
  async function pull(path: string, { config, layers }: Image, query = ''): Promise<number[]> {
    const statuses = [(await get(`${entrepot.url}/v2/${path}/manifests/v1${query}`)).status];
    for (const { digest } of [config, ...layers]) {
      const got = await get(`${entrepot.url}/v2/${path}/blobs/${digest}${query}`);
      expect(got.status !== 200 || (got.complete && `sha256:${got.sha256}` === digest)).toBe(true);
      statuses.push(got.status);
    }
    return statuses;
  }

  const pullMirrored = () => pull('app', mirrored, `?ns=${UPSTREAM}`);
  const pullPushed = () => pull('tools/app', pushed);
  const readiness = async () => (await get(`${entrepot.ops}/readyz`)).text;

  test('on Monday a backup is made while it serves', async () => {
    expect(await push('v1', pushed)).toBe(201);
    expect(await pullMirrored()).toEqual([200, 200, 200]);
    await succeed('backup', backup);
    expect(await readdir(outside)).toEqual(['entrepot.tar', 'password']);
  });

  test('on Tuesday other programs fill the disk: stored content is served, and the store can still be used', async () => {
    await disk.fill();
    expect([await pullMirrored(), await pullPushed()]).toEqual([
      [200, 200, 200],
      [200, 200, 200],
    ]);
    await until('readyz to say so', SOON_MS, async () => /^ok\n.+/.test(await readiness()));
    expect(await push('v2', imageOf([randomBlob(MIB, 'too much')]))).toBe(507);
    await entrepot.kill();
    entrepot = await entrepot.startAgain();
    expect(await pullPushed()).toEqual([200, 200, 200]);
    expect(await succeed('images')).toContain('tools/app');
    await succeed('gc');
    await disk.empty();
    await until('readyz to be content', SOON_MS, async () => (await readiness()) === 'ok\n');
    expect(await push('v2', imageOf([randomBlob(MIB, 'fits now')]))).toBe(201);
  });

  test('on Wednesday the index is lost: no garbage is collected, and the backup restores everything', async () => {
    const store = join(disk.path, 'store');
    await entrepot.stop();
    for (const name of await readdir(store)) {
      if (name.startsWith('index.db')) await rm(join(store, name));
    }
    entrepot = await entrepot.startAgain();
    const collection = await entrepot.spawnCommand('gc');
    expect([collection.code, collection.stderr]).toEqual([1, expect.stringContaining('entrepot restore')]);
    await entrepot.stop();
    await rm(store, { recursive: true });
    await succeed('restore', backup);
    entrepot = await entrepot.startAgain();
    const before = upstream.downloads().length;
    expect([await pullMirrored(), await pullPushed()]).toEqual([
      [200, 200, 200],
      [200, 200, 200],
    ]);
    expect(upstream.downloads()).toHaveLength(before);
  });

  test("on Thursday the mirror's password changes upstream, and SIGHUP applies the new one", async () => {
    account.password = 'of thursday';
    upstream.revokeTokens();
    expect(await pullMirrored()).toEqual([200, 200, 200]);
    const missing = await get(`${entrepot.url}/v2/later/manifests/v1?ns=${UPSTREAM}`);
    expect([missing.status, codeOf(missing)]).toEqual([502, 'UPSTREAM_REFUSED']);
    expect(await readiness()).toContain(UPSTREAM);
    await writeFile(passwordFile, account.password);
    process.kill(entrepot.pid, 'SIGHUP');
    await until('the new password', SOON_MS, async () => {
      const [status] = await pull('later', later, `?ns=${UPSTREAM}`);
      return status === 200;
    });
    expect(await readiness()).toBe('ok\n');
  });

  test('on Friday Node is upgraded, at first without the SQLite driver, which is reported and does no harm', async () => {
    await entrepot.stop();
    const preload = join(outside, 'preload.cjs');
    await writeFile(preload, WITHOUT_DRIVER);
    const node = [process.execPath, '--require', preload, ...STARTER];
    const [program, ...args] = [...AS_NOBODY, ...node, 'serve', '--config', entrepot.configFile];
    const { code, stdout, stderr } = await tryRun(program, args);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toMatch(/^entrepot: .*npm .*\n$/);
    entrepot = await entrepot.startAgain();
    expect([await pullMirrored(), await pullPushed()]).toEqual([
      [200, 200, 200],
      [200, 200, 200],
    ]);
  });
});
