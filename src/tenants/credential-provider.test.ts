import { expect, test } from 'vitest';
import * as provider from './credential-provider.ts';

// Matching, caching and both messages are in test/vectors/credential-provider.json; here is what they leave open.

const response = {
  kind: 'CredentialProviderResponse',
  apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
  cacheKeyType: 'Image',
};

const ecr = {
  name: 'ecr',
  apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
  matchImages: ['*.dkr.ecr.*.amazonaws.com'],
  defaultCacheDuration: '12h',
};

function configOf(...providers: unknown[]): unknown {
  return { apiVersion: 'kubelet.config.k8s.io/v1', kind: 'CredentialProviderConfig', providers };
}

test('a response may have no credentials and no duration', () => {
  const decoded = provider.decodeResponse(JSON.stringify(response));
  expect(decoded).toMatchObject({ cacheKeyType: 'Image', cacheMs: undefined, auth: new Map() });
});

test.each([
  ['an unknown member', { ...response, more: 1 }],
  ['a member in another case', { ...response, Auth: {} }],
  ['an unknown member of a credential', { ...response, auth: { x: { username: 'u', token: 't' } } }],
  ['a duration that is a number', { ...response, cacheDuration: 5 }],
  ['a duration without a unit', { ...response, cacheDuration: '5' }],
  ['a password that is no text', { ...response, auth: { x: { password: 1 } } }],
  ['another group', { ...response, apiVersion: 'v1' }],
  ['no object', []],
])('%s spoils an answer', (_what, answer) => {
  expect(() => provider.decodeResponse(JSON.stringify(answer))).toThrow(provider.InvalidCredentialProvider);
});

test('a duplicate member makes a response invalid', () => {
  const text = JSON.stringify(response).replace('}', ',"kind":"CredentialProviderResponse"}');
  expect(() => provider.decodeResponse(text)).toThrow(provider.InvalidCredentialProvider);
});

test('a response with a duration of 0 is used and not cached', () => {
  expect(provider.cachingOf({ cacheKeyType: 'Global', cacheMs: 0 }, 'reg/x', 1000)).toEqual({
    key: undefined,
    cacheMs: 0,
  });
  expect(provider.cachingOf({ cacheKeyType: 'Global', cacheMs: undefined }, 'reg/x', 1000)).toEqual({
    key: 'global',
    cacheMs: 1000,
  });
});

test('a configuration returns its plugins in order', () => {
  const env = [{ name: 'AWS_PROFILE', value: 'x' }];
  const second = { ...ecr, name: 'second', args: ['--verbose'], env };
  expect(provider.parseProviderConfig(configOf(ecr, second))).toEqual([
    {
      name: 'ecr',
      apiVersion: ecr.apiVersion,
      matchImages: ecr.matchImages,
      defaultCacheMs: 43_200_000,
      args: [],
      env: [],
    },
    {
      name: 'second',
      apiVersion: ecr.apiVersion,
      matchImages: ecr.matchImages,
      defaultCacheMs: 43_200_000,
      args: ['--verbose'],
      env,
    },
  ]);
});

test.each([
  ['no providers', configOf()],
  ['no document', undefined],
  ['another kind', { ...Object(configOf(ecr)), kind: 'Config' }],
  ['the same name twice', configOf(ecr, ecr)],
  ['a name that leaves the folder', configOf({ ...ecr, name: '../ecr' })],
  ['the folder above as a name', configOf({ ...ecr, name: '..' })],
  ['an unknown apiVersion', configOf({ ...ecr, apiVersion: 'v1' })],
  ['no patterns', configOf({ ...ecr, matchImages: [] })],
  ['a pattern that is none', configOf({ ...ecr, matchImages: ['%'] })],
  ['no default duration', configOf({ ...ecr, defaultCacheDuration: undefined })],
  ['a negative duration', configOf({ ...ecr, defaultCacheDuration: '-1m' })],
  ['a variable without a value', configOf({ ...ecr, env: [{ name: 'A' }] })],
  ['an unknown member', { ...Object(configOf(ecr)), provider: [] }],
  ['an unknown member of a plugin', configOf({ ...ecr, matchImage: ['reg.example'] })],
  ['an unknown member of a variable', configOf({ ...ecr, env: [{ name: 'A', value: 'b', valueFrom: {} }] })],
  ["pods' tokens", configOf({ ...ecr, tokenAttributes: {} })],
])('%s is no configuration', (_what, document) => {
  expect(() => provider.parseProviderConfig(document)).toThrow(provider.InvalidCredentialProvider);
});

test('all problems of a configuration are reported at once', () => {
  const document = configOf({ ...ecr, name: '', matchImages: [] });
  expect(() => provider.parseProviderConfig(document)).toThrow(/name .*; .*matchImages /);
});

test('an unknown member of a configuration is reported with its place', () => {
  const document = configOf(ecr, { ...ecr, name: 'second', env: [{ name: 'A', value: 'b', Value: 'c' }] });
  expect(() => provider.parseProviderConfig(document)).toThrow(
    /^providers\[1\]\.env\[0\]\.Value is unknown$/,
  );
});
