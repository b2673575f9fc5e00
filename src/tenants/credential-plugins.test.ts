import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Log, silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { formatYaml } from '../lib/yaml.ts';
import { CredentialPlugins } from './credential-plugins.ts';

let folder: string;
let clock: ManualClock;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-plugins-'));
  await mkdir(join(folder, 'bin'));
  clock = new ManualClock();
});

afterEach(() => rm(folder, { recursive: true, force: true }));

const ENVIRONMENT = { PATH: process.env['PATH'], INHERITED: 'inherited', OWN: 'overridden' };

const V1 = 'credentialprovider.kubelet.k8s.io/v1';

function response(more: object = {}): object {
  return {
    kind: 'CredentialProviderResponse',
    apiVersion: V1,
    cacheKeyType: 'Image',
    auth: { 'reg.example': { username: 'u', password: 'p' } },
    ...more,
  };
}

/** A plugin that keeps its request, adds a line to `NAME.runs`, and then does as `script` says. */
async function addPlugin(name: string, script: string): Promise<void> {
  const program = join(folder, 'bin', name);
  await writeFile(
    program,
    `#!/bin/sh\ncat > ${folder}/${name}.request\necho run >> ${folder}/${name}.runs\n${script}\n`,
  );
  await chmod(program, 0o755);
}

function answer(more: object = {}): string {
  return `cat <<'END'\n${JSON.stringify(response(more))}\nEND`;
}

async function open(providers: readonly object[], log = silentLog): Promise<CredentialPlugins> {
  const configFile = join(folder, 'providers.yaml');
  const complete = providers.map(provider => ({
    apiVersion: V1,
    matchImages: ['reg.example'],
    defaultCacheDuration: '10m',
    ...provider,
  }));
  const config = {
    apiVersion: 'kubelet.config.k8s.io/v1',
    kind: 'CredentialProviderConfig',
    providers: complete,
  };
  await writeFile(configFile, formatYaml(config));
  return CredentialPlugins.open({
    configFile,
    binDir: join(folder, 'bin'),
    environment: ENVIRONMENT,
    log,
    clock,
  });
}

function configFor(name: string): object {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1',
    kind: 'CredentialProviderConfig',
    providers: [{ name, apiVersion: V1, matchImages: ['reg.example'], defaultCacheDuration: '0s' }],
  };
}

async function runsOf(name: string): Promise<number> {
  return (await readFile(join(folder, `${name}.runs`), 'utf8').catch(() => '')).split('\n').length - 1;
}

/** `plugin: key user:password` of each login. */
async function loginsFor(plugins: CredentialPlugins, image: string): Promise<string[]> {
  const configs = await plugins.configsFor(image);
  return configs.flatMap(({ source, config }) =>
    [...config].map(([key, { username, password }]) => `${source}: ${key} ${username}:${password}`),
  );
}

test('a plugin gets the request on its standard input, its arguments, and its environment in addition to ours', async () => {
  await addPlugin('p', `printf '%s|' "$@" "$OWN" "$INHERITED" > ${folder}/seen\n${answer()}`);
  const plugins = await open([{ name: 'p', args: ['--a', 'b c'], env: [{ name: 'OWN', value: 'x y' }] }]);
  expect(await loginsFor(plugins, 'reg.example/team/app')).toEqual(['p: reg.example u:p']);
  expect(await readFile(join(folder, 'p.request'), 'utf8')).toBe(
    `{"kind":"CredentialProviderRequest","apiVersion":"${V1}","image":"reg.example/team/app"}\n`,
  );
  expect(await readFile(join(folder, 'seen'), 'utf8')).toBe('--a|b c|x y|inherited|');
});

test('only matching plugins are run, all of them, in order', async () => {
  for (const name of ['a', 'b', 'other']) {
    await addPlugin(name, answer({ auth: { 'reg.example': { username: name, password: 'p' } } }));
  }
  const plugins = await open([
    { name: 'b' },
    { name: 'other', matchImages: ['*.example.org'] },
    { name: 'a' },
  ]);
  expect(await loginsFor(plugins, 'reg.example/x')).toEqual(['b: reg.example b:p', 'a: reg.example a:p']);
  expect(await loginsFor(plugins, 'elsewhere.example/x')).toEqual([]);
  expect(await runsOf('other')).toBe(0);
});

