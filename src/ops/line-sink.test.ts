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

test('lines stay whole if several processes write to one pipe', async () => {
  const path = join(folder, 'log');
  const fd = openSync(path, 'a');
  const sink = new LineSink(fd, () => {}, 1_000);
  const wholeLines = () => {
    const text = readFileSync(path, 'utf8');
    return text.endsWith('\n') || text === '';
  };
  for (let count = 0; count < 100; count += 1) sink.write(LINE);
  sink.write(`${'y'.repeat(2_000)}\n`);
  sink.write('last\n');
  await expect
    .poll(() => [wholeLines(), readFileSync(path, 'utf8')])
    .toEqual([true, `${LINE.repeat(100)}${'y'.repeat(2_000)}\nlast\n`]);
  sink.write(LINE);
  sink.write(LINE.repeat(10));
  sink.flush();
  expect(readFileSync(path, 'utf8').length).toBe(100 * 100 + 2_001 + 5 + 11 * 100);
  sink.close();
});
