// SIGHUP: a running server applies the changes of its configuration that need no restart, and never ends by it.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { answers, freePort, until } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, type Login, secretManifest } from '../support/tenants.ts';

const layer = randomBlob(3_000_000, 'reload');
const image = imageOf([layer]);
const users = {
  old: { password: 'old-password', repositories: ['app'] },
  new: { password: 'new-password', repositories: ['app'] },
  team: { password: 'team-password', repositories: ['app'] },
};
const TEAM: Login = ['team-b', 'password-of-team-b'];

let upstream: FakeUpstream;
let folder: string;
let server: Readonly<Record<string, unknown>>;
let entrepot: Entrepot;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users } });
  upstream.add('app', image, '1');
  folder = await makeTempFolder('reload');
  const host = `127.0.0.1:${await freePort()}`;
  server = { listen: host, opsListen: `127.0.0.1:${await freePort()}`, serverNames: [host] };
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function start(config: object): Promise<void> {
  entrepot = await Entrepot.start({ server, ...config }, { folder });
}

interface Line {
  readonly msg: string;
  readonly changed?: readonly string[];
  readonly needsRestart?: readonly string[];
  readonly problems?: readonly string[];
}

const lines = (): readonly Line[] =>
  entrepot
    .logs()
    .split('\n')
    .filter(line => line.startsWith('{'))
    .map(line => JSON.parse(line));

const OUTCOME = /^configuration (?:not )?reloaded/;

/** Writes the file and sends SIGHUP; the lines of the log from then on until the one that says what came of it. */
async function reload(config: object): Promise<readonly Line[]> {
  const seen = lines().length;
  const store = { path: join(folder, 'store') };
  await writeFile(entrepot.configFile, stringify({ server, storage: store, ...config }));
  process.kill(entrepot.pid, 'SIGHUP');
  const news = () => lines().slice(seen);
  await until('the configuration to be read again', 20_000, async () =>
    news().some(({ msg }) => OUTCOME.test(msg)),
  );
  expect(entrepot.isRunning).toBe(true);
  return news();
}

const status = async (path: string, login?: Login) =>
  (await get(`${entrepot.url}/v2/${path}`, login === undefined ? {} : { headers: basic(login) })).status;

const login = (username: string) => ({ username, passwordFile: 'password' });

it('upstreams, prefixes, tenants, limits and the log level change without a restart', async () => {
  await writeFile(join(folder, 'password'), 'old-password');
  await writeFile(join(folder, 'team.json'), secretManifest('pull', { [String(server['listen'])]: TEAM }));
  const own = { url: upstream.url, credentials: login('old'), openToAll: true, pullPolicy: 'Always' };
  await start({ upstreams: { 'one.example': own }, log: { level: 'warn' }, hosted: { prefixes: 'a' } });
  expect(await status('one.example/app/manifests/1')).toBe(200);
  expect(await status('two.example/app/manifests/1')).toBe(404);

  await writeFile(join(folder, 'password'), 'new-password');
  const credentials = login('new');
  const said = await reload({
    upstreams: {
      'one.example': { ...own, credentials },
      'two.example': { ...own, credentials, hostAlias: 'mirror.example' },
      'ghcr.io': false,
    },
    hosted: { prefixes: ['a', 'tools'], anonymous: 'push' },
    tenants: [{ name: 'team-b', secrets: 'team.json', quotaBytes: '8KiB' }],
    storage: { path: join(folder, 'store'), maxBytes: '1GiB' },
    log: { level: 'info' },
    server: { ...server, shutdownTimeout: '1s' },
    offline: true,
  });
  const changed = ['hosted', 'log.level', 'storage.maxBytes', 'tenants', 'upstreams.ghcr.io'];
  expect(said.find(line => line.changed)?.changed?.toSorted()).toEqual([
    ...changed,
    'upstreams.one.example',
    'upstreams.two.example',
  ]);
  expect(said.find(line => line.needsRestart)?.needsRestart?.toSorted()).toEqual([
    'offline',
    'server.shutdownTimeout',
  ]);
  upstream.requests.length = 0;
  for (const name of ['one.example', 'two.example'])
    expect(await status(`${name}/app/manifests/1`)).toBe(200);
  expect(
    (await get(`${entrepot.url}/v2/app/manifests/1`, { headers: { host: 'mirror.example' } })).status,
  ).toBe(200);
  expect([upstream.saw('new-password'), upstream.saw('old-password')]).toEqual([true, false]);
  const begin = (repository: string, who?: Login) =>
    get(`${entrepot.url}/v2/${repository}/blobs/uploads/`, {
      method: 'POST',
      ...(who && { headers: basic(who) }),
    });
  expect((await begin('tools/app')).status).toBe(202);
  expect((await begin('team-b/app')).status).toBe(401);
  const { headers } = await begin('team-b/app', TEAM);
  const pushed = await get(`${entrepot.url}${headers.location}`, {
    method: 'PATCH',
    headers: basic(TEAM),
    body: Buffer.alloc(10_000),
  });
  expect([pushed.status, pushed.text]).toEqual([403, expect.stringContaining('quota of team-b')]);

  await reload({ upstreams: { 'two.example': { ...own, credentials } }, log: { level: 'info' } });
  expect(await status('one.example/app/manifests/1')).toBe(404);
  expect(await status('two.example/app/manifests/1')).toBe(200);
  expect((await begin('tools/app')).status).toBe(404);
  expect((await begin('team-b/app', TEAM)).status).toBe(404);
});