test.each([
  ['Image', 2, 3],
  ['Registry', 1, 2],
  ['Global', 1, 1],
])('an answer for %s is remembered for that', async (cacheKeyType, runsAfterImages, runsAfterRegistry) => {
  await addPlugin('p', answer({ cacheKeyType }));
  const plugins = await open([{ name: 'p', matchImages: ['reg.example', 'two.example'] }]);
  for (const image of ['reg.example/x', 'reg.example/x', 'reg.example/y']) await plugins.configsFor(image);
  expect(await runsOf('p')).toBe(runsAfterImages);
  await plugins.configsFor('two.example/x');
  expect(await runsOf('p')).toBe(runsAfterRegistry);
});

test('a response is cached for as long as it says, or else as the configuration says, to the millisecond', async () => {
  await addPlugin('says', answer({ cacheDuration: '1m' }));
  await addPlugin('silent', answer());
  await addPlugin('never', answer({ cacheDuration: '0s' }));
  const plugins = await open([{ name: 'says' }, { name: 'silent' }, { name: 'never' }]);
  await plugins.configsFor('reg.example/x');
  await clock.advance(60_000);
  await plugins.configsFor('reg.example/x');
  expect(await Promise.all(['says', 'silent', 'never'].map(runsOf))).toEqual([1, 1, 2]);
  await clock.advance(1);
  await plugins.configsFor('reg.example/x');
  expect(await Promise.all(['says', 'silent', 'never'].map(runsOf))).toEqual([2, 1, 3]);
  await clock.advance(540_000);
  await plugins.configsFor('reg.example/x');
  expect(await Promise.all(['says', 'silent', 'never'].map(runsOf))).toEqual([3, 2, 4]);
  // Set back, the clock would make them hold longer.
  clock.set(clock.nowMs() - 600_000);
  await plugins.configsFor('reg.example/x');
  expect(await Promise.all(['says', 'silent', 'never'].map(runsOf))).toEqual([4, 3, 5]);
});

test('concurrent requests for one image share one run', async () => {
  await addPlugin('p', `sleep 0.3\n${answer({ cacheDuration: '0s' })}`);
  const plugins = await open([{ name: 'p' }]);
  const all = await Promise.all(Array.from({ length: 20 }, () => loginsFor(plugins, 'reg.example/x')));
  expect(new Set(all.flat())).toEqual(new Set(['p: reg.example u:p']));
  expect(await runsOf('p')).toBe(1);
});

/** A plugin that takes a while, and notes how many of it run with it. */
async function addSlowPlugin(name: string, more: object = {}): Promise<void> {
  const running = join(folder, 'running');
  await mkdir(running);
  const [begin, end] = [
    `mkdir ${running}/$$; ls ${running} | wc -l >> ${folder}/peaks`,
    `rmdir ${running}/$$`,
  ];
  await addPlugin(name, `${begin}; sleep 0.1; ${end}\n${answer(more)}`);
}

async function mostAtOnce(): Promise<number> {
  return Math.max(...(await readFile(join(folder, 'peaks'), 'utf8')).trim().split('\n').map(Number));
}

test('a tenant with many images has four processes at a time, and others need not wait for it', async () => {
  await addSlowPlugin('p');
  const plugins = await open([{ name: 'p' }]);
  const names = Array.from({ length: 60 }, (_, n) => `reg.example/invented-${n}`);
  const many = names.map(image => plugins.configsFor(image, 'hostile'));
  await plugins.configsFor('reg.example/app', 'other');
  expect(await runsOf('p')).toBeLessThan(30);
  await Promise.all(many);
  expect(await runsOf('p')).toBe(61);
  expect(await mostAtOnce()).toBeLessThanOrEqual(5);
});

test('no more than eight processes run, however many tenants ask', async () => {
  await addSlowPlugin('p');
  const plugins = await open([{ name: 'p' }]);
  const askers = Array.from({ length: 30 }, (_, n) => `team-${n}`);
  await Promise.all(askers.map(asker => plugins.configsFor(`reg.example/${asker}`, asker)));
  expect(await runsOf('p')).toBe(30);
  expect(await mostAtOnce()).toBeLessThanOrEqual(8);
});

test('a response for a whole registry serves those that wait meanwhile', async () => {
  await addSlowPlugin('p', { cacheKeyType: 'Registry' });
  const plugins = await open([{ name: 'p' }]);
  const names = Array.from({ length: 60 }, (_, n) => `reg.example/image-${n}`);
  await Promise.all(names.map(image => plugins.configsFor(image, 'team-a')));
  expect(await runsOf('p')).toBe(4);
});

