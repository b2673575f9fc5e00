import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { FileSecretSource, type SecretPaths } from './file-secret-source.ts';
import { dockerConfig, mountSecret, secretManifest, WITHOUT_RESCAN } from './tenants.fixture.ts';
import type { TenantReading } from './secret-source.ts';

let folder: string;
let source: FileSecretSource | undefined;
const said = new Map<string, TenantReading>();

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-secrets-'));
  said.clear();
});

afterEach(async () => {
  await source?.close();
  await rm(folder, { recursive: true, force: true });
});

async function start(...tenants: SecretPaths[]): Promise<void> {
  source = new FileSecretSource(
    tenants.map(({ name, secrets }) => ({ name, secrets: secrets.map(path => join(folder, path)) })),
    silentLog,
    WITHOUT_RESCAN,
  );
  await source.start({
    put: (tenant, reading) => void said.set(tenant, reading),
    remove: tenant => void said.delete(tenant),
  });
}

/** Of each Secret its name and the user names in it, or how it is. */
function secretsOf(tenant: string): (readonly [name: string, what: string])[] {
  return (said.get(tenant)?.secrets ?? []).map(({ name, result }) => [
    name,
    result.state === 'loaded'
      ? [...result.secret.config.values()].map(({ username }) => username).join()
      : result.state,
  ]);
}

const SOON = { interval: 20 };

function write(path: string, content: object | string): Promise<void> {
  return writeFile(join(folder, path), typeof content === 'string' ? content : JSON.stringify(content));
}

test('manifests, mounted Secrets, bare files and folders of them are read in the order of the paths', async () => {
  await write('a.yaml', secretManifest('from-manifest', { r: 'u1:p' }));
  await mountSecret(join(folder, 'mounted'), dockerConfig({ r: 'u2:p' }));
  await mountSecret(join(folder, 'old'), '{"r": {"username": "u3", "password": "p"}}', '.dockercfg');
  await mountSecret(join(folder, 'all', 'second'), dockerConfig({ r: 'u5:p' }));
  await mountSecret(join(folder, 'all', 'first'), dockerConfig({ r: 'u4:p' }));
  await write('all/third.json', secretManifest('third', { r: 'u6:p' }));
  await write('all/README.md', 'no Secret');
  await write('config.json', dockerConfig({ r: 'u7:p' }));
  await start({ name: 't', secrets: ['old', 'mounted', 'a.yaml', 'all', 'config.json', 'nowhere'] });
  expect(secretsOf('t')).toEqual([
    ['old', 'u3'],
    ['mounted', 'u2'],
    ['from-manifest', 'u1'],
    ['first', 'u4'],
    ['second', 'u5'],
    ['third', 'u6'],
    [folder.split('/').at(-1), 'u7'],
    ['nowhere', 'missing'],
  ]);
});

test('every replacement of a mounted Secret is noticed, not only the first', async () => {
  await mountSecret(join(folder, 'mounted'), dockerConfig({ r: 'u0:p' }));
  await start({ name: 't', secrets: ['mounted'] });
  for (const round of [1, 2, 3]) {
    await mountSecret(join(folder, 'mounted'), dockerConfig({ r: `u${round}:p` }));
    await expect.poll(() => secretsOf('t'), SOON).toEqual([['mounted', `u${round}`]]);
  }
}, 30_000);

test('a file that is rewritten, replaced, created or removed is noticed', async () => {
  await write('a.yaml', secretManifest('a', { r: 'u1:p' }));
  await start({ name: 't', secrets: ['a.yaml', 'b.yaml'] });
  expect(secretsOf('t')).toEqual([
    ['a', 'u1'],
    ['b.yaml', 'missing'],
  ]);
  await write('a.yaml', secretManifest('a', { r: 'u2:p' }));
  await write('b.yaml', secretManifest('b', { r: 'u3:p' }));
  await expect
    .poll(() => secretsOf('t'), SOON)
    .toEqual([
      ['a', 'u2'],
      ['b', 'u3'],
    ]);
  await write('new.yaml', secretManifest('a', { r: 'u4:p' }));
  await rename(join(folder, 'new.yaml'), join(folder, 'a.yaml'));
  await rm(join(folder, 'b.yaml'));
  await expect
    .poll(() => secretsOf('t'), SOON)
    .toEqual([
      ['a', 'u4'],
      ['b.yaml', 'missing'],
    ]);
}, 30_000);

test('a Secret that is mounted later in a folder of Secrets is noticed, and followed', async () => {
  await mkdir(join(folder, 'all'));
  await start({ name: 't', secrets: ['all'] });
  await mountSecret(join(folder, 'all', 'late'), dockerConfig({ r: 'u1:p' }));
  await expect.poll(() => secretsOf('t'), SOON).toEqual([['late', 'u1']]);
  await mountSecret(join(folder, 'all', 'late'), dockerConfig({ r: 'u2:p' }));
  await expect.poll(() => secretsOf('t'), SOON).toEqual([['late', 'u2']]);
}, 30_000);

test('a malformed file makes the Secrets malformed that it contained, and other tenants are not affected', async () => {
  const two = { kind: 'List', items: ['one', 'two'].map(name => secretManifest(name, { r: `${name}:p` })) };
  await write('a.yaml', two);
  await mkdir(join(folder, 'b'));
  await write('b/b.yaml', secretManifest('b', { r: 'b:p' }));
  await start({ name: 't', secrets: ['a.yaml'] }, { name: 'other', secrets: ['b/b.yaml'] });
  const other = said.get('other');
  await write('a.yaml', '{ no Secret');
  await expect
    .poll(() => secretsOf('t'), SOON)
    .toEqual([
      ['one', 'malformed'],
      ['two', 'malformed'],
    ]);
  expect(said.get('t')?.secrets[0]).toMatchObject({ path: join(folder, 'a.yaml') });
  expect(said.get('other')?.secrets[0]).toBe(other?.secrets[0]);
  await write('a.yaml', two);
  await expect
    .poll(() => secretsOf('t'), SOON)
    .toEqual([
      ['one', 'one'],
      ['two', 'two'],
    ]);
}, 30_000);

test('malformed, oversized and special files at startup are reported with their reason, and stop nothing', async () => {
  await mountSecret(join(folder, 'bad'), '{"auths": {"r": {"auth": "hunter2"}}}');
  await write('large.json', 'x'.repeat(5 * 2 ** 20));
  execFileSync('mkfifo', [join(folder, 'pipe.yaml')]);
  await write('good.yaml', secretManifest('good', { r: 'u:p' }));
  await start({ name: 't', secrets: ['bad', 'large.json', 'pipe.yaml', 'good.yaml'] });
  expect(secretsOf('t')).toEqual([
    ['.dockerconfigjson', 'malformed'],
    ['large.json', 'malformed'],
    ['pipe.yaml', 'malformed'],
    ['good', 'u'],
  ]);
  const reasons = said.get('t')?.secrets.map(({ result }) => ('reason' in result ? result.reason : ''));
  expect(reasons?.[0]).toContain('auth is not base64');
  expect(reasons?.[0]).not.toContain('hunter2');
  expect(reasons?.[1]).toContain('larger than');
  expect(reasons?.[2]).toContain('is not a file');
});
