// What the configuration wants to be here before a node asks for it, brought by the server itself.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const version = (seed: string) => imageOf([randomBlob(100_000, `prepull ${seed}`)]);

let upstream: FakeUpstream;
let folder: string;
let entrepot: Entrepot | undefined;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  folder = await makeTempFolder('prepull');
  for (const name of ['app', 'listed']) upstream.add(name, version(name), 'v1');
});

afterEach(async () => {
  await entrepot?.remove();
  entrepot = undefined;
  await upstream.stop();
  await removeFolder(folder);
});

async function serve(prepull: object, more: EntrepotConfig = {}): Promise<Entrepot> {
  const upstreams = { [UPSTREAM]: { url: upstream.url } };
  entrepot = await Entrepot.start({ upstreams, prepull, ...more });
  return entrepot;
}

const isHeld = async (server: Entrepot, image: string) =>
  (await server.command('check', `${UPSTREAM}/${image}`)).code === 0;
const fetched = () => upstream.count('blob', { method: 'GET' });

it('is pulled when the server starts, is fetched once, and is available when upstream is down', async () => {
  const list = join(folder, 'list.txt');
  await writeFile(list, `${UPSTREAM}/listed:v1\n`);
  const server = await serve({ images: [`${UPSTREAM}/app:v1`], from: [list], schedule: '0 0 1 1 *' });
  await until('both images', 60_000, async () => /"pulled":2/.test(server.logs()));
  expect(await isHeld(server, 'app:v1')).toBe(true);
  expect(await isHeld(server, 'listed:v1')).toBe(true);
  expect(server.logs()).toMatch(/"image":"up\.example\/listed:v1".*"bytes":100\d\d\d,.*"msg":"pulled ahead/);
  const before = fetched();
  expect(before).toBe(4);
  await server.stop();
  entrepot = await server.startAgain();
  await until('the second start', 60_000, async () => /"pulled":2/.test(entrepot?.logs() ?? ''));
  expect(fetched()).toBe(before);
  await upstream.stop();
  const url = `${entrepot.url}/v2/app/manifests/v1?ns=${UPSTREAM}`;
  expect((await get(url)).status).toBe(200);
});

it('is pulled again at the time of its schedule, despite failures', { timeout: 240_000 }, async () => {
  const server = await serve({
    images: [`${UPSTREAM}/none:v1`, `${UPSTREAM}/app:latest`, 'nowhere.example/x:1'],
    schedule: '* * * * *',
  });
  upstream.add('app', version('latest'), 'latest');
  await until('the first round', 60_000, async () => /"msg":"prepull has finished/.test(server.logs()));
  expect(server.logs()).toMatch(/"level":"warn".*"image":"up\.example\/none:v1"/);
  expect(server.logs()).toMatch(/"level":"warn".*"image":"nowhere\.example\/x:1"/);
  const moved = version('moved');
  upstream.add('app', moved, 'latest');
  await until('the next round', 150_000, async () => server.logs().includes(moved.manifest.digest));
  expect(await isHeld(server, `app@${moved.manifest.digest}`)).toBe(true);
});

it('delays neither the start nor the stop of the server', async () => {
  const behave = upstream.misbehave({ kind: 'manifest', hang: true });
  const missing = join(folder, 'missing.txt');
  const server = await serve({ images: [`${UPSTREAM}/app:v1`] });
  await until('the question', 60_000, async () => upstream.count('manifest') > 0);
  const stoppedMs = performance.now();
  await server.stop();
  expect(performance.now() - stoppedMs).toBeLessThan(10_000);
  expect(server.exitCode).toBe(0);
  behave();
  entrepot = await server.startAgain({
    upstreams: { [UPSTREAM]: { url: upstream.url } },
    prepull: { images: [`${UPSTREAM}/app:v1`], from: [missing] },
  });
  await until('the problem', 60_000, async () =>
    /"level":"error".*missing\.txt/.test(entrepot?.logs() ?? ''),
  );
});

it('is pulled by one of the processes on a store, and by the next when that one ends', async () => {
  const prepull = { images: [`${UPSTREAM}/app:v1`], schedule: '0 0 1 1 *' };
  const round = /"pulled":1,"failed":0/;
  const first = await serve(prepull);
  await until('the image', 60_000, async () => round.test(first.logs()));
  const asked = upstream.count('manifest');
  const upstreams = { [UPSTREAM]: { url: upstream.url } };
  const second = await Entrepot.start({ upstreams, prepull, storage: { path: join(first.folder, 'store') } });
  try {
    // Longer than it takes to look whether the first one is still there.
    await setTimeout(15_000);
    expect(second.logs()).not.toMatch(round);
    expect(upstream.count('manifest')).toBe(asked);
    await first.stop();
    await until('the second process', 60_000, async () => round.test(second.logs()));
    expect(fetched()).toBe(2);
  } finally {
    await second.remove();
  }
});

it('is counted, pulled or failed, and failures are retried', async () => {
  const server = await serve({
    images: [`${UPSTREAM}/late:v1`, `${UPSTREAM}/app:v1`],
    schedule: '0 0 1 1 *',
  });
  await until('the first round', 60_000, async () => /"pulled":1,"failed":1/.test(server.logs()));
  expect(await server.metrics()).toMatch(/^entrepot_prepull_failing 1$/m);
  expect(await server.metrics()).toMatch(/^entrepot_prepull_images_total\{outcome="failed"\} 1$/m);
  upstream.add('late', version('late'), 'v1');
  await until('the next attempt', 60_000, async () => /"pulled":1,"failed":0/.test(server.logs()));
  expect(await server.metrics()).toMatch(/^entrepot_prepull_failing 0$/m);
  expect(await server.metrics()).toMatch(/^entrepot_prepull_images_total\{outcome="pulled"\} 2$/m);
});

it('is pulled when a reload of the configuration names it', async () => {
  const server = await serve({ images: [] });
  const config = await readFile(server.configFile, 'utf8');
  await writeFile(server.configFile, config.replace('images: []', `images: [${UPSTREAM}/app:v1]`));
  process.kill(server.pid, 'SIGHUP');
  await until('the image', 60_000, async () => /"pulled":1,"failed":0/.test(server.logs()));
  expect(fetched()).toBe(2);
});

it('is left to entrepot pull if the schedule is false', async () => {
  const server = await serve({ images: [`${UPSTREAM}/app:v1`], schedule: false });
  expect(await server.command('pull', '--watch')).toMatchObject({ code: 2 });
  expect(upstream.requests).toEqual([]);
  expect(await server.command('pull')).toMatchObject({ code: 0 });
  expect(await isHeld(server, 'app:v1')).toBe(true);
});

it('does not happen while offline', async () => {
  const server = await serve({ images: [`${UPSTREAM}/app:v1`] }, { offline: true });
  expect(await isHeld(server, 'app:v1')).toBe(false);
  expect(upstream.requests).toEqual([]);
});
