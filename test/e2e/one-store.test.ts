// One store, one owner, and nobody on the wrong store: servers and commands of different users and in different folders.
import { chmod, chown, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { hasPrograms, type RunResult, tryRun, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const isRoot = process.getuid?.() === 0 && hasPrograms('setpriv');

/** Users of nobody else: of this process among those that test at the same time. */
const OWNER = 200_000 + 4 * (process.pid % 10_000);
const STRANGER = OWNER + 1;

let folder: string;
/** Where nothing is. */
let elsewhere: string;
let upstream: FakeUpstream;
let servers: Entrepot[];

beforeEach(async () => {
  folder = await makeTempFolder('owner');
  elsewhere = join(folder, 'elsewhere');
  await mkdir(elsewhere);
  await chmod(folder, 0o755);
  await chmod(elsewhere, 0o777);
  upstream = await FakeUpstream.start();
  servers = [];
});

afterEach(async () => {
  for (const server of servers) await server.stop();
  await upstream.stop();
  await removeFolder(folder);
});

const as = (uid: number): readonly string[] => [
  'setpriv',
  '--reuid',
  String(uid),
  '--regid',
  String(uid),
  '--clear-groups',
];

/** A folder of the user's, for a store in `store/`. */
async function homeOf(uid: number, name = 'home'): Promise<string> {
  const home = join(folder, name);
  await mkdir(home, { recursive: true });
  await chown(home, uid, uid);
  return home;
}

async function serve(uid: number, name = 'home', config: EntrepotConfig = {}): Promise<Entrepot> {
  const home = await homeOf(uid, name);
  const upstreams = { 'up.example': { url: upstream.url } };
  const within = uid === 0 ? [] : as(uid);
  const server = await Entrepot.start({ upstreams, ...config }, { folder: home, within });
  servers.push(server);
  return server;
}

/** A command as typed by the user, with nothing said about configuration or store but what `env` says. */
function command(uid: number, args: readonly string[], env: Record<string, string> = {}): Promise<RunResult> {
  const own = [process.execPath, ...STARTER, ...args];
  const [program = '', ...rest] = uid === 0 ? own : [...as(uid), ...own];
  return tryRun(program, rest, { cwd: elsewhere, env });
}

/** Whose things in the folder are. */
async function owners(path: string): Promise<Set<number>> {
  const names = await readdir(path, { recursive: true });
  const found = await Promise.all(names.map(name => stat(join(path, name)).catch(() => undefined)));
  return new Set(found.flatMap(each => each?.uid ?? []));
}

async function sample(server: Entrepot, name: string): Promise<number | undefined> {
  const line = (await server.metrics()).split('\n').find(each => each.startsWith(`entrepot_${name} `));
  return line === undefined ? undefined : Number(line.split(' ')[1]);
}

function addImage(tag: string): void {
  upstream.add('org/app', imageOf([randomBlob(70_000, tag), randomBlob(80_000, `${tag}-2`)]), tag);
}

const ONLY_READS: readonly (readonly string[])[] = [
  ['images'],
  ['inspect', 'docker.io/library/nginx'],
  ['check', 'docker.io/library/nginx'],
  ['have'],
  ['gc'],
  ['gc', '--dry-run'],
  ['scrub'],
  ['rm', 'docker.io/library/nginx'],
  ['pin', 'docker.io/library/nginx'],
  ['unpin', 'docker.io/library/nginx'],
  ['refresh', 'docker.io/library/nginx'],
  ['export', 'docker.io/library/nginx', '--output', 'x.tar'],
  ['backup', 'x.tar'],
  ['status'],
  ['tenants'],
  ['tenant', 'revoke', 'team-a', '--all'],
  ['tenant', 'adopt', 'team-a'],
  ['tenant', 'remove', 'team-a'],
  ['explain', 'docker.io/library/nginx', '--tenant', 'team-a'],
];

describe('without a store', () => {
  it.each(ONLY_READS.map(args => ({ args, typed: args.join(' ') })))(
    '$typed says so, and creates nothing',
    async ({ args }) => {
      const { code, stdout, stderr } = await command(0, args, { ENTREPOT_STORAGE__PATH: 'none' });
      expect([code, stdout]).toEqual([1, '']);
      expect(stderr).toContain(`there is no store in ${join(elsewhere, 'none')}`);
      expect(await readdir(elsewhere)).toEqual([]);
    },
  );

  it('whose index is in a database, a command asks for the folder of a server', async () => {
    const { code, stderr } = await command(0, ['images'], {
      ENTREPOT_STORAGE__PATH: 'none',
      ENTREPOT_INDEX__POSTGRES: '{host: db.example}',
    });
    expect([code, stderr]).toEqual([1, expect.stringContaining('the folder of a server or replica')]);
    expect(await readdir(elsewhere)).toEqual([]);
  });

  it.skipIf(!isRoot)(
    'a command that may create a store says which one it uses if none was named',
    async () => {
      const path = join(elsewhere, 'storage');
      await mkdir(path, { mode: 0o700 });
      await chown(path, OWNER, OWNER);
      const added = await command(OWNER, ['tenant', 'add', 'team-a']);
      expect(added).toMatchObject({ code: 0, stdout: 'team-a: added\n' });
      expect(added.stderr).toBe(`store: ${path} (the default: no other was named)\n`);
      const named = await command(OWNER, ['images'], { ENTREPOT_STORAGE__PATH: path });
      expect(named).toMatchObject({ code: 0, stderr: '' });
      expect((await command(OWNER, ['images', '--json'])).stderr).toBe(added.stderr);
    },
  );
});

describe('a store that was not named, without its folder', () => {
  it.each([
    ['pull', 'up.example/org/app:v1'],
    ['tenant', 'add', 'team-a'],
    ['tenant', 'secret', 'team-a'],
  ])('is not begun by %s %s', async (...args) => {
    const config = join(folder, 'config.yaml');
    await writeFile(config, stringify({ upstreams: { 'up.example': { url: upstream.url } } }));
    addImage('v1');
    const path = join(elsewhere, 'storage');
    const { code, stdout, stderr } = await command(0, [...args, '--config', config]);
    expect([code, stdout]).toEqual([1, '']);
    expect(stderr).toContain(`there is no store in ${path}`);
    expect(stderr).toContain('ENTREPOT_STORAGE__PATH');
    expect(await readdir(elsewhere)).toEqual([]);
  });

  it('is created by an import', async () => {
    const config = join(folder, 'config.yaml');
    const source = join(folder, 'source');
    await writeFile(config, stringify({ upstreams: { 'up.example': { url: upstream.url } } }));
    addImage('v1');
    const image = 'up.example/org/app:v1';
    const bundle = join(folder, 'bundle.tar');
    const env = { ENTREPOT_STORAGE__PATH: source };
    expect(await command(0, ['pull', image, '--config', config], env)).toMatchObject({ code: 0 });
    expect(await command(0, ['export', image, '-o', bundle, '--config', config], env)).toMatchObject({
      code: 0,
    });
    expect(await command(0, ['import', bundle, '--config', config])).toMatchObject({ code: 0 });
    expect(await readdir(elsewhere)).toEqual(['storage']);
  });
});

describe.skipIf(!isRoot)('a running server', () => {
  it("is used by its user's commands in any folder, and reported", async () => {
    const server = await serve(OWNER, 'home', {
      server: { serverNames: ['registry.example:5000'] },
      tenants: [{ name: 'team-a' }],
    });
    const line = `store: ${join(server.folder, 'store')} (of the server on ${server.host})\n`;
    const tenants = await command(OWNER, ['tenants']);
    expect(tenants).toMatchObject({ code: 0, stderr: line });
    expect(tenants.stdout).toContain('team-a');
    // As `runuser` in root's home.
    await chmod(elsewhere, 0o700);
    expect(await command(OWNER, ['tenants'])).toMatchObject({ code: 0, stderr: line });
    await chmod(elsewhere, 0o777);
    const secret = await command(OWNER, ['tenant', 'secret', 'team-a']);
    expect(JSON.parse(parse(secret.stdout).stringData['.dockerconfigjson']).auths).toHaveProperty([
      'registry.example:5000',
    ]);
    expect(await readdir(elsewhere)).toEqual([]);
  });

  it('is asked for its configuration by its user in any folder', async () => {
    const server = await serve(OWNER, 'home', { tenants: [{ name: 'team-a' }] });
    const line = `configuration: ${server.configFile} (of the server on ${server.host})\n`;
    const shown = await command(OWNER, ['config', 'show']);
    expect(shown).toMatchObject({ code: 0, stderr: line });
    expect(parse(shown.stdout)).toMatchObject({
      server: { listen: [server.host] },
      storage: { path: join(server.folder, 'store') },
      tenants: [{ name: 'team-a' }],
    });
    const checked = await command(OWNER, ['config', 'check', '--json']);
    expect(checked).toMatchObject({ code: 0, stderr: line });
    expect(JSON.parse(checked.stdout).upstreams).toContain('up.example');
    // Who names one means that one.
    const named = await command(OWNER, ['config', 'show'], { ENTREPOT_LOG__LEVEL: 'debug' });
    expect(named.stderr).toBe('');
    expect(parse(named.stdout).tenants).toEqual([]);
  });

  it('decides what hosts writes, also for root, unless its user could have faked it', async () => {
    const server = await serve(OWNER);
    const line = `configuration: ${server.configFile} (of the server on ${server.host})\n`;
    const hosts = ['hosts', 'containerd', '--upstream', 'up.example', '--no-fallback'];
    const printed = await command(OWNER, hosts);
    expect(printed).toMatchObject({ code: 0, stderr: line });
    expect(printed.stdout).toContain(`[host."http://${server.host}"]`);
    // One of this folder is asked, since other servers of root may run on this machine.
    const here = { ENTREPOT_STORAGE__PATH: join(server.folder, 'store') };
    const roots = join(folder, 'roots');
    await mkdir(roots, { mode: 0o700 });
    const write = () => command(0, [...hosts, '--out', roots], here);
    await chown(server.configFile, OWNER, OWNER);
    expect((await write()).stderr).toContain('EACCES');
    expect(await readdir(roots)).toEqual([]);
    await chown(server.configFile, 0, 0);
    expect(await write()).toMatchObject({ code: 0, stderr: expect.stringContaining(line) });
    expect(await readFile(join(roots, 'up.example', 'hosts.toml'), 'utf8')).toContain(server.host);
    expect(await owners(roots)).toEqual(new Set([0]));
  });

  it('is not chosen among several', async () => {
    const [one, other] = [await serve(OWNER, 'one'), await serve(OWNER, 'other')];
    for (const args of [['images'], ['pull', 'up.example/org/app:v1']]) {
      const { code, stderr } = await command(OWNER, args);
      expect(code).toBe(1);
      expect(stderr).toContain('choose one with ENTREPOT_STORAGE__PATH');
      for (const server of [one, other]) expect(stderr).toContain(join(server.folder, 'store'));
    }
    const named = await command(OWNER, ['images', '--config', other.configFile]);
    expect(named).toMatchObject({ code: 0, stderr: '' });
    expect(await readdir(elsewhere)).toEqual([]);
  });

  it('is used by root if root has configured it, and is only named if its user could have faked it', async () => {
    const server = await serve(OWNER);
    await chown(server.configFile, OWNER, OWNER);
    const store = join(server.folder, 'store');
    const refused = await command(0, ['images']);
    expect(refused.stderr).not.toContain(`store: ${store} (of the server`);
    // Other servers of root may run on this machine. A single one is followed, and may have stopped since.
    expect(refused.stderr).toMatch(new RegExp(`"${store}" of uid ${OWNER}|\\(of the server on `));
    await chown(server.configFile, 0, 0);
    const followed = await command(0, ['images']);
    expect(followed.stderr).toContain(store);
    expect(await readdir(elsewhere)).toEqual([]);
  });
});

describe.skipIf(!isRoot)('the store of a server of another user', () => {
  it('gets nothing from root that the server cannot use', async () => {
    const server = await serve(OWNER);
    const store = join(server.folder, 'store');
    const config = ['--config', server.configFile];
    for (const tag of ['v1', 'v2']) addImage(tag);
    for (const args of [
      ['pull', 'up.example/org/app:v1'],
      ['pin', 'up.example/org/app:v1'],
      ['gc'],
      ['tenant', 'add', 'team-b'],
    ]) {
      expect(await command(0, [...args, ...config])).toMatchObject({ code: 0 });
    }
    expect(await owners(store)).toEqual(new Set([OWNER]));
    const own = await command(OWNER, ['pull', 'up.example/org/app:v2', ...config]);
    expect(own).toMatchObject({ code: 0 });
    // Nor does one that comes first, in a folder that was made for the server, or while it does not run.
    const prepared = await homeOf(OWNER, 'prepared');
    const first = await command(0, ['pull', 'up.example/org/app:v1', ...config], {
      ENTREPOT_STORAGE__PATH: prepared,
    });
    expect(first).toMatchObject({ code: 0 });
    await server.stop();
    expect(await command(0, ['images', ...config])).toMatchObject({ code: 0 });
    for (const path of [store, prepared]) expect(await owners(path)).toEqual(new Set([OWNER]));
    // Nor does a restore into a folder that is not there yet.
    const backup = join(elsewhere, 'backup.tar');
    expect(await command(0, ['backup', backup, ...config])).toMatchObject({ code: 0 });
    const restored = await command(0, ['restore', backup], { ENTREPOT_STORAGE__PATH: join(prepared, 'new') });
    expect(restored).toMatchObject({ code: 0 });
    expect(await owners(prepared)).toEqual(new Set([OWNER]));
  });

  it('lets root read and write its own files through a pipe, and says so if a name does not work', async () => {
    const server = await serve(OWNER);
    addImage('v1');
    const reference = 'up.example/org/app:v1';
    expect(await command(0, ['pull', reference, '--config', server.configFile])).toMatchObject({ code: 0 });
    await chmod(elsewhere, 0o700);
    const config = ['--config', server.configFile];
    const named = await command(0, ['export', reference, '--output', join(elsewhere, 'x.tar'), ...config]);
    expect(named.code).toBe(1);
    expect(named.stderr).toMatch(new RegExp(`EACCES.*as uid ${OWNER}, the owner of the store.*use a pipe`));
    const imported = await command(0, ['import', join(elsewhere, 'x.tar'), ...config]);
    expect(imported.code).toBe(1);
    expect(imported.stderr).toMatch(
      new RegExp(`EACCES.*as uid ${OWNER}, the owner of the store.*use a pipe`),
    );
    const piped = await command(0, ['export', reference, '--output', '-', ...config]);
    expect(piped.code).toBe(0);
    expect(piped.stdout.length).toBeGreaterThan(100_000);
    await chmod(elsewhere, 0o777);
  });

  it('refuses every other user, and says who owns it', async () => {
    const server = await serve(OWNER);
    const store = join(server.folder, 'store');
    for (const args of [
      ['images'],
      ['status'],
      ['tenants'],
      ['backup', '-'],
      ['pull', 'up.example/org/app'],
      ['serve'],
    ]) {
      const { code, stdout, stderr } = await command(STRANGER, args, { ENTREPOT_STORAGE__PATH: store });
      expect([args, code, stdout, stderr]).toEqual([
        args,
        1,
        '',
        `entrepot: the store in ${store} belongs to uid ${OWNER}: run the command as that user\n`,
      ]);
    }
    expect(await owners(store)).toEqual(new Set([OWNER]));
  });

  it('cannot be served by another user, including root', async () => {
    const server = await serve(OWNER);
    await server.stop();
    const refused = await command(0, ['serve', '--config', server.configFile]);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining(`belongs to uid ${OWNER}`) });
    const roots = await serve(0, 'roots');
    await chmod(roots.folder, 0o755);
    const other = await command(OWNER, ['serve', '--config', roots.configFile]);
    expect(other).toMatchObject({ code: 1, stderr: expect.stringContaining('belongs to root (uid 0)') });
  });
});

