import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { tenantGrantee } from '../grants/grants.ts';
import { silentLog } from '../lib/log.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { digestOf } from '../oci/digest.ts';
import { parseSecretManifests } from '../tenants/secret-manifest.ts';
import { runProgram } from './program.ts';

// Each command opens the store anew.
vi.setConfig({ testTimeout: 30_000 });

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'entrepot-tenant-'));
  writeFileSync(
    join(folder, 'entrepot.yaml'),
    'storage: {path: store}\nserver: {serverNames: registry.example:5000}\ntenants: [{name: configured}]\n',
  );
});

afterEach(() => rmSync(folder, { recursive: true }));

async function run(...argv: string[]) {
  let out = '';
  let err = '';
  const code = await runProgram([...argv, '--config', join(folder, 'entrepot.yaml')], {
    out: text => void (out += text),
    err: text => void (err += text),
  });
  return { code, out, err };
}

/** A configuration that is reached from other machines. */
function listen(server: string): void {
  const text = `storage: {path: store}\nserver: {listen: "0.0.0.0:5000", ${server}}\n`;
  writeFileSync(join(folder, 'entrepot.yaml'), text);
}

/** The one login in a printed manifest. */
function loginIn(manifest: string) {
  const [reading] = parseSecretManifests(manifest);
  if (reading?.result.state !== 'loaded') throw new Error(`expected a Secret: ${manifest}`);
  const { name, namespace, config } = reading.result.secret;
  return { name, namespace, logins: [...config] };
}

async function inStore<Result>(act: (store: MetadataStore) => Promise<Result>): Promise<Result> {
  const store = await openSqliteMetadataStore(join(folder, 'store', 'index.db'), { log: silentLog });
  try {
    return await act(store);
  } finally {
    await store.close();
  }
}

function issued() {
  return inStore(store => store.listIssuedCredentials());
}

test('a tenant is added once, and never under a name that means something else', async () => {
  expect(await run('tenant', 'add', 'team-a')).toMatchObject({ code: 0, out: 'team-a: added\n' });
  expect(await run('tenant', 'add', 'team-a')).toMatchObject({ code: 1, out: 'team-a: already exists\n' });
  const configured = { code: 1, out: 'configured: already exists\n' };
  expect(await run('tenant', 'add', 'configured')).toMatchObject(configured);
  expect(await inStore(store => store.listKnownTenants())).toHaveLength(1);
  const refused = await run('tenant', 'add', 'docker.io');
  expect(refused.code).toBe(2);
  expect(refused.err).toContain('already means the upstream docker.io');
  expect((await run('tenant', 'add', 'Team A')).code).toBe(2);
});

test('a namespace is adopted for an existing tenant, if there is a cluster', async () => {
  writeFileSync(
    join(folder, 'entrepot.yaml'),
    'storage: {path: store}\ntenants: [{name: team-a}]\nkubernetes: {namespaceSelector: entrepot=tenant}\n',
  );
  await run('tenant', 'add', 'team-b');
  const refused = await run('tenant', 'adopt', 'nobody');
  expect([refused.code, refused.err]).toEqual([
    1,
    expect.stringContaining('there is no tenant named nobody'),
  ]);
  expect(await run('tenant', 'adopt', 'team-b')).toMatchObject({ code: 0 });
});

test('no tenant is added if its password would be sent over plain HTTP, unless that is allowed', async () => {
  listen('opsListen: false');
  const refused = await run('tenant', 'add', 'team-a');
  expect(refused.code).toBe(2);
  expect(refused.err).toContain('team-a would send passwords over plain HTTP to server.listen');
  listen('allowPlainCredentials: true');
  expect(await run('tenant', 'add', 'team-a')).toMatchObject({ code: 0 });
  listen('opsListen: false');
  // A server that is started so after all says why it is not.
  const { code, err } = await run('serve');
  expect(code).toBe(2);
  expect(err).toMatch(
    /tenants: tenants added with entrepot tenant add \(team-a\) would send passwords over plain HTTP/,
  );
});

test('a credential is printed as a Secret manifest, and only its hash is stored', async () => {
  const { code, out } = await run('tenant', 'secret', 'configured', '--read-only', '--secret-name', 'pull');
  expect(code).toBe(0);
  const { name, namespace, logins } = loginIn(out);
  const [[server, { username, password }] = ['', { username: '', password: '' }]] = logins;
  expect({ name, namespace, server, username }).toEqual({
    name: 'pull',
    namespace: 'configured',
    server: 'registry.example:5000',
    username: 'configured',
  });
  expect(out).toContain(`docker login registry.example:5000 --username configured --password '${password}'`);
  const [kept] = await issued();
  expect(kept).toMatchObject({ tenant: 'configured', server, readOnly: true });
  expect(out).toContain(kept?.id);
  expect(JSON.stringify(kept)).not.toContain(password);
});

