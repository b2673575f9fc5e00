import { assert, maxSafeNat, nat, property } from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SEED } from '../../test/support/chance.ts';
import {
  formatDiskShare,
  formatDuration,
  formatSize,
  parseDiskShare,
  parseDuration,
  parseInterval,
  parseRate,
  parseSize,
  UnitError,
} from './units.ts';

describe('durations', () => {
  it.each([
    ['500ms', 500],
    ['90s', 90_000],
    ['1.5s', 1500],
    ['1m', 60_000],
    ['10m', 600_000],
    ['24h', 86_400_000],
    ['1h30m', 5_400_000],
    ['7d', 604_800_000],
    ['0s', 0],
  ])('reads %s', (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  it.each(['', '10', '10 m', 'm', '1y', '-1s', '1m1h', '1.5ms', '1e3s', '99999999999999999d'])(
    'refuses %j',
    text => {
      expect(() => parseDuration(text)).toThrow(UnitError);
      expect(() => parseDuration(text)).toThrow(/500ms, 90s/);
    },
  );

  it('reads what it wrote', () => {
    assert(
      property(nat(), ms => parseDuration(formatDuration(ms)) === ms),
      { seed: SEED },
    );
    expect(formatDuration(5_400_000)).toBe('1h30m');
  });
});

describe('sizes', () => {
  it.each([
    ['200GiB', 200 * 2 ** 30],
    ['4MiB', 4 * 2 ** 20],
    ['64KB', 64_000],
    ['64kb', 64_000],
    ['1.5GiB', 1.5 * 2 ** 30],
    ['1 TB', 1e12],
    ['0B', 0],
  ])('reads %s', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(['', '10', '10xyz', 'GiB', '-1B', '0.3B', '1PiB', '10GiBB'])('refuses %j', text => {
    expect(() => parseSize(text)).toThrow(UnitError);
  });

  it('reads back what it wrote', () => {
    assert(
      property(maxSafeNat(), bytes => parseSize(formatSize(bytes)) === bytes),
      { seed: SEED },
    );
    expect(formatSize(200 * 2 ** 30)).toBe('200GiB');
    expect(formatSize(64_000)).toBe('64KB');
  });
});

describe('shares of a disk', () => {
  it('are a size or a percentage', () => {
    expect(parseDiskShare('5GiB')).toEqual({ bytes: 5 * 2 ** 30 });
    expect(parseDiskShare('0B')).toEqual({ bytes: 0 });
    expect(parseDiskShare('2.5%')).toEqual({ percent: 2.5 });
    expect(['5GiB', '2.5%'].map(text => formatDiskShare(parseDiskShare(text)))).toEqual(['5GiB', '2.5%']);
  });

  it.each(['', '5', '100%', '-1%', '5 %', '%', 'all'])('refuses %j', text => {
    expect(() => parseDiskShare(text)).toThrow('a share of the disk such as 5%');
  });
});

describe('intervals', () => {
  it('are durations of more than 0', () => {
    expect(parseInterval('90s')).toBe(90_000);
    expect(() => parseInterval('0s')).toThrow('more than 0s');
    expect(() => parseInterval('often')).toThrow(UnitError);
  });
});

describe('rates', () => {
  it('are sizes per second of more than 0', () => {
    expect(parseRate('16MiB')).toBe(16 * 2 ** 20);
    expect(() => parseRate('0B')).toThrow(UnitError);
    expect(() => parseRate('0MiB')).toThrow('more than 0B');
    expect(() => parseRate('fast')).toThrow(UnitError);
  });
});
