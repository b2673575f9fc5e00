import { expect, test, vi } from 'vitest';
import { type ProgressForm, ProgressView } from './progress.ts';

const MIB = 1024 * 1024;

function viewOf(form: ProgressForm, screen = { columns: 160, rows: 40 }) {
  const written = { out: '', err: '' };
  const clock = { ms: 0 };
  const io = {
    out: (text: string) => void (written.out += text),
    err: (text: string) => void (written.err += text),
    clear: (lines: number) => void (written.err += `\u001B[${lines}A\u001B[J`),
  };
  return {
    view: new ProgressView(
      io,
      form,
      () => clock.ms,
      () => screen,
    ),
    written,
    clock,
  };
}

test('without a terminal there is a line for each operation that ends', () => {
  const { view, written, clock } = viewOf('lines');
  const image = view.begin('nginx:1');
  image.expect(4 * MIB);
  image.advance(4 * MIB);
  clock.ms = 2000;
  image.end('done', 'all here');
  view.begin('redis:7').end('failed', 'not found');
  view.event({ event: 'summary' });
  view.close();
  expect(written).toEqual({ out: '', err: '✓ nginx:1: all here (4.0 MiB in 2.0 s)\n✗ redis:7: not found\n' });
});

test('with --json there is one JSON object per line on standard output', () => {
  const { view, written, clock } = viewOf('json');
  const image = view.begin('nginx:1');
  image.advance(10);
  clock.ms = 5;
  image.end('done', 'all here');
  view.event({ event: 'summary', pulled: 1 });
  view.close();
  const events = written.out
    .trim()
    .split('\n')
    .map((line): unknown => JSON.parse(line));
  expect(events).toEqual([
    { event: 'begin', name: 'nginx:1' },
    { event: 'done', name: 'nginx:1', bytes: 10, ms: 5, text: 'all here' },
    { event: 'summary', pulled: 1 },
  ]);
  expect(written.err).toBe('');
});

test('on a terminal bars are redrawn below messages, and leave nothing behind', () => {
  const { view, written, clock } = viewOf('bars');
  const image = view.begin('nginx:1');
  image.expect(4 * MIB);
  image.advance(MIB);
  clock.ms = 4000;
  view.say('a warning');
  expect(written.err).toContain('a warning\n  nginx:1');
  expect(written.err).toContain('██████░░░░░░░░░░░░░░░░░░ 1.0 MiB of 4.0 MiB, 256 KiB/s, 12 s left\n');
  image.end('done', 'all here');
  expect(written.err.endsWith('\u001B[1A\u001B[J✓ nginx:1: all here (1.0 MiB in 4.0 s)\n')).toBe(true);
  view.close();
});

test('what is written meanwhile stays above the bars', () => {
  const { view, written } = viewOf('bars');
  view.begin('nginx:1');
  view.io.err('a warning\n');
  view.io.out('a result\n');
  view.close();
  // Each bar is cleared before anything else is written.
  const bar = `  ${'nginx:1'.padEnd(48)} 0 B, 0 B/s\n\u001B[1A\u001B[J`;
  expect(written).toEqual({ out: 'a result\n', err: `a warning\n${bar}${bar}` });
});

test('the time left is estimated from the recent rate, and only once that means something', () => {
  const { view, written, clock } = viewOf('bars');
  const item = view.begin('blobs checked');
  item.expect(1000 * MIB);
  const told = () => {
    written.err = '';
    view.say('now');
    return /([\d.]+ [KM]?i?B)\/s(?:, (\d+) s left)?/.exec(written.err)?.slice(1);
  };
  item.advance(100 * MIB);
  clock.ms = 500;
  expect(told()).toEqual(['200 MiB', undefined]);
  // Then it goes at 1 MiB/s.
  for (let second = 1; second <= 60; second += 1) {
    clock.ms = second * 1000;
    item.advance(MIB);
  }
  expect(told()).toEqual(['1.0 MiB', '840']);
  // And stands still.
  clock.ms = 120_000;
  expect(told()).toEqual(['0 B', undefined]);
});

test('bars fit the terminal: no line wraps or scrolls away, so they can be cleared', () => {
  const { view, written } = viewOf('bars', { columns: 50, rows: 5 });
  const names = Array.from({ length: 6 }, (_, n) => `registry.example/a/very/long/name/of/an/image:${n}`);
  for (const name of names) view.begin(name).expect(1023 * MIB);
  view.say('drawn');
  const lines = written.err.trimEnd().split('\n').slice(1);
  expect(lines).toHaveLength(4);
  expect(lines.at(-1)).toBe('  and 3 more');
  for (const line of lines) expect(line.length).toBeLessThan(50);
  expect(lines[0]).toMatch(/ …an\/image:0 |…[^ ]*image:0 /);
  view.close();
  expect(written.err.endsWith('\u001B[4A\u001B[J')).toBe(true);
});

test('on a terminal of eighty columns the steps of upkeep have their whole names', () => {
  const { view, written } = viewOf('bars', { columns: 80, rows: 24 });
  view.begin('blobs checked').expect(MIB);
  view.begin('unfinished transfers');
  view.say('drawn');
  expect(written.err).toMatch(/\n {2}blobs checked +░{10} /);
  expect(written.err).toContain('\n  unfinished transfers ');
  view.close();
});

test('without a known end there are figures and no bar', () => {
  const { view, written, clock } = viewOf('bars');
  const blobs = view.begin('blobs');
  blobs.advance(MIB, 3);
  clock.ms = 1000;
  view.say('a warning');
  blobs.drop();
  view.say('another');
  view.close();
  expect(written.err).toMatch(/ {2}blobs +3, 1\.0 MiB, 1\.0 MiB\/s\n/);
  expect(written.err.endsWith('another\n')).toBe(true);
});

test('without a terminal a line now and then shows that it continues', () => {
  vi.useFakeTimers();
  try {
    const { view, written, clock } = viewOf('lines');
    const image = view.begin('nginx:1');
    image.expect(4 * MIB);
    image.advance(MIB);
    clock.ms = 10_000;
    vi.advanceTimersByTime(10_000);
    expect(written.err).toBe('  nginx:1: 1.0 MiB of 4.0 MiB, 102 KiB/s, 30 s left\n');
    view.close();
    vi.advanceTimersByTime(60_000);
    expect(written.err.split('\n')).toHaveLength(2);
  } finally {
    vi.useRealTimers();
  }
});
