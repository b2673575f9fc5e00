import { expect, it } from 'vitest';
import { digestOf } from './digest.ts';
import { ReadAhead } from './pull-read.ts';

const repository = { upstream: 'up.example', name: 'team/app' };
const digest = digestOf(Buffer.from('x'));
const manifest = { tag: undefined, manifest: undefined, isPreloaded: true, sinceMs: 0 };
const blob = { linkedSize: 1, storedSize: 1, isPreloaded: true };

it('what was read ahead is taken once', () => {
  const ofManifest = ReadAhead.ofManifest(repository, 'v1', manifest);
  expect(ofManifest.takeManifest({ ...repository }, 'v1')).toBe(manifest);
  expect(ofManifest.takeManifest(repository, 'v1')).toBeUndefined();
  const ofBlob = ReadAhead.ofBlob(repository, digest, blob);
  expect(ofBlob.takeBlob({ ...repository }, digest)).toBe(blob);
  expect(ofBlob.takeBlob(repository, digest)).toBeUndefined();
});

it.each([
  [{ ...repository, upstream: 'other.example' }, 'v1', digest],
  [{ ...repository, upstream: '' }, 'v1', digest],
  [{ ...repository, name: 'team/other' }, 'v1', digest],
  [repository, 'v2', digestOf(Buffer.from('y'))],
])('what was read ahead is not that of other content: %o %s', (other, reference, otherDigest) => {
  expect(ReadAhead.ofManifest(repository, 'v1', manifest).takeManifest(other, reference)).toBeUndefined();
  expect(ReadAhead.ofBlob(repository, digest, blob).takeBlob(other, otherDigest)).toBeUndefined();
});

it('a blob that was read ahead is no manifest, and the reverse', () => {
  expect(ReadAhead.ofBlob(repository, digest, blob).takeManifest(repository, digest)).toBeUndefined();
  expect(ReadAhead.ofManifest(repository, digest, manifest).takeBlob(repository, digest)).toBeUndefined();
});
