// --json of the built program: every line of standard output is one object, whose members are those that the help names.
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { imageOf, indexOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const APP = `${UPSTREAM}/org/app:1`;
const app = imageOf([randomBlob(10_000, 'json')]);

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('org/app', app, '1');
  upstream.add('org/absent', indexOf([app]), '1');
  entrepot = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url } },
    server: { serverNames: ['registry.example'] },
  });
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function json(code: number, ...args: string[]): Promise<readonly Record<string, unknown>[]> {
  const isPiped = args.includes('-');
  const done = await (isPiped
    ? entrepot.spawnCommand(...args, '--json')
    : entrepot.command(...args, '--json'));
  expect({ args, code: done.code, stderr: done.stderr }).toMatchObject({ code });
  return done.stdout
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line));
}

const members = (document: object | undefined) => Object.keys(document ?? {});

it('of what works on images has stable members', async () => {
  const digest = app.manifest.digest;
  expect((await json(0, 'pull', APP)).at(-1)).toMatchObject({ event: 'summary', pulled: 1, failed: [] });
  expect(await json(0, 'refresh', APP)).toEqual([{ image: APP, digest }]);
  const missing = `${UPSTREAM}/org/absent:1`;
  const checked = await json(1, 'check', APP, missing);
  expect(checked).toMatchObject([
    { image: APP, complete: true, line: APP, missing: [], reason: null },
    { image: missing, complete: false, line: missing, reason: expect.any(String) },
  ]);
  expect(await json(0, 'pin', APP)).toEqual([{ image: APP, pinned: true, changed: true, dryRun: false }]);
  expect(await json(0, 'pin', APP)).toMatchObject([{ changed: false }]);
  expect(await json(0, 'unpin', APP)).toEqual([{ image: APP, pinned: false, changed: true, dryRun: false }]);
  expect(await json(1, 'unpin', APP)).toMatchObject([{ changed: false }]);
  const file = join(entrepot.folder, 'bundle.tar');
  expect(await json(0, 'export', APP, '-o', file)).toEqual([
    { file, images: 1, blobs: 2, blobBytes: app.config.size + 10_000, leftOut: 0 },
  ]);
  expect(await json(0, 'import', file)).toEqual([{ file, image: APP, digest }]);
  expect(await json(2, 'export', APP, '-o', '-')).toEqual([]);
  expect(members((await json(0, 'images'))[0])).toContain('ownBytes');
  expect((await json(0, 'inspect', APP))[0]).toMatchObject({ image: APP, digest });
});

it('of upkeep has stable members', async () => {
  const [gc, ...others] = await json(0, 'gc', '--dry-run');
  expect(others).toEqual([]);
  expect(gc).toMatchObject({
    dryRun: true,
    blobs: { items: 0, bytes: 0 },
    evicted: { items: 0 },
    stuckAt: null,
  });
  expect(await json(0, 'scrub')).toMatchObject([{ event: 'summary', checked: 2, damaged: 0 }]);
  expect(await json(0, 'rebuild')).toMatchObject([{ event: 'summary', added: 0, damaged: 0 }]);
  const file = join(entrepot.folder, 'backup.tar');
  expect(await json(0, 'backup', file)).toEqual([{ file, blobs: 2, lacking: [] }]);
  expect(await json(2, 'backup', '-')).toEqual([]);
});

it('of tenants has stable members', async () => {
  expect(await json(0, 'tenant', 'add', 'team-a')).toEqual([{ tenant: 'team-a', added: true }]);
  expect(await json(1, 'tenant', 'add', 'team-a')).toEqual([{ tenant: 'team-a', added: false }]);
  const [secret] = await json(0, 'tenant', 'secret', 'team-a');
  expect(secret).toMatchObject({ kind: 'Secret', type: 'kubernetes.io/dockerconfigjson' });
  expect((await json(0, 'tenant', 'rotate', 'team-a'))[0]).toMatchObject({ kind: 'Secret' });
  const ended = await json(0, 'tenant', 'revoke', 'team-a', '--all');
  expect(ended.length).toBeGreaterThan(0);
  expect(members(ended[0])).toEqual(['credential', 'server']);
  expect(members((await json(0, 'tenants'))[0])).toContain('tenants');
  expect(await json(0, 'tenant', 'remove', 'team-a')).toEqual([
    { tenant: 'team-a', dryRun: false, credentials: [], repositories: [], bytes: 0 },
  ]);
  expect((await json(0, 'explain', APP))[0]).toMatchObject({ conclusions: expect.any(Array) });
});

it('of the configuration has stable members', async () => {
  expect(members((await json(0, 'config', 'show'))[0])).toContain('storage');
  expect((await json(0, 'config', 'check'))[0]).toMatchObject({ valid: true, problems: [] });
  const out = join(entrepot.folder, 'nodes');
  const hosts = ['hosts', 'containerd', '--server', 'http://10.0.0.5:5000', '--upstream', UPSTREAM];
  expect((await json(0, ...hosts)).map(members)).toEqual([['path', 'text']]);
  const told = await entrepot.command(...hosts);
  expect(told.stdout).toContain(`server = "https://${UPSTREAM}"\n`);
  expect(told.stderr).toContain(`nodes ask https://${UPSTREAM}, not ${upstream.url}`);
  expect((await entrepot.command(...hosts, '--no-fallback')).stderr).toBe('');
  expect(await json(0, ...hosts, '--out', out)).toEqual([
    { path: join(out, UPSTREAM, 'hosts.toml'), changed: true, backup: null },
  ]);
});

it('of removals, and of a restore, has stable members', async () => {
  expect(members((await json(0, 'rm', APP, '--force'))[0])).toEqual([
    'image',
    'digest',
    'removedTags',
    'otherTags',
    'manifestHeld',
    'freedBytes',
    'neededBytes',
    'neededBy',
    'remainingBytes',
  ]);
  const file = join(entrepot.folder, 'backup.tar');
  await entrepot.stop();
  expect(await json(1, 'restore', file)).toEqual([]);
  await removeFolder(join(entrepot.folder, 'store'));
  expect(await json(0, 'restore', file)).toEqual([
    { file, blobs: 2, blobBytes: app.config.size + 10_000, lacking: [] },
  ]);
});
