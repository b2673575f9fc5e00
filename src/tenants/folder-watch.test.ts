import { writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { FolderWatch } from './folder-watch.ts';

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
  watched = new FolderWatch(read, silentLog, 300);
  await watched.start();
  expect(calls).toEqual([undefined]);
  for (const round of ['made', 'made anew', 'replaced']) {
    if (round === 'replaced') await rename(inner, join(folder, 'away'));
    else await rm(inner, { recursive: true, force: true });
    await mkdir(inner);
    // Two rescans later the new folder is watched: a change is told by its name, not only by a rescan.
    const before = calls.length;
    await vi.waitFor(
      () => expect(calls.slice(before).filter(c => c === undefined).length).toBeGreaterThan(1),
      5000,
    );
    await new Promise(resolve => setTimeout(resolve, 150));
    calls.length = 0;
    // A change at the moment of a rescan is told by that alone, so there are several.
    await vi.waitFor(async () => {
      await writeFile(join(inner, round), '');
      expect(calls.some(changed => changed?.has(inner))).toBe(true);
    }, 5000);
  }
}, 30_000);

test('many changes at once are one read, and a failed read is followed by others', async () => {
  let reads = 0;
  const read = async () => {
    reads += 1;
    if (reads === 2) throw new Error('once');
    return [folder];
  };
  watched = new FolderWatch(read, silentLog);
  await watched.start();
  await vi.waitFor(() => expect(reads).toBe(2), 5000);
  for (let n = 0; n < 20; n++) writeFileSync(join(folder, `${n}`), '');
  await vi.waitFor(() => expect(reads).toBeGreaterThan(2), 5000);
  expect(reads).toBeLessThan(8);
}, 15_000);