test('a tenant with too many waiting gets nothing from a plugin, which is logged', async () => {
  const told: object[] = [];
  const log = { ...silentLog, warn: (fields: object) => void told.push(fields), child: () => log };
  await addPlugin('p', answer());
  const plugins = await open([{ name: 'p' }], log);
  const names = Array.from({ length: 1_005 }, (_, n) => `reg.example/image-${n}`);
  const asked = names.map(image => loginsFor(plugins, image));
  expect(await asked[1_004]).toEqual([]);
  expect(told[0]).toMatchObject({ reason: 'more than 1000 requests are already waiting' });
  plugins.close();
  await Promise.all(asked);
});

test('a plugin that runs on close is ended', async () => {
  await addPlugin('p', 'sleep 60');
  const plugins = await open([{ name: 'p' }]);
  const asked = plugins.configsFor('reg.example/x');
  await expect.poll(() => runsOf('p')).toBe(1);
  plugins.close();
  expect(await asked).toEqual([{ source: 'p', config: new Map() }]);
});

test.each([
  ['ends with an error', 'echo broken >&2; exit 3', /status 3: broken/],
  ['writes no JSON', 'echo hello', /invalid JSON/],
  ['writes an unknown member', answer({ more: 1 }), /member/],
  ['answers for another version', answer({ apiVersion: `${V1}beta1` }), /apiVersion of the response is not/],
  ['has an unknown cache key', answer({ cacheKeyType: 'image' }), /cacheKeyType/],
  ['writes without end', 'yes', /more than 1048576 bytes/],
  ['does not read its input', 'exec <&-; exit 4', /status 4/],
])('a plugin that %s gives nothing, says why, and rests for 10 s', async (_what, script, reason) => {
  const reasons: string[] = [];
  await addPlugin('bad', script);
  await addPlugin('good', answer());
  const plugins = await open([{ name: 'bad' }, { name: 'good' }], logOf(reasons));
  expect(await loginsFor(plugins, 'reg.example/x')).toEqual(['good: reg.example u:p']);
  expect(reasons).toEqual([expect.stringMatching(reason)]);
  await plugins.configsFor('reg.example/x');
  expect(await runsOf('bad')).toBe(1);
  await clock.advance(10_001);
  await plugins.configsFor('reg.example/x');
  expect(await runsOf('bad')).toBe(2);
});

test.each([
  ['takes too long', 'touch begun; sleep 60'],
  ['leaves a child that keeps its output open', 'sh -c "touch begun; sleep 60" &\nsleep 60'],
  [
    'leaves a child that left its group, and keeps its output open',
    'setsid sh -c "touch begun; sleep 60" &\nexit 0',
  ],
])('a plugin that %s is ended after a minute, and gives nothing', async (_what, script) => {
  const reasons: string[] = [];
  await addPlugin('late', `cd ${folder}\n${script}`);
  const plugins = await open([{ name: 'late' }], logOf(reasons));
  const asked = loginsFor(plugins, 'reg.example/x');
  await vi.waitUntil(() => existsSync(join(folder, 'begun')), 60_000);
  await clock.advance(60_000);
  expect(await asked).toEqual([]);
  expect(reasons).toEqual(['took longer than 60 s']);
});

/** A log that keeps the reasons of warnings. */
function logOf(reasons: string[]): Log {
  const warn = (fields: object) => void reasons.push('reason' in fields ? String(fields.reason) : '');
  const log: Log = { ...silentLog, warn, child: () => log };
  return log;
}

test('an invalid configuration, or one that names a missing plugin, is refused', async () => {
  await expect(open([{ name: 'absent' }])).rejects.toThrow(/absent is not an executable file/);
  await addPlugin('p', answer());
  await expect(open([{ name: 'p', matchImages: [] }])).rejects.toThrow(/matchImages is empty/);
});

test('a folder of configurations is read in the order of names, and may name no plugin twice', async () => {
  const configs = join(folder, 'configs');
  await mkdir(configs);
  for (const name of ['a', 'b'])
    await addPlugin(name, answer({ auth: { r: { username: name, password: 'p' } } }));
  await writeFile(join(configs, '2.json'), JSON.stringify(configFor('a')));
  await writeFile(join(configs, '1.yaml'), formatYaml(configFor('b')));
  await writeFile(join(configs, 'README'), 'no configuration');
  const options = {
    configFile: configs,
    binDir: join(folder, 'bin'),
    environment: ENVIRONMENT,
    log: silentLog,
  };
  const plugins = await CredentialPlugins.open(options);
  expect(await loginsFor(plugins, 'reg.example/x')).toEqual(['b: r b:p', 'a: r a:p']);
  await writeFile(join(configs, '3.yml'), formatYaml(configFor('a')));
  await expect(CredentialPlugins.open(options)).rejects.toThrow(/a occurs twice/);
});
