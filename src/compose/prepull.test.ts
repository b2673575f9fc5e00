import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { imageOf, randomBlob } from '../../test/support/content.ts';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { loadConfig } from '../config/load.ts';
import { isOpenToAll } from '../grants/grants.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { silentMeter } from '../lib/meter.ts';
import { LastPulls } from '../prepull/last-pulls.ts';
import { openParts, type Parts } from './parts.ts';
import { meantImage, Prepull, pullMeant } from './prepull.ts';

let folder: string;
let upstream: FakeUpstream;
let parts: Parts;
let prepull: Prepull | undefined;
let clock: ManualClock;
/** `entrepot_prepull_failing`. */
let failing: number | undefined;
let lastPulls: LastPulls;

beforeEach(async () => {
  folder = await makeTempFolder('prepull');
  upstream = await FakeUpstream.start();
  for (const name of ['app', 'listed']) upstream.add(name, imageOf([randomBlob(1_000, name)]), 'v1');
  failing = undefined;
  lastPulls = new LastPulls();
});

afterEach(async () => {
  vi.useRealTimers();
  await prepull?.close();
  await parts.close();
  await upstream.stop();
  await removeFolder(folder);
});

const gauge = (name: string, value: number | undefined) => {
  if (name === 'prepull_failing') failing = value;
};
const observers = { log: silentLog, meter: { ...silentMeter, gauge } };

async function begin(named: object, log: Log = silentLog): Promise<void> {
  const overrides = {
    storage: { path: join(folder, 'store') },
    upstreams: { 'up.example': { url: upstream.url } },
    prepull: { schedule: '0 0 1 1 *', ...named },
  };
  clock = new ManualClock();
  parts = await openParts(await loadConfig({ env: {}, overrides }), observers, { clock });
  prepull = Prepull.begin(parts, { ...observers, log, lastPulls });
}

const asked = (repository: string) => upstream.count('manifest', { repository });

it('a file that cannot be read does not delay others, is counted, and is retried', async () => {
  const list = join(folder, 'list.txt');
  await begin({ images: ['up.example/app:v1'], from: [list] });
  await expect.poll(() => failing).toBe(1);
  const before = asked('app');
  expect(before).toBeGreaterThan(0);
  await writeFile(list, 'up.example/listed:v1\n');
  // The first wait of ImagePullBackOff.
  await clock.pass(10_000);
  await expect.poll(() => failing).toBe(0);
  expect(asked('listed')).toBeGreaterThan(0);
  expect(asked('app')).toBe(before);
  for (const name of ['app', 'listed'])
    expect(lastPulls.of(`up.example/${name}:v1`)).toEqual({ atMs: expect.any(Number), failure: undefined });
});

it('a failed image is no longer counted when it is not to be pulled any more', async () => {
  await begin({ images: ['up.example/none:v1'] });
  await expect.poll(() => failing).toBe(1);
  expect(lastPulls.of('up.example/none:v1')?.failure).toMatch(/responded 404/);
  expect(lastPulls.failing).toBe(1);
  await prepull?.close();
  expect([failing, lastPulls.failing]).toEqual([0, 0]);
});

it('malformed names and lists are logged with the reason alone', async () => {
  const list = join(folder, 'list.txt');
  await writeFile(list, 'up.example/app v1 linux\n');
  const logged: object[] = [];
  const record = (fields: object) => void logged.push(fields);
  await begin(
    { images: ['up.example/app:v1:2'], from: [list] },
    { ...silentLog, warn: record, error: record },
  );
  await expect.poll(() => failing).toBe(2);
  const malformed = 'invalid reference format: "up.example/app:v1:2"';
  expect(logged).toContainEqual({ image: 'up.example/app:v1:2', reason: malformed });
  expect(logged).toContainEqual({ reason: expect.stringContaining(`${list}:1: expected an image`) });
});

async function pull(reference: string, signal = new AbortController().signal): Promise<void> {
  const wanted = { name: `up.example/${reference}`, placements: [], platforms: new Set<string>() };
  await pullMeant(parts, meantImage(parts, wanted), {
    referrers: false,
    progress: { expect: () => {}, advance: () => {} },
    signal,
  });
}

describe('the proof that an image is public', () => {
  const WEEK_MS = 7 * 24 * 3_600_000;
  const open = imageOf([randomBlob(1_000, 'open')]);
  const closed = imageOf([randomBlob(1_000, 'closed')]);
  const auth = {
    scheme: 'bearer',
    users: { me: { password: 'p', repositories: ['open', 'closed'] } },
    public: ['open'],
  } as const;

  async function start(hasLogin: boolean): Promise<void> {
    // Before anything remembers how to tell the time.
    vi.useFakeTimers({ toFake: ['Date'] });
    await upstream.stop();
    upstream = await FakeUpstream.start({ auth });
    upstream.add('open', open, 'v1');
    upstream.add('closed', closed, 'v1');
    const passwordFile = join(folder, 'password');
    await writeFile(passwordFile, 'p');
    const login = hasLogin ? { credentials: { username: 'me', passwordFile } } : {};
    const overrides = {
      storage: { path: join(folder, 'store') },
      upstreams: { 'up.example': { url: upstream.url, ...login } },
    };
    parts = await openParts(await loadConfig({ env: {}, overrides }), observers);
  }

  const isPublic = (name: string, { manifest }: typeof open) =>
    isOpenToAll(parts.metadata, { upstream: 'up.example', name }, [manifest.digest], parts.config);

  function afterAWeek(): void {
    vi.setSystemTime(Date.now() + WEEK_MS);
  }

  it.each([false, true])('is renewed by a pull of what is stored (with a login: %s)', async hasLogin => {
    await start(hasLogin);
    const byDigest = `open@${open.manifest.digest}`;
    await pull('open:v1');
    expect(await isPublic('open', open)).toBe(true);
    afterAWeek();
    expect(await isPublic('open', open)).toBe(false);
    await pull(byDigest);
    expect(await isPublic('open', open)).toBe(true);
    // It is recent now, so nothing is asked.
    const before = upstream.count('manifest');
    await pull(byDigest);
    expect(upstream.count('manifest')).toBe(before);
  });

  it('is not made for what upstream gives to a login alone, or while it does not answer', async () => {
    await start(true);
    await pull('closed:v1');
    await pull('open:v1');
    expect(await isPublic('closed', closed)).toBe(false);
    afterAWeek();
    await pull(`closed@${closed.manifest.digest}`);
    expect(await isPublic('closed', closed)).toBe(false);
    await upstream.stop();
    await pull(`open@${open.manifest.digest}`);
    expect(await isPublic('open', open)).toBe(false);
  });

  it('is not waited for by a pull that is stopped', async () => {
    await start(false);
    await pull('open:v1');
    afterAWeek();
    upstream.misbehave({ kind: 'manifest', hang: true });
    const before = upstream.count('manifest');
    const stopping = new AbortController();
    const pulling = pull(`open@${open.manifest.digest}`, stopping.signal);
    await expect.poll(() => upstream.count('manifest')).toBeGreaterThan(before);
    stopping.abort(new Error('stopped'));
    await expect(pulling).rejects.toThrow('stopped');
  });
});
