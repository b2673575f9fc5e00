import { expect, test } from 'vitest';
import * as verification from './verification.ts';

// The kubelet's decisions are in test/vectors/pullrecords.json; here is what they leave open.

test('an allow-list is compared with the normalized name', () => {
  const policy = new verification.VerificationPolicy('NeverVerifyAllowlistedImages', [
    'docker.io/library/nginx',
    'reg.example/team/*',
  ]);
  const images = [
    'nginx',
    'nginx:1.27',
    'reg.example/team/a/b@sha256:' + '0'.repeat(64),
    'reg.example/teams/a',
    'NGINX',
  ];
  expect(images.map(image => policy.requires(image, false))).toEqual([false, false, false, true, true]);
});

test.each([
  ' reg.example/a',
  'reg.example/*/*',
  '/*',
  '',
  'reg.example/',
  'reg.example/a:1',
  'nginx',
  'reg.example/A',
])('an allow-list does not take %j', entry => {
  const build = () => new verification.VerificationPolicy('NeverVerifyAllowlistedImages', [entry]);
  expect(build).toThrow(verification.InvalidAllowlist);
});

test('empty members do not count in the hash of a credential', () => {
  const credential = { username: 'user', password: 'password', email: '' };
  expect(verification.credentialHash(credential)).toBe(
    verification.credentialHash({ username: 'user', password: 'password' }),
  );
  expect(verification.credentialHash({})).toMatch(/^44136fa355b3678a1146ad16f7e8649e/);
});
