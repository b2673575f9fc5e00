import { expect, test } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { OCI_MANIFEST } from '../oci/media-types.ts';
import { ManifestCheck } from './manifest-check.ts';

const manifest = (bytes: Buffer, like = bytes) => ({
  digest: digestOf(like),
  mediaType: OCI_MANIFEST,
  bytes,
});

test('bytes that do not match the digest are found, even after correct ones', () => {
  const check = new ManifestCheck();
  const right = Buffer.from('{"a": 1}');
  expect(check.isSound(manifest(right))).toBe(true);
  expect(check.isSound(manifest(Buffer.from('{"a": 3}'), right))).toBe(false);
  expect(check.isSound(manifest(Buffer.alloc(0), right))).toBe(false);
  const bytes = Buffer.from('{"a": 5}');
  expect(check.isSound({ ...manifest(bytes), digest: digestOf(bytes, 'sha512') })).toBe(true);
});

test('a large manifest is hashed once a minute, and again at once after a mismatch', () => {
  let nowMs = 0;
  const check = new ManifestCheck(() => nowMs);
  const right = Buffer.alloc(100_000, 'x');
  const wrong = manifest(Buffer.alloc(100_000, 'y'), right);
  expect(check.isSound(wrong)).toBe(false);
  expect(check.isSound(manifest(right))).toBe(true);
  nowMs += 59_000;
  expect(check.isSound(wrong)).toBe(true);
  nowMs += 1_000;
  expect(check.isSound(wrong)).toBe(false);
  expect(check.isSound(wrong)).toBe(false);
});

test('the number of remembered manifests is limited', () => {
  const check = new ManifestCheck(() => 0);
  const all = Array.from({ length: 101 }, (_, at) => Buffer.alloc(10_000, String(at).padStart(3)));
  for (const bytes of all) expect(check.isSound(manifest(bytes))).toBe(true);
  const [first = Buffer.alloc(0), second = Buffer.alloc(0)] = all;
  expect(check.isSound(manifest(second.fill('?'), Buffer.alloc(10_000, '  1')))).toBe(true);
  expect(check.isSound(manifest(first.fill('?'), Buffer.alloc(10_000, '  0')))).toBe(false);
});
