import { writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { FolderWatch } from './folder-watch.ts';

/** How long changes are collected, and how often everything is read. */
const [DEBOUNCE_MS, RESCAN_MS] = [100, 10_000];
const SOON = { timeout: 20_000, interval: 20 };

let folder: string;
let watched: FolderWatch | undefined;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-watch-'));
});

afterEach(async () => {
  await watched?.close();
  await rm(folder, { recursive: true, force: true });
});

test('a folder that was removed or replaced is watched again after the next rescan', async () => {
  const inner = join(folder, 'inner');
  const calls: (ReadonlySet<string> | undefined)[] = [];
  const read = async (changed: ReadonlySet<string> | undefined) => {
    calls.push(changed);
    return [inner];
  };
  const clock = new ManualClock();
  watched = new FolderWatch(read, silentLog, clock);
  await watched.start();
  expect(calls).toEqual([undefined]);
  for (const round of ['made', 'made anew', 'replaced']) {
    if (round === 'replaced') await rename(inner, join(folder, 'away'));
    else await rm(inner, { recursive: true, force: true });
    await mkdir(inner);
    // After a rescan the new folder is watched: a change is told by its name, not only by a rescan.
    await vi.waitFor(async () => {
      await clock.advance(RESCAN_MS);
      expect(calls.at(-1)).toBeUndefined();
    }, SOON);
    calls.length = 0;
    // A change at the moment of a rescan is told by that alone, so there are several.
    await vi.waitFor(async () => {
      await writeFile(join(inner, round), '');
      await clock.advance(DEBOUNCE_MS);
      expect(calls.some(changed => changed?.has(inner))).toBe(true);
    }, SOON);
  }
});

test('many changes at once are one read, and a failed read is followed by others', async () => {
  let reads = 0;
  const read = async () => {
    reads += 1;
    if (reads === 2) throw new Error('once');
    return [folder];
  };
  watched = new FolderWatch(read, silentLog);
  await watched.start();
  await expect.poll(() => reads).toBe(2);
  for (let n = 0; n < 20; n++) writeFileSync(join(folder, `${n}`), '');
  await expect.poll(() => reads).toBeGreaterThan(2);
  expect(reads).toBeLessThan(8);
}, 15_000);
