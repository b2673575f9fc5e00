import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { PacedLines } from './paced-lines.ts';

let lines: string[];
let paced: PacedLines<number>;

beforeEach(() => {
  vi.useFakeTimers();
  lines = [];
  paced = new PacedLines((key, { events, count }) => void lines.push(`${key} ${count}: ${events.join()}`));
});

afterEach(() => {
  paced.close();
  vi.useRealTimers();
});

describe('events of one key', () => {
  it('are reported at once if there was none for a minute, otherwise together at its end', () => {
    paced.note('a', 1);
    paced.note('b', 1);
    expect(lines).toEqual(['a 1: 1', 'b 1: 1']);
    for (let at = 2; at <= 60_000; at += 1) paced.note('a', at);
    expect(lines).toHaveLength(2);
    vi.advanceTimersByTime(60_000);
    expect(lines).toEqual(['a 1: 1', 'b 1: 1', 'a 59999: 2,3,4,5,6,7,8,9,10,11']);
    paced.note('b', 2);
    paced.note('a', 7);
    expect(lines.slice(3)).toEqual(['b 1: 2']);
    vi.advanceTimersByTime(60_000);
    expect(lines.slice(4)).toEqual(['a 1: 7']);
  });

  it('that come together are reported together, and at the end what was not reported yet', () => {
    paced.noteAll('a', [1, 2, 3]);
    paced.noteAll('a', []);
    paced.noteAll('a', [4]);
    paced.close();
    expect(lines).toEqual(['a 3: 1,2,3', 'a 1: 4']);
    vi.advanceTimersByTime(600_000);
    expect(lines).toHaveLength(2);
  });
});