it('a reload names a changed file that is read only at the start among what needs a restart', async () => {
  const configFile = join(folder, 'providers.yaml');
  const provider = {
    name: 'none',
    apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
    matchImages: ['a.example'],
  };
  const write = (defaultCacheDuration: string) =>
    writeFile(
      configFile,
      stringify({
        apiVersion: 'kubelet.config.k8s.io/v1',
        kind: 'CredentialProviderConfig',
        providers: [{ ...provider, defaultCacheDuration }],
      }),
    );
  await write('0s');
  await writeFile(join(folder, 'none'), '#!/bin/sh\n', { mode: 0o755 });
  const config = { credentialProviders: { configFile, binDir: folder } };
  await start(config);
  const named = async () => (await reload(config)).find(line => line.needsRestart)?.needsRestart;
  expect(await named()).toBeUndefined();
  await write('1s');
  expect(await named()).toEqual(['credentialProviders.configFile']);
});

it('a download and its readers continue while its upstream is replaced', async () => {
  await start({ upstreams: { 'one.example': { url: upstream.url } } });
  const open = await FakeUpstream.start({ linkBytesPerS: 500_000 });
  open.add('app', image, '1');
  try {
    await reload({ upstreams: { 'one.example': { url: open.url } } });
    let begun = 0;
    const reading = get(`${entrepot.url}/v2/one.example/app/blobs/${layer.digest}`, {
      onData: bytes => (begun = bytes),
    });
    await until('the first bytes', 20_000, async () => begun > 0);
    await reload({ upstreams: { 'one.example': { url: open.url, insecure: true } }, log: { level: 'info' } });
    const got = await reading;
    expect([got.status, `sha256:${got.sha256}`]).toEqual([200, layer.digest]);
  } finally {
    await open.stop();
  }
});

it('a configuration with errors changes nothing, and the log lists them all', async () => {
  await start({ hosted: { prefixes: 'a', anonymous: 'pull' } });
  const wrong = { hosted: { prefixes: ['library'], nonsense: 1 }, log: { level: 'loud' } };
  const [line] = (await reload(wrong)).filter(({ msg }) => OUTCOME.test(msg));
  expect(line).toMatchObject({ level: 'error', problems: expect.any(Array) });
  expect(line?.problems?.join('\n')).toMatch(/log\.level/);
  expect(line?.problems?.join('\n')).toMatch(/nonsense/);
  expect(await status('a/app/tags/list')).toBe(404);
  await writeFile(entrepot.configFile, '{');
  process.kill(entrepot.pid, 'SIGHUP');
  await until('the second complaint', 20_000, async () => entrepot.logs().includes('is not a configuration'));
  expect(await answers(`${entrepot.ops}/readyz`, 200)).toBe(true);
});

it('a configuration is applied completely while the index accepts no writes, and the log says who could not be told', async () => {
  await writeFile(join(folder, 'password'), 'old-password');
  await start({ log: { level: 'warn' } });
  const index = new Database(join(folder, 'store', 'index.db'));
  index.exec('BEGIN IMMEDIATE');
  try {
    const own = {
      url: upstream.url,
      credentials: login('old'),
      openToAll: true,
      hostAlias: 'mirror.example',
    };
    const said = await reload({ upstreams: { 'one.example': own }, log: { level: 'info' } });
    expect(said.map(({ msg }) => msg)).toEqual(
      expect.arrayContaining([expect.stringContaining('could not be notified'), 'configuration reloaded']),
    );
  } finally {
    index.close();
  }
  const headers = { host: 'mirror.example' };
  expect((await get(`${entrepot.url}/v2/app/manifests/1`, { headers })).status).toBe(200);
});

it('the audit log continues in a new file after its own was moved away', async () => {
  const auditFile = join(folder, 'audit.jsonl');
  const audit = { output: 'file', auditFile };
  await start({ audit });
  await status('a/before/tags/list');
  await rename(auditFile, `${auditFile}.1`);
  await reload({ audit });
  await status('a/after/tags/list');
  await entrepot.stop();
  expect(await readFile(`${auditFile}.1`, 'utf8')).toContain('a/before');
  const after = await readFile(auditFile, 'utf8');
  expect([after.includes('a/before'), after.includes('a/after')]).toEqual([false, true]);
});

it('SIGHUP never ends the server, whenever and however often it comes', async () => {
  await start({});
  const { configFile, ops } = entrepot;
  await entrepot.stop();
  const child = spawn(process.execPath, [...STARTER, 'serve', '--config', configFile], { stdio: 'ignore' });
  const ended = once(child, 'exit');
  // Before that nothing of ours runs that could handle a signal.
  await until('the program to begin', 20_000, () => catchesHangUp(child.pid ?? 0));
  const storm = setInterval(() => child.kill('SIGHUP'), 5);
  await until('the server to be ready', 60_000, () => answers(`${ops}/readyz`, 200));
  await new Promise(resolve => setTimeout(resolve, 1_000));
  clearInterval(storm);
  expect([child.exitCode, child.signalCode]).toEqual([null, null]);
  expect(await answers(`${ops}/readyz`, 200)).toBe(true);
  child.kill('SIGTERM');
  expect(await ended).toEqual([0, null]);
});

/** Whether the process handles SIGHUP, which is signal 1 (proc(5), SigCgt). */
async function catchesHangUp(pid: number): Promise<boolean> {
  const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
  return (BigInt(`0x${caught ?? '0'}`) & 1n) === 1n;
}