test.each([
  [['tenant', 'secret', 'nobody'], 1, 'entrepot tenant add nobody'],
  [['tenant', 'secret', 'configured', '--server', 'https://x'], 2, 'https://x is not a host'],
  [['tenant', 'secret', 'configured', '--server', '*.example'], 2, '*.example is not a host'],
  [['tenant', 'rotate', 'configured', '--overlap', 'soon'], 2, '--overlap: expected a duration'],
  [['tenant', 'rotate', 'configured', '--overlap', '100000000d'], 2, '--overlap: at most 3650d'],
  [['tenant', 'revoke', 'configured'], 2, '--credential ID, or --all'],
  [['tenant', 'revoke', 'configured', '--all'], 1, 'configured has no credentials that are still valid'],
  [['tenant', 'revoke', 'configured', '--credential', '00'], 1, 'has no such credential'],
  [['tenant', 'revoke', 'nobody', '--all'], 1, 'there is no tenant named nobody'],
  [['tenant', 'adopt', 'configured'], 1, 'has no cluster'],
  [['tenant', 'remove', 'configured'], 1, 'is in the configuration'],
  [['tenant', 'remove', 'nobody'], 1, 'there is no tenant named nobody'],
])('%j is refused, and says what to do', async (argv, code, message) => {
  await run('tenant', 'add', 'other');
  const refused = await run(...argv);
  expect(refused.code).toBe(code);
  expect(refused.err).toContain(message);
});

test('rotation ends the earlier credentials later, and revoking ends them at once', async () => {
  await run('tenant', 'secret', 'configured', '--server', 'registry.example:5000/configured');
  await run('tenant', 'secret', 'configured');
  const before = Date.now();
  const { code, err } = await run('tenant', 'rotate', 'configured', '--overlap', '24h');
  expect(code).toBe(0);
  expect(err).toContain('end in 1d');
  const [bounded, old, next] = await issued();
  expect(bounded?.endsAtMs).toBe(Number.POSITIVE_INFINITY);
  expect(old?.endsAtMs).toBeGreaterThanOrEqual(before + 86_400_000);
  expect(next?.endsAtMs).toBe(Number.POSITIVE_INFINITY);

  expect((await run('tenant', 'revoke', 'configured', '--credential', next?.id ?? '')).code).toBe(0);
  const ended = (await issued()).filter(({ endsAtMs }) => endsAtMs <= Date.now());
  expect(ended.map(({ id }) => id)).toEqual([next?.id]);
  expect((await run('tenant', 'revoke', 'configured', '--all')).out.split('\n')).toHaveLength(3);
});

test('a tenant is removed with its repositories, credentials and preloads, unless --dry-run is given', async () => {
  await run('tenant', 'add', 'team-a');
  await run('tenant', 'add', 'team-ab');
  await run('tenant', 'secret', 'team-a');
  await run('tenant', 'secret', 'team-ab');
  const digest = digestOf(Buffer.from('anything'));
  const mirrored = { upstream: 'docker.io', name: 'library/nginx' };
  await inStore(async store => {
    for (const name of ['team-a/app', 'team-a/deep/app', 'team-ab/app']) {
      await store.linkBlob({ upstream: '', name }, digest, 8);
    }
    const imported = { manifests: [], blobs: [{ digest, size: 8 }] };
    await store.putBlob(digest, 8);
    for (const tenant of ['team-a', 'team-ab']) {
      await store.putContent(mirrored, { ...imported, grantee: tenantGrantee(tenant) }, 1);
    }
  });
  const left = () =>
    inStore(async store => ({
      tenants: (await store.listKnownTenants()).map(({ name }) => name),
      repositories: (await store.listRepositories('', { limit: 10, after: undefined })).entries,
      live: (await store.listIssuedCredentials())
        .filter(({ endsAtMs }) => endsAtMs > Date.now())
        .map(({ tenant }) => tenant),
      preloads: (await store.listPreloads(mirrored)).map(({ grantee }) => grantee),
    }));
  const before = await left();
  const tried = await run('tenant', 'remove', 'team-a', '--dry-run');
  expect(tried.code).toBe(0);
  expect(tried.out).toMatch(
    /^\w{32}: would be revoked \(registry.example:5000\)\nteam-a\/app: would be removed\nteam-a\/deep\/app: would be removed\nteam-a: would be removed, with .* in its repositories\n$/,
  );
  vi.stubEnv('ENTREPOT_HOSTED__DELETE', 'false');
  const refused = await run('tenant', 'remove', 'team-a');
  vi.unstubAllEnvs();
  expect(refused).toMatchObject({ code: 1, err: expect.stringContaining('hosted.delete') });
  expect(await left()).toEqual(before);

  const done = await run('tenant', 'remove', 'team-a');
  expect(done).toMatchObject({ code: 0, out: expect.stringMatching(/\nteam-a: removed, with/) });
  expect(await left()).toEqual({
    tenants: ['team-ab'],
    repositories: ['team-ab/app'],
    live: ['team-ab'],
    preloads: [tenantGrantee('team-ab')],
  });
});

test('a login for a name under which nobody may push is issued with a warning', async () => {
  await run('tenant', 'add', 'team-a');
  const other = await run('tenant', 'secret', 'team-a', '--server', 'registry.exmaple:5000/team-a');
  expect([other.code, other.err]).toEqual([
    0,
    'entrepot: warning: "registry.exmaple:5000" is not a name of this registry: add it to server.serverNames, or use one that is\n',
  ]);
  for (const name of ['registry.example:5000', '192.0.2.7:5000', 'localhost:5000']) {
    expect(await run('tenant', 'secret', 'team-a', '--server', name)).toMatchObject({ code: 0, err: '' });
  }
});
