import { expect, test } from 'vitest';
import type { Descriptor } from './descriptor.ts';
import { digestOf } from './digest.ts';
import { OciError } from './errors.ts';
import { OCI_MANIFEST } from './media-types.ts';
import * as platform from './platform.ts';

// Which children suit which host, and in which order, is in test/vectors/platform.json.

function child(specifier: string | undefined, annotations: Record<string, string> = {}): Descriptor {
  const bytes = Buffer.from(`${specifier}`);
  const known = specifier === undefined ? {} : { platform: platform.parsePlatform(specifier) };
  return { mediaType: OCI_MANIFEST, digest: digestOf(bytes), size: bytes.length, annotations, ...known };
}

test.each([
  ['linux/amd64', { os: 'linux', architecture: 'amd64' }, 'linux/amd64'],
  ['Linux/x86_64/v1', { os: 'linux', architecture: 'amd64' }, 'linux/amd64'],
  ['linux/arm', { os: 'linux', architecture: 'arm', variant: 'v7' }, 'linux/arm/v7'],
  ['linux/arm64/v8', { os: 'linux', architecture: 'arm64' }, 'linux/arm64'],
  ['macos/aarch64', { os: 'darwin', architecture: 'arm64' }, 'darwin/arm64'],
  [
    'windows/amd64:10.0.20348',
    { os: 'windows', architecture: 'amd64', 'os.version': '10.0.20348' },
    'windows/amd64:10.0.20348',
  ],
  [
    'windows(10.0.17763)/amd64',
    { os: 'windows', architecture: 'amd64', 'os.version': '10.0.17763' },
    'windows/amd64:10.0.17763',
  ],
  [
    'windows(10.0.17763+win32k+a)/amd64',
    { os: 'windows', architecture: 'amd64', 'os.version': '10.0.17763', 'os.features': ['a', 'win32k'] },
    'windows(10.0.17763+a+win32k)/amd64',
  ],
  [
    'linux(+nydus.remoteimage.v1)/arm/v6',
    { os: 'linux', architecture: 'arm', variant: 'v6', 'os.features': ['nydus.remoteimage.v1'] },
    'linux(+nydus.remoteimage.v1)/arm/v6',
  ],
  [
    'darwin(macOS%2013)/arm64',
    { os: 'darwin', architecture: 'arm64', 'os.version': 'macOS 13' },
    'darwin(macOS%2013)/arm64',
  ],
  [
    'linux(%2c%28+%c3%a4%2b%25)/amd64',
    { os: 'linux', architecture: 'amd64', 'os.version': ',(', 'os.features': ['ä+%'] },
    'linux(%2c%28+%c3%a4%2b%25)/amd64',
  ],
])('%s specifies a platform', (text, expected, canonical) => {
  expect(platform.parsePlatform(text)).toEqual(expected);
  expect(platform.formatPlatform(expected)).toBe(canonical);
  expect(platform.parsePlatform(canonical)).toEqual(expected);
});

test.each([
  '',
  'linux',
  '/amd64',
  'linux/',
  'linux/a/b/c',
  'linux/*',
  'linux/amd64:',
  'linux(%zz)/amd64',
  'linux(+)/amd64',
  `linux/${'a'.repeat(300)}`,
])('%j specifies none', text => {
  expect(() => platform.parsePlatform(text)).toThrow(OciError);
  expect(() => platform.parsePlatform(text)).toThrow(expect.objectContaining({ code: 'QUERY_INVALID' }));
});

test('Windows has a natural matcher of its own', () => {
  expect(platform.naturalMatcher(platform.parsePlatform('Windows/amd64'))).toBe('windows');
  expect(platform.naturalMatcher(platform.parsePlatform('linux/amd64'))).toBe('only');
});

test('an attestation is never chosen, whatever platform it claims', () => {
  const attestation = child('linux/amd64', { 'vnd.docker.reference.type': 'attestation-manifest' });
  const unknown = child('unknown/unknown');
  const bare = child(undefined, { 'vnd.docker.reference.type': 'attestation-manifest' });
  const children = [attestation, unknown, bare];
  expect(children.map(platform.isAttestation)).toEqual([true, true, true]);
  expect(platform.choosePlatform(children, platform.DEFAULT_PLATFORM)).toEqual([]);
  expect(platform.choosePlatform(children, platform.parsePlatform('unknown/unknown'))).toEqual([]);
});

test('a child without a platform is left out if its config has another one', () => {
  const bare = child(undefined);
  const wanted = platform.DEFAULT_PLATFORM;
  const arm = platform.parsePlatform('linux/arm64');
  expect(platform.choosePlatform([bare], wanted)).toEqual([bare]);
  expect(platform.choosePlatform([bare], wanted, 'only', () => wanted)).toEqual([bare]);
  expect(platform.choosePlatform([bare], wanted, 'only', () => arm)).toEqual([]);
});

test('an entry without an operating system matches every host', () => {
  const bare = { ...child(undefined), platform: { os: '', architecture: 'amd64' } };
  for (const host of ['linux/amd64', 'windows/amd64', 'freebsd/amd64']) {
    expect(platform.choosePlatform([bare], platform.parsePlatform(host))).toEqual([bare]);
  }
});

test('a variant that does not exist matches itself and is cheap', () => {
  const odd = child('linux/arm/v999999999');
  const children = [child('linux/arm/v7'), odd];
  expect(platform.choosePlatform(children, platform.parsePlatform('linux/arm/v999999999'))).toEqual([odd]);
});

test('win32k is no obstacle for a Windows host, another feature is', () => {
  const entry = child('windows/amd64:10.0.20348.1');
  const needs = (feature: string) => ({
    ...entry,
    platform: { ...platform.parsePlatform('windows/amd64'), 'os.features': [feature] },
  });
  const host = platform.parsePlatform('windows/amd64:10.0.20348');
  expect(platform.choosePlatform([needs('win32k')], host)).toHaveLength(1);
  expect(platform.choosePlatform([needs('other')], host)).toHaveLength(0);
});
