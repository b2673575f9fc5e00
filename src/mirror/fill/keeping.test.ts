import { expect, test } from 'vitest';
import { Keeping } from './keeping.ts';

const FULL = Object.assign(new Error('no space left'), { code: 'ENOSPC' });
const REFUSED = Object.assign(new Error('permission denied'), { code: 'EACCES' });

function keepingAt(startMs: number) {
  const clock = { nowMs: startMs };
  return { clock, keeping: new Keeping(() => clock.nowMs) };
}

test('a folder that may not be written is a problem until a download is stored', () => {
  const { clock, keeping } = keepingAt(0);
  keeping.failed(REFUSED);
  clock.nowMs = 86_400_000;
  expect(keeping.problem).toContain('not stored (EACCES) since 1970-01-01T00:00:00');
  keeping.succeeded();
  expect(keeping.problem).toBeUndefined();
});

test('a full disk is a problem for as long as downloads meet it, since the first of them did', () => {
  const { clock, keeping } = keepingAt(0);
  for (const nowMs of [0, 59_999, 119_998]) {
    clock.nowMs = nowMs;
    keeping.failed(FULL);
  }
  clock.nowMs = 179_997;
  expect(keeping.problem).toContain('not stored (ENOSPC) since 1970-01-01T00:00:00');
  clock.nowMs += 1;
  expect(keeping.problem).toBeUndefined();
  keeping.failed(FULL);
  expect(keeping.problem).toContain('since 1970-01-01T00:02:59.998');
});
