import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { LineSink } from './line-sink.ts';

const LINE = `${'x'.repeat(99)}\n`;

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-sink-'));
});

afterEach(() => rm(folder, { recursive: true }));

test('lines are written when there are many, and soon when there are few', async () => {
  const path = join(folder, 'log');
  const fd = openSync(path, 'a');
  const sink = new LineSink(fd, () => {});
  for (let count = 0; count < 1_000; count += 1) sink.write(LINE);
  await expect.poll(() => readFileSync(path).byteLength).toBeGreaterThanOrEqual(64 * 1024);
  await expect.poll(() => readFileSync(path, 'utf8')).toBe(LINE.repeat(1_000));
  sink.write('last\n');
  sink.flush();
  expect(readFileSync(path, 'utf8')).toBe(`${LINE.repeat(1_000)}last\n`);
  closeSync(fd);
});

test.skipIf(process.platform !== 'linux')(
  'a full disk has no other effect, and uses no more memory than a MiB',
  async () => {
    const fd = openSync('/dev/full', 'w');
    const onLost = vi.fn<(lines: number) => void>();
    const sink = new LineSink(fd, onLost);
    for (let count = 0; count < 20_000; count += 1) sink.write(LINE);
    sink.flush();
    await sleep(100);
    closeSync(fd);
    // The next file has its number, and room.
    const path = join(folder, 'log');
    writeFileSync(path, '');
    const again = openSync(path, 'a');
    expect(again).toBe(fd);
    await expect.poll(() => onLost.mock.calls.length).toBeGreaterThan(0);
    const kept = readFileSync(path, 'utf8').length / LINE.length;
    expect(kept).toBeGreaterThan(10_000);
    expect(kept).toBeLessThan(12_000);
    expect(onLost.mock.calls).toEqual([[20_000 - kept]]);
    closeSync(again);
  },
);
