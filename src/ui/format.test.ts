import { describe, expect, it } from 'vitest';
import {
  agoText,
  bytesText,
  exampleImage,
  namePieces,
  numberText,
  quantityText,
  rateText,
  shareText,
  shortDigest,
  shortImage,
  spanText,
} from './format.ts';

describe('numbers for people', () => {
  it('have the largest unit that leaves a whole part', () => {
    expect([0, 1, 1023, 1024, 1536, 200 * 1024, 5 * 2 ** 30, 3 * 2 ** 60].map(bytesText)).toEqual([
      '0 B',
      '1 B',
      '1023 B',
      '1.0 KiB',
      '1.5 KiB',
      '200 KiB',
      '5.0 GiB',
      '3072 PiB',
    ]);
    // Rounded, none of them is 1024 of a unit, or has a decimal place beyond 100.
    expect([2 ** 20 - 1, 2 ** 20, 99.96 * 1024, 1023.4 * 1024, 2 ** 30 - 1].map(bytesText)).toEqual([
      '1.0 MiB',
      '1.0 MiB',
      '100 KiB',
      '1023 KiB',
      '1.0 GiB',
    ]);
    expect(rateText(12.34 * 2 ** 20)).toBe('12.3 MiB/s');
    expect(numberText(1_234_567)).toBe('1,234,567');
    expect([0, 1, 1_000].map(count => quantityText(count, 'reader'))).toEqual([
      '0 readers',
      '1 reader',
      '1,000 readers',
    ]);
  });

  it('are never rounded to all or nothing', () => {
    expect([0, 0.0005, 0.004, 0.42, 0.994, 0.9951, 0.99999, 1].map(shareText)).toEqual([
      '0 %',
      '< 0.1 %',
      '0.4 %',
      '42 %',
      '99.4 %',
      '99.5 %',
      '> 99.9 %',
      '100 %',
    ]);
  });

  it('say when they are not known', () => {
    expect([
      bytesText(null),
      rateText(undefined),
      numberText(null),
      shareText(Number.NaN),
      spanText(null),
    ]).toEqual(Array(5).fill('–'));
  });
});

describe('times for people', () => {
  it('are spans in one unit, or two of a kind', () => {
    expect([0, 1.25, 9.96, 999, 999.6, 1000, 61_000, 600_000, 7_500_000, 90_000_000].map(spanText)).toEqual([
      '0 ms',
      '1.3 ms',
      '10 ms',
      '999 ms',
      '1 s',
      '1 s',
      '1 min 1 s',
      '10 min',
      '2 h 5 min',
      '1 d 1 h',
    ]);
  });

  it('are told from now', () => {
    const nowMs = 1_800_000_000_000;
    expect(
      [0, 4_000, 65_000, 7_300_000, -30_000, -3_599_500, -5_400_000].map(ms => agoText(nowMs - ms, nowMs)),
    ).toEqual(['just now', 'just now', '1 min ago', '2 h ago', 'in 30 s', 'in 1 h', 'in 1 h 30 min']);
  });
});

it('a name is broken at its components, and within one only if it is too long', () => {
  expect(namePieces('docker.io/library/nginx:1.27')).toEqual(['docker.io/', 'library/', 'nginx', ':1.27']);
  expect(namePieces('a:5000/b@sha256:12')).toEqual(['a', ':5000/', 'b', '@sha256:12']);
  expect(namePieces(`b@sha256:${'ab'.repeat(8)}`)).toEqual(['b', '@sha256:abababababab', 'abab']);
  const long = `${'x'.repeat(70)}//:${'é'.repeat(40)}\u{1F600}`;
  expect(namePieces(long).join('')).toBe(long);
  expect(Math.max(...namePieces(long).map(piece => piece.length))).toBeLessThanOrEqual(34);
  expect(namePieces('')).toEqual([]);
});

it('an example of an image is of a registry that is mirrored', () => {
  expect(exampleImage(['ghcr.io', 'docker.io'])).toBe('docker.io/library/alpine:latest');
  expect(exampleImage(['ghcr.io'])).toBe('ghcr.io/REPOSITORY:TAG');
  expect(exampleImage([])).toBeUndefined();
});

it('a digest is shortened to what tells it from others', () => {
  const digest = `sha256:${'ab'.repeat(32)}`;
  expect(shortDigest(digest)).toBe('sha256:abababababab');
  expect(shortImage(`up.example/app@${digest}`)).toBe('up.example/app@sha256:abababababab');
  expect(shortImage('up.example/app:v1')).toBe('up.example/app:v1');
});
