import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { imageOf, randomBlob } from '../../test/support/content.ts';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { loadConfig } from '../config/load.ts';
import { silentLog } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import { openParts, type Parts } from './parts.ts';
import { Prepull } from './prepull.ts';

let folder: string;
let upstream: FakeUpstream;
let parts: Parts;
let prepull: Prepull | undefined;
/** `entrepot_prepull_failing`. */
let failing: number | undefined;

beforeEach(async () => {
  folder = await makeTempFolder('prepull');
  upstream = await FakeUpstream.start();
  for (const name of ['app', 'listed']) upstream.add(name, imageOf([randomBlob(1_000, name)]), 'v1');
  failing = undefined;
});

afterEach(async () => {
  await prepull?.close();
  await parts.close();
  await upstream.stop();
  await removeFolder(folder);
});

const gauge = (name: string, value: number | undefined) => {
  if (name === 'prepull_failing') failing = value;
};
const observers = { log: silentLog, meter: { ...silentMeter, gauge } };

async function begin(named: object): Promise<void> {
  const overrides = {
    storage: { path: join(folder, 'store') },
    upstreams: { 'up.example': { url: upstream.url } },
    prepull: { schedule: '0 0 1 1 *', ...named },
  };
  parts = await openParts(await loadConfig({ env: {}, overrides }), observers);
  prepull = Prepull.begin(parts, observers);
}

const asked = (repository: string) => upstream.count('manifest', { repository });

it('a file that cannot be read does not delay others, is counted, and is retried', {
  timeout: 60_000,
}, async () => {
  const list = join(folder, 'list.txt');
  await begin({ images: ['up.example/app:v1'], from: [list] });
  await vi.waitFor(() => expect(failing).toBe(1), 20_000);
  const before = asked('app');
  expect(before).toBeGreaterThan(0);
  await writeFile(list, 'up.example/listed:v1\n');
  // The first wait of ImagePullBackOff is 10 s.
  await vi.waitFor(() => expect(failing).toBe(0), 20_000);
  expect(asked('listed')).toBeGreaterThan(0);
  expect(asked('app')).toBe(before);
});

it('a failed image is no longer counted when it is not to be pulled any more', async () => {
  await begin({ images: ['up.example/none:v1'] });
  await vi.waitFor(() => expect(failing).toBe(1), 20_000);
  await prepull?.close();
  expect(failing).toBe(0);
});