describe.skipIf(!isRoot)('blobs that cannot be stored, since another user created their folder', () => {
  it('are streamed, counted as failed, logged, and reported by /readyz until one is stored again', async () => {
    const server = await serve(OWNER);
    const store = join(server.folder, 'store');
    addImage('v1');
    const blob = randomBlob(70_000, 'foreign');
    const other = randomBlob(70_000, 'own');
    for (const each of [blob, other]) upstream.add('org/app', each);
    const [algorithm = '', hex = ''] = blob.digest.split(':');
    await mkdir(join(store, 'blobs', algorithm, hex.slice(0, 2)), { recursive: true });
    await chown(join(store, 'blobs', algorithm), OWNER, OWNER);
    const fetched = await fetch(`${server.url}/v2/up.example/org/app/blobs/${blob.digest}`);
    expect((await fetched.arrayBuffer()).byteLength).toBe(blob.size);
    const failed = () => sample(server, 'fills_total{outcome="failed"}');
    await until('the failure to count', 60_000, async () => (await failed()) === 1);
    expect(await sample(server, 'fills_total{outcome="verified"}')).toBe(0);
    const ready = await fetch(`${server.ops}/readyz`);
    expect([ready.status, await ready.text()]).toEqual([
      200,
      expect.stringMatching(/^ok\ndownloads are passed on but not stored \(EACCES\) since /),
    ]);
    const isLogged = async () => server.logs().includes('a verified blob could not be stored');
    await until('the log to say so', 60_000, isLogged);
    await (await fetch(`${server.url}/v2/up.example/org/app/blobs/${other.digest}`)).arrayBuffer();
    await until(
      'one to be kept',
      60_000,
      async () => (await (await fetch(`${server.ops}/readyz`)).text()) === 'ok\n',
    );
  });

  it('are streamed even if no download can begin', async () => {
    const server = await serve(OWNER);
    const ingest = join(server.folder, 'store', 'ingest');
    await chown(ingest, 0, 0);
    const blob = randomBlob(70_000, 'closed');
    upstream.add('org/app', blob);
    const fetched = await fetch(`${server.url}/v2/up.example/org/app/blobs/${blob.digest}`);
    expect((await fetched.arrayBuffer()).byteLength).toBe(blob.size);
    expect(await sample(server, 'fills_total{outcome="failed"}')).toBe(1);
    expect(await (await fetch(`${server.ops}/readyz`)).text()).toContain('not stored (EACCES)');
  });
});
