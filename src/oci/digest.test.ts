import { expect, test } from 'vitest';
import { digestAlgorithm, digestHex, digestOf, isDigest, parseDigest } from './digest.ts';
import { OciError } from './errors.ts';

const EMPTY = 'sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';

test('the digest of no bytes is the well-known one', () => {
  expect(digestOf(new Uint8Array())).toBe(EMPTY);
  expect(digestOf(new Uint8Array(), 'sha512')).toMatch(/^sha512:cf83e1357eefb8bd[0-9a-f]{112}$/);
});

test('a digest has an algorithm and hex', () => {
  const digest = parseDigest(EMPTY);
  expect(digestAlgorithm(digest)).toBe('sha256');
  expect(digestHex(digest)).toBe(EMPTY.slice('sha256:'.length));
  expect(digestAlgorithm(digestOf(new Uint8Array(), 'sha512'))).toBe('sha512');
});

test.each([
  ['nothing', ''],
  ['hex without an algorithm', EMPTY.slice(7)],
  ['upper-case hex', EMPTY.toUpperCase().replace('SHA256', 'sha256')],
  ['one digit too few', EMPTY.slice(0, -1)],
  ['one digit too many', `${EMPTY}0`],
  ["another algorithm's length", EMPTY.replace('sha256', 'sha512')],
  ['an algorithm that is not verified here', `md5:${'0'.repeat(32)}`],
  ['a path', 'sha256:../../../../etc/passwd'],
  ['a line break at the end', `${EMPTY}\n`],
])('%s is no digest', (_what, text) => {
  expect(isDigest(text)).toBe(false);
  expect(() => parseDigest(text)).toThrow(expect.objectContaining({ code: 'DIGEST_INVALID' }));
  expect(() => parseDigest(text)).toThrow(OciError);
});
