import { expect, test } from 'vitest';
import { formatYaml } from '../lib/yaml.ts';
import { dockerConfig, secretManifest } from './tenants.fixture.ts';
import { MalformedSecret } from './secret.ts';
import { MAX_SECRETS_PER_FILE, parseSecretManifests } from './secret-manifest.ts';
import type { SecretReading } from './secret-source.ts';

/** Name → user names by key, or the reason. */
function summary(readings: readonly SecretReading[]): Record<string, unknown> {
  const summaries = readings.map(({ name, result }) => [
    name,
    result.state === 'loaded'
      ? Object.fromEntries([...result.secret.config].map(([key, { username }]) => [key, username]))
      : result.reason,
  ]);
  return Object.fromEntries(summaries);
}

test('several documents, a List and a SecretList are read in order; other kinds and types are skipped', () => {
  const item = { ...secretManifest('in-secret-list', { d: 'u4:p' }), kind: undefined, apiVersion: undefined };
  const text = [
    secretManifest('first', { a: 'u1:p', b: 'u2:p' }),
    { kind: 'ConfigMap', apiVersion: 'v1', metadata: { name: 'other' } },
    { kind: 'List', apiVersion: 'v1', items: [secretManifest('in-list', { c: 'u3:p' })] },
    { kind: 'SecretList', apiVersion: 'v1', items: [item] },
    { ...secretManifest('opaque', { e: 'u5:p' }), type: 'Opaque' },
    null,
  ]
    .map(formatYaml)
    .join('---\n');
  expect(summary(parseSecretManifests(text))).toEqual({
    first: { a: 'u1', b: 'u2' },
    'in-list': { c: 'u3' },
    'in-secret-list': { d: 'u4' },
  });
});

test('JSON is read like YAML', () => {
  const manifest = secretManifest('json', { a: 'u:p' });
  const [reading] = parseSecretManifests(JSON.stringify(manifest, undefined, 2));
  expect(reading).toEqual(parseSecretManifests(formatYaml(manifest))[0]);
});

test('stringData overrides data', () => {
  const stringData = { '.dockerconfigjson': dockerConfig({ a: 'plain:p' }) };
  const text = formatYaml({ ...secretManifest('both', { a: 'encoded:p' }), stringData });
  expect(summary(parseSecretManifests(text))).toEqual({ both: { a: 'plain' } });
});

test('a malformed Secret is reported by name beside the good ones', () => {
  const bad = { ...secretManifest('bad', {}), data: { '.dockerconfigjson': '$' } };
  const worse = { ...secretManifest('worse', {}), stringData: { '.dockerconfigjson': '{"auths": []}' } };
  const nameless = { ...secretManifest('', { a: 'u:p' }) };
  const text = [secretManifest('good', { a: 'u:p' }), bad, worse, nameless].map(formatYaml).join('---\n');
  expect(summary(parseSecretManifests(text))).toEqual({
    good: { a: 'u' },
    bad: 'its data is not base64',
    worse: 'auths is not an object',
    'Secret 4': 'it has no name',
  });
});

test.each([
  ['nothing', '', /empty/],
  ['no Kubernetes object', 'just text', /document 1 of the file is not a Kubernetes object/],
  ['no Secret for pulls', 'kind: ConfigMap', /no pull secret/],
  ['no YAML', 'a: 1\nb: {"hunter2": ]', /not YAML.* in line 2/],
  ['an anchor that is missing', 'kind: *hunter2', /not YAML/],
  ['too much', `kind: Secret\nx: ${'y'.repeat(4 * 2 ** 20)}`, /exceeds a limit/],
])('a file of %s is malformed as a whole, and the reason shows nothing of it', (_what, text, reason) => {
  expect(() => parseSecretManifests(text)).toThrow(MalformedSecret);
  expect(() => parseSecretManifests(text)).toThrow(reason);
  expect(() => parseSecretManifests(text)).not.toThrow(/hunter2/);
});

test('a file with too many Secrets, and a Secret with too many registries, are malformed', () => {
  const items = Array.from({ length: MAX_SECRETS_PER_FILE + 1 }, (_, n) =>
    secretManifest(`s${n}`, { a: 'u:p' }),
  );
  expect(() => parseSecretManifests(JSON.stringify({ kind: 'List', items }))).toThrow(
    /more than 1000 Secrets/,
  );
  const logins = Object.fromEntries(Array.from({ length: 1001 }, (_, n) => [`r${n}.example`, 'u:p']));
  const many = parseSecretManifests(JSON.stringify(secretManifest('many', logins)));
  expect(summary(many)).toEqual({ many: 'it names more than 1000 registries' });
});
