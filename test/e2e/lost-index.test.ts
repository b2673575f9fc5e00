// A store whose index is gone beside its blobs: before a command, before a server, and under one.
import { readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { until } from '../support/programs.ts';
import { pushBlob, putManifest } from '../support/push-client.ts';

const image = imageOf([randomBlob(10_000, 'lost')]);
const SOON_MS = 30_000;

let entrepot: Entrepot;

beforeEach(async () => {
  entrepot = await Entrepot.start({
    hosted: { prefixes: ['team'], anonymous: 'push' },
    log: { format: 'json' },
  });
  for (const blob of [image.config, ...image.layers]) await pushBlob(entrepot.url, 'team/app', blob);
  await putManifest(entrepot.url, 'team/app', 'v1', image.manifest);
});

afterEach(() => entrepot.remove());

const store = () => join(entrepot.folder, 'store');
const files = async () => (await readdir(store())).filter(name => name.startsWith('index.db'));
const readiness = async () => {
  const { status, text } = await get(`${entrepot.ops}/readyz`);
  return { status, text };
};
const pulled = async () => (await get(`${entrepot.url}/v2/team/app/manifests/v1`)).status;
const pushed = async () => {
  const path = '/v2/team/app/manifests/v2';
  const headers = { 'content-type': image.manifest.mediaType };
  const body = Buffer.concat(Array.from(image.manifest.slice()));
  return (await get(entrepot.url + path, { method: 'PUT', headers, body })).status;
};

async function lose(): Promise<void> {
  for (const name of await files()) await rm(join(store(), name));
}

it('is created again by no command but rebuild, which all others suggest', async () => {
  await entrepot.stop();
  await lose();
  for (const args of [
    ['images'],
    ['gc'],
    ['check', 'team/app:v1'],
    ['pull', 'docker.io/library/none'],
    ['have'],
  ]) {
    const { code, stderr } = await entrepot.command(...args);
    expect([args, code, stderr]).toEqual([args, 1, expect.stringContaining('has lost its index')]);
    expect(stderr).toMatch(/entrepot restore.*entrepot rebuild/);
  }
  expect(await files()).toEqual([]);
  const rebuilt = (await entrepot.command('rebuild')).stdout;
  expect(rebuilt).toContain('2 blobs added');
  expect(rebuilt).toContain('restart any server that still has it open');
  expect(rebuilt).toContain('`entrepot tenant add`');
  expect((await entrepot.command('rebuild')).stdout).not.toContain('restart');
  // The operator knows that, so it is no error, and there is one thing left to do.
  expect(await entrepot.command('images')).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(
      /^entrepot: warning: no garbage is collected: run `entrepot gc --force` once everything that you need [^\n]*\n$/,
    ),
  });
  expect((await entrepot.command('gc')).stderr).not.toContain('entrepot rebuild');
});

it('is reported by readyz and status while no garbage is collected', async () => {
  await entrepot.stop();
  await lose();
  entrepot = await entrepot.startAgain();
  const said =
    'no garbage is collected, and no stored image evicted: the index is new, and blobs/ is not empty';
  expect(await readiness()).toEqual({ status: 200, text: expect.stringContaining(`ok\n${said}`) });
  expect((await entrepot.command('status')).stdout).toContain(`problem   ${said}`);
  expect((await entrepot.command('gc', '--force', '--dry-run')).code).toBe(0);
  expect((await readiness()).text).toContain(said);
  expect((await entrepot.command('gc', '--force')).code).toBe(0);
  expect(await readiness()).toEqual({ status: 200, text: 'ok\n' });
});

it('is reported by commands that list what is stored, once, and by no others', async () => {
  await entrepot.stop();
  await lose();
  entrepot = await entrepot.startAgain();
  const said = async (...args: string[]) => {
    const { stderr } = await entrepot.command(...args);
    return stderr.split('no garbage is collected').length - 1;
  };
  for (const args of [['images'], ['check', 'team/app:v1'], ['have']]) {
    expect([args, await said(...args)]).toEqual([args, 1]);
  }
  expect((await entrepot.command('images')).stderr).toMatch(/entrepot restore.*entrepot rebuild/);
  for (const args of [
    ['tenant', 'add', 'team-x'],
    ['pin', 'team/app:v1'],
    ['scrub'],
    ['rm', 'team/app:v1'],
  ]) {
    expect([args, await said(...args)]).toEqual([args, 0]);
  }
  // Its own error says so.
  expect(await said('gc')).toBe(1);
});

it('is noticed by the server that has it open, which serves what it knows and writes nothing more', async () => {
  const told = () =>
    entrepot
      .logs()
      .split('\n')
      .filter(line => line.includes('"msg":"the index') && line.includes('was removed while'));
  const aside = join(entrepot.folder, 'index.db');
  await rename(join(store(), 'index.db'), aside);
  await until('readyz to fail', SOON_MS, async () => (await readiness()).status === 503);
  expect((await readiness()).text).toMatch(/index\.db was removed .*entrepot restore.*entrepot rebuild/);
  expect([await pulled(), await pushed()]).toEqual([200, 503]);
  expect((await entrepot.command('status')).stdout).toMatch(/problem +the index .* was removed/);
  expect((await entrepot.command('images')).stderr).toContain('has lost its index');
  await new Promise(resolve => setTimeout(resolve, 3_000));
  expect(told()).toEqual([expect.stringContaining('"level":"error"')]);
  await rename(aside, join(store(), 'index.db'));
  await until('it to be back', SOON_MS, async () => (await readiness()).status === 200);
  expect([await pulled(), await pushed()]).toEqual([200, 201]);
});

it('is distinguished from another file in its place, and the server still stops properly', async () => {
  await lose();
  await writeFile(join(store(), 'index.db'), 'another');
  // It may have been noticed before the other file was there.
  await until('readyz to say so', SOON_MS, async () =>
    (await readiness()).text.includes('was replaced by another file'),
  );
  expect((await readiness()).status).toBe(503);
  expect([await pulled(), await pushed()]).toEqual([200, 503]);
  await entrepot.stop();
  expect(entrepot.exitCode).toBe(0);
  await lose();
  entrepot = await entrepot.startAgain();
  expect(await pulled()).toBe(404);
});

it('that was rebuilt under a running server has readyz, status and the log say that it has to be restarted', async () => {
  const restart = /index\.db was replaced .*Restart this process.*entrepot rebuild/;
  await lose();
  await until('readyz to fail', SOON_MS, async () => (await readiness()).status === 503);
  expect((await entrepot.command('rebuild')).stdout).toContain('2 blobs added');
  await until('readyz to say so', SOON_MS, async () => restart.test((await readiness()).text));
  expect((await readiness()).status).toBe(503);
  expect((await entrepot.command('status')).stdout).toMatch(
    new RegExp(`problem +the index ${restart.source}`),
  );
  const told = () =>
    entrepot
      .logs()
      .split('\n')
      .filter(line => restart.test(line));
  await until('the log to say so', SOON_MS, async () => told().length > 0);
  expect(told()).toEqual([expect.stringContaining('"level":"error"')]);
  await entrepot.stop();
  entrepot = await entrepot.startAgain();
  expect((await readiness()).text).toMatch(/^ok\nno garbage is collected/);
  for (const blob of [image.config, ...image.layers]) await pushBlob(entrepot.url, 'team/app', blob);
  expect(await pushed()).toBe(201);
});
