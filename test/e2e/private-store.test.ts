// Who on this machine may read a store, before and after it is opened.
import { once } from 'node:events';
import { createServer } from 'node:http';
import { chmod, chown, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { Entrepot } from '../support/entrepot.ts';
import { hasPrograms } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const canChangeUser = process.getuid?.() === 0 && hasPrograms('setpriv');

let folder: string;
let store: string;
let pot: Entrepot | undefined;

beforeEach(async () => {
  folder = await makeTempFolder('private');
  store = join(folder, 'store');
});

afterEach(async () => {
  await pot?.stop();
  pot = undefined;
  await removeFolder(folder);
});

/** What of the store others could reach, by way of nothing that is closed to them. */
async function reachable(path = store): Promise<string[]> {
  const { mode } = await stat(path);
  const isFolder = (mode & 0o170000) === 0o040000;
  if ((mode & 0o077) === 0) return [];
  if (!isFolder) return [path];
  const names = await readdir(path);
  return [path, ...(await Promise.all(names.map(name => reachable(join(path, name))))).flat()];
}

const openFiles = ['index.db', 'index.db-wal', 'index.db-shm'];

it('a new store is accessible to its owner only, with all files of SQLite', async () => {
  pot = await Entrepot.start({}, { folder });
  expect(await reachable()).toEqual([]);
  for (const name of openFiles) expect((await stat(join(store, name))).mode & 0o777).toBe(0o600);
});

it('a store that others could read is closed at the next start, which is logged once', async () => {
  pot = await Entrepot.start({}, { folder });
  await pot.kill();
  for (const name of ['', 'blobs', 'ingest']) await chmod(join(store, name), 0o755);
  for (const name of openFiles) await chmod(join(store, name), 0o644);
  pot = await pot.startAgain();
  expect(await reachable()).toEqual([]);
  for (const name of openFiles) expect((await stat(join(store, name))).mode & 0o777).toBe(0o600);
  await pot.stop();
  expect(pot.logs()).toContain('its permissions were restricted');
  await chmod(join(store, 'index.db'), 0o644);
  const { stderr } = await pot.command('images');
  expect(stderr).toBe(
    `entrepot: warning: other users could read the store: its permissions were restricted (paths: ${join(store, 'index.db')})\n`,
  );
  pot = await pot.startAgain();
  await pot.stop();
  expect(pot.logs()).not.toContain('its permissions were restricted');
});

it.skipIf(!canChangeUser)(
  'on a volume that belongs to root and a group, as in Kubernetes, everything but the list of names is closed',
  async () => {
    await mkdir(store);
    await chown(store, 0, 1000);
    await chmod(store, 0o2775);
    await chmod(folder, 0o755);
    const within = ['setpriv', '--reuid', '1000', '--regid', '1000', '--clear-groups'];
    pot = await Entrepot.start({}, { folder, within });
    expect(await reachable()).toEqual([store]);
    await pot.stop();
    expect(pot.logs()).toContain('its contents are private');
  },
);

it('a command asks the server on a socket in the store, even without an operations port and at a long path', async () => {
  const path = join(folder, 'long'.repeat(40), 'store');
  pot = await Entrepot.start({ storage: { path }, tenants: [{ name: 'team-a' }] }, { folder });
  const config = parse(await readFile(pot.configFile, 'utf8'));
  const server = { ...config.server, opsListen: false };
  await writeFile(pot.configFile, stringify({ ...config, server }));
  expect(await pot.command('tenants')).toMatchObject({ code: 0, stdout: expect.stringContaining('team-a') });
  await pot.stop();
  // Whoever takes the operations port of a server that is down is not taken for it.
  await writeFile(pot.configFile, stringify(config));
  const { port } = new URL(pot.ops);
  const other = createServer((_req, res) => res.end('{"tenants":[{"name":"invented"}]}')).listen(
    Number(port),
    '127.0.0.1',
  );
  await once(other, 'listening');
  for (const args of [['tenants'], ['explain', 'docker.io/library/nginx', '--tenant', 'team-a']]) {
    const { stdout, stderr } = await pot.command(...args);
    expect(stdout).not.toContain('invented');
    expect(stderr).toContain('no server answers for this store');
  }
  other.close();
});
