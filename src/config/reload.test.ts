import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { loadConfig } from './load.ts';
import { ConfigError, problemText } from './problems.ts';
import { planReload, putInForce } from './reload.ts';

const folder = mkdtempSync(join(tmpdir(), 'entrepot-reload-'));
afterAll(() => rmSync(folder, { recursive: true }));

async function load(text: string) {
  const file = join(folder, 'entrepot.yaml');
  writeFileSync(file, text);
  return loadConfig({ file, env: {} });
}

const BEFORE =
  'storage: {maxBytes: 1GiB}\nhosted: {prefixes: [a], shared: []}\nlog: {level: warn, format: json}\n';

it('the same values in another form are no change', async () => {
  const same = 'log: {format: json, level: warn}\nhosted: {prefixes: a}\nstorage: {maxBytes: 1024MiB}\n';
  expect(planReload(await load(BEFORE), await load(same))).toMatchObject({ changed: [], needsRestart: [] });
});

it('keys that a running server applies are distinguished from keys that need a restart', async () => {
  const after =
    'server: {listen: 127.0.0.1:1, shutdownTimeout: 1s}\nstorage: {path: elsewhere}\nverifyFor: 1h\n' +
    'hosted: {prefixes: [a, b]}\nupstreams: {quay.io: {freshFor: 1h}, ghcr.io: false, r.example: {}}\n' +
    'upkeep: {gcInterval: 2h}\nlog: {level: debug, format: pretty}\naudit: {output: stdout}\noffline: true\n' +
    'tenants: [{name: t, push: false}]\nprepull: {images: [a]}\n';
  const { changed, needsRestart } = planReload(await load(BEFORE), await load(after));
  expect(changed.toSorted()).toEqual([
    'hosted',
    'log.level',
    'prepull',
    'storage.maxBytes',
    'tenants',
    'upkeep',
    'upstreams.ghcr.io',
    'upstreams.quay.io',
    'upstreams.r.example',
    'verifyFor',
  ]);
  expect(needsRestart.toSorted()).toEqual([
    'audit.output',
    'log.format',
    'offline',
    'server.listen',
    'server.shutdownTimeout',
    'storage.path',
  ]);
});

it('a new password in the file that an upstream names is a change of the upstream', async () => {
  const text = 'upstreams: {quay.io: {credentials: {username: u, passwordFile: password}}}';
  writeFileSync(join(folder, 'password'), 'old');
  const before = await load(text);
  writeFileSync(join(folder, 'password'), 'new');
  expect(planReload(before, await load(text)).changed).toEqual(['upstreams.quay.io']);
});

it('a new password in the file of an administrator needs a restart', async () => {
  const text = 'server: {admins: [{name: ops, passwordFile: password}]}';
  writeFileSync(join(folder, 'password'), 'old');
  const before = await load(text);
  writeFileSync(join(folder, 'password'), 'new');
  expect(planReload(before, await load(text))).toMatchObject({
    changed: [],
    needsRestart: ['server.admins'],
  });
});

it('an applied change is visible to whoever holds the section, and the rest stays as it was', async () => {
  const config = await load(BEFORE);
  const { hosted, storage, log } = config;
  const next = await load('hosted: {prefixes: [b]}\nlog: {level: error}\nserver: {listen: 127.0.0.1:1}\n');
  putInForce(config, planReload(config, next).config);
  expect(hosted.prefixes).toEqual(['b']);
  expect(config.storage).toBe(storage);
  expect('maxBytes' in storage).toBe(false);
  expect(log).toEqual({ level: 'error', format: 'json' });
  expect(config.server.listen[0]?.address.port).toBe(5000);
  const again = await load('hosted: {prefixes: [b]}\nlog: {level: error}\n');
  expect(planReload(config, again)).toMatchObject({ changed: [], needsRestart: ['log.format'] });
});

it('changes that are safe only together with one that needs a restart are refused', async () => {
  const config = await load('server: {listen: 0.0.0.0:5000}\nhosted: {prefixes: [a]}\n');
  const next = await load('server: {listen: 127.0.0.1:5000}\nhosted: {prefixes: [a], anonymous: push}\n');
  const problems = (() => {
    try {
      planReload(config, next);
      return [];
    } catch (error) {
      return error instanceof ConfigError ? error.problems.map(problemText) : [error];
    }
  })();
  expect(problems).toEqual([expect.stringMatching(/^until a restart: hosted\.anonymous: .*server\.listen/)]);
  expect(config.hosted.anonymous).toBe('none');
});
