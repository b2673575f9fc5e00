// Secrets as they come and go: mounted, on the node, from plugins, issued here; and what people see of them.
import { chmod, mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parse } from 'yaml';
import { get } from '../support/client.ts';
import { imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { freePort } from '../support/programs.ts';
import { makeTempFolder } from '../support/temp-folder.ts';
import { basic, getAs, type Login, secretManifest } from '../support/tenants.ts';

const UP = 'up.example';
const TEAM: Login = ['team', 'password-of-team'];
const image = imageOf([randomBlob(50_000, 'layer')]);

const SOON = { interval: 100 };

const users = {
  own: { password: 'p', repositories: ['acme/app'] },
  next: { password: 'p', repositories: ['acme/app'] },
  node: { password: 'p', repositories: ['acme/of-node'] },
  plugin: { password: 'p', repositories: ['acme/of-plugin'] },
};

let upstream: FakeUpstream;
let entrepot: Entrepot;
let folder: string;
let host: string;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ auth: { scheme: 'bearer', users } });
  for (const name of ['acme/app', 'acme/of-node', 'acme/of-plugin']) upstream.add(name, image, '1');
  folder = await makeTempFolder('secrets');
  host = `127.0.0.1:${await freePort()}`;
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

async function start(config: Readonly<Record<string, unknown>>): Promise<void> {
  entrepot = await Entrepot.start(
    { upstreams: { [UP]: { url: upstream.url } }, ...config, server: { listen: host, serverNames: [host] } },
    { folder },
  );
}

function dockerConfig(logins: Readonly<Record<string, Login>>): string {
  const { data }: { data: Record<string, string> } = JSON.parse(secretManifest('x', logins));
  return Buffer.from(data['.dockerconfigjson'] ?? '', 'base64').toString();
}

let generation = 0;

/** Swaps what is mounted at `mount`, in one step, as the kubelet does. */
async function swapMounted(mount: string, logins: Readonly<Record<string, Login>>): Promise<void> {
  generation += 1;
  const data = `..generation_${generation}`;
  await mkdir(join(mount, data), { recursive: true });
  await writeFile(join(mount, data, '.dockerconfigjson'), dockerConfig(logins));
  await symlink(data, join(mount, '..data_tmp'));
  await rename(join(mount, '..data_tmp'), join(mount, '..data'));
  await symlink('..data/.dockerconfigjson', join(mount, '.dockerconfigjson')).catch(() => {});
  await rm(join(mount, `..generation_${generation - 1}`), { recursive: true, force: true });
}

const manifest = (name: string) => `${entrepot.url}/v2/${UP}/${name}/manifests/1`;

it('no valid login is refused while a mounted Secret is replaced under twenty clients', async () => {
  const mount = join(folder, 'mounted');
  await swapMounted(mount, { [host]: TEAM, [UP]: ['own', 'p'] });
  await start({ tenants: [{ name: 'team', secrets: mount, pullPolicy: 'Always' }] });
  const seen = new Set<number>();
  const over = new AbortController();
  const clients = Array.from({ length: 20 }, async () => {
    while (!over.signal.aborted) seen.add((await getAs(TEAM, manifest('acme/app'))).status);
  });
  for (const user of ['next', 'own', 'next']) {
    await swapMounted(mount, { [host]: TEAM, [UP]: [user, 'p'] });
    await new Promise(resolve => setTimeout(resolve, 500));
  }
  over.abort();
  await Promise.all(clients);
  expect([...seen]).toEqual([200]);
  await expect.poll(() => upstream.requests.some(({ username }) => username === 'next'), SOON).toBe(true);
});

it("the node's config and the kubelet's plugins serve tenants after their own Secrets", async () => {
  const binDir = join(folder, 'bin');
  await mkdir(binDir);
  const response = {
    kind: 'CredentialProviderResponse',
    apiVersion: 'credentialprovider.kubelet.k8s.io/v1',
    cacheKeyType: 'Registry',
    auth: { [UP]: { username: 'plugin', password: 'p' } },
  };
  await writeFile(join(binDir, 'plugin'), `#!/bin/sh\ncat >/dev/null\necho '${JSON.stringify(response)}'\n`);
  await chmod(join(binDir, 'plugin'), 0o755);
  const provider = {
    name: 'plugin',
    apiVersion: response.apiVersion,
    matchImages: [UP],
    defaultCacheDuration: '1h',
  };
  const providers = {
    apiVersion: 'kubelet.config.k8s.io/v1',
    kind: 'CredentialProviderConfig',
    providers: [provider],
  };
  await writeFile(join(folder, 'providers.json'), JSON.stringify(providers));
  await writeFile(join(folder, 'node.json'), dockerConfig({ [`${UP}/acme`]: ['node', 'p'] }));
  await writeFile(join(folder, 'team.json'), secretManifest('pull', { [host]: TEAM, [UP]: ['own', 'p'] }));
  await start({
    tenants: [{ name: 'team', secrets: 'team.json' }],
    nodeConfig: 'node.json',
    credentialProviders: { configFile: 'providers.json', binDir },
  });
  for (const name of ['acme/app', 'acme/of-node', 'acme/of-plugin']) {
    expect([name, (await getAs(TEAM, manifest(name))).status]).toEqual([name, 200]);
    expect((await get(manifest(name))).status).toBe(401);
  }
});

/** A new login of a tenant, as the command prints it. */
async function issued(tenant: string, verb: 'secret' | 'rotate' = 'secret'): Promise<Login> {
  const printed = await entrepot.command('tenant', verb, tenant);
  expect(printed.code).toBe(0);
  const secret: { stringData: Record<string, string> } = parse(printed.stdout);
  const { auths }: { auths: Record<string, { username: string; password: string }> } = JSON.parse(
    secret.stringData['.dockerconfigjson'] ?? '',
  );
  const { username = '', password = '' } = auths[host] ?? {};
  return [username, password];
}

const tokenStatus = async (login: Login) =>
  (await get(`${entrepot.url}/token?service=${host}`, { headers: basic(login) })).status;

it('a new login works as soon as it is printed, even the very first one', async () => {
  await start({});
  for (const tenant of ['team-a', 'team-b', 'team-c', 'team-d', 'team-e']) {
    expect((await entrepot.command('tenant', 'add', tenant)).code).toBe(0);
    expect(await tokenStatus(await issued(tenant))).toBe(200);
  }
  expect(await tokenStatus(await issued('team-a', 'rotate'))).toBe(200);
  expect(await tokenStatus(['team-a', 'entrepot_never-issued'])).toBe(401);
});

it('the last use of a login is known after a restart, and after a kill', async () => {
  await writeFile(join(folder, 'team.json'), secretManifest('pull', { [host]: TEAM, [UP]: ['own', 'p'] }));
  const config = { tenants: [{ name: 'team', secrets: 'team.json' }] };
  await start(config);
  const login = await issued('team');
  expect(await tokenStatus(login)).toBe(200);
  expect((await getAs(TEAM, manifest('acme/app'))).status).toBe(200);
  /** `USED` of the Secret and of the login, and `REFUSED` of the Secret. */
  const times = async () => {
    const { stdout } = await entrepot.command('tenants', '--json');
    const [{ secrets, issued: logins }] = JSON.parse(stdout).tenants;
    return [secrets[0].lastUsedAtMs, logins[0].lastUsedAtMs, secrets[0].lastRefusedAtMs];
  };
  const before = await times();
  expect(before).toEqual([expect.any(Number), expect.any(Number), undefined]);
  await entrepot.stop();
  entrepot = await entrepot.startAgain();
  expect(await times()).toEqual(before);
  upstream.misbehave({ kind: 'token', status: 401 });
  await getAs(TEAM, `${entrepot.url}/v2/${UP}/acme/other/manifests/1`);
  const after = await times();
  expect(after).toEqual([expect.any(Number), before[1], expect.any(Number)]);
  // It is written behind.
  await new Promise(resolve => setTimeout(resolve, 4_000));
  await entrepot.kill();
  entrepot = await entrepot.startAgain();
  expect(await times()).toEqual(after);
});

it('a credential that is issued beside the running server logs in, until it is revoked', async () => {
  await start({});
  expect((await entrepot.command('tenant', 'add', 'team-a')).code).toBe(0);
  const login = await issued('team-a');
  const password = login[1];
  const status = () => tokenStatus(login);
  expect(await status()).toBe(200);

  const listed = await entrepot.command('tenants');
  const [issuedAt, usedAt] = ['\\S+ \\d\\d:\\d\\d', '\\S+ \\d\\d:\\d\\d'];
  expect(listed.stdout).toMatch(new RegExp(`team-a +[0-9a-f]{32} +issued +live +${issuedAt} +${usedAt}`));
  expect(listed.stdout).not.toContain(password);
  expect((await entrepot.command('tenant', 'revoke', 'team-a', '--all')).code).toBe(0);
  await expect.poll(status, SOON).toBe(401);
  expect((await entrepot.command('tenants')).stdout).toMatch(/issued +ended/);
});

it('the state of Secrets is shown on the command line and in the metrics, without secrets', async () => {
  await writeFile(join(folder, 'good.json'), secretManifest('good', { [host]: TEAM, [UP]: ['own', 'p'] }));
  await writeFile(join(folder, 'bad.json'), '{"kind": "Secret", "hunter2"');
  await start({
    tenants: [
      { name: 'team', secrets: 'good.json' },
      { name: 'other', secrets: ['bad.json', 'absent'] },
    ],
  });
  expect((await getAs(TEAM, manifest('acme/app'))).status).toBe(200);
  const { code, stdout } = await entrepot.command('tenants');
  expect(code).toBe(0);
  expect(stdout).toMatch(
    /^team +good +file +loaded +\d{4}-\d\d-\d\d \d\d:\d\d +\d{4}-\d\d-\d\d \d\d:\d\d +never/m,
  );
  expect(stdout).toMatch(/^other +bad.json +file +malformed +never .*not YAML.* in line 1/m);
  expect(stdout).toMatch(/^other +absent +file +missing/m);
  const metrics = await entrepot.metrics();
  for (const line of [
    'entrepot_tenants 2',
    'entrepot_secrets{state="malformed"} 1',
    'entrepot_secrets{state="loaded"} 1',
  ])
    expect(metrics).toContain(line);
  for (const text of [stdout, metrics, entrepot.logs()]) expect(text).not.toMatch(/hunter2|password-of-team/);
  await entrepot.stop();
  expect(await entrepot.command('tenants')).toMatchObject({ code: 1 });
});

it('an unusable Secret is reported by commands that use it, once and with what to do, and by no others', async () => {
  const [broken, ours] = ['broken.yaml', 'ours.yaml'].map(name => join(folder, name));
  await writeFile(broken!, 'kind: Secret\nmetadata: {name: broken}\ntype: kubernetes.io/dockerconfigjson\n');
  await writeFile(ours!, secretManifest('ours', { [UP]: ['own', 'p'] }));
  const nodeConfig = join(folder, 'config.json');
  await writeFile(nodeConfig, 'not JSON');
  await start({
    nodeConfig,
    tenants: [
      { name: 'team', secrets: [ours, join(folder, 'absent.yaml')] },
      { name: 'other', secrets: broken },
    ],
  });
  const told = async (...args: string[]) => {
    const { stderr } = await entrepot.command(...args);
    return stderr.split('\n').filter(line => /Secret|Docker config/.test(line));
  };
  const ofNode = expect.stringMatching(/a node's Docker config is ignored: .*config\.json/);
  const absent = expect.stringMatching(/a Secret is missing: create it, .*absent\.yaml/);
  const malformed = expect.stringMatching(/a Secret is malformed: not used until corrected: .*broken/);
  const app = `${UP}/acme/app:1`;
  expect(await told('pull', app, '--tenant', 'team')).toEqual(expect.arrayContaining([ofNode, absent]));
  expect(await told('pull', app, '--tenant', 'team')).toHaveLength(2);
  expect(await told('pull', app, '--tenant', 'other')).toEqual(expect.arrayContaining([ofNode, malformed]));
  expect(await told('pull', app)).toEqual([ofNode]);
  for (const args of [
    ['images'],
    ['check', app],
    ['gc'],
    ['rm', app],
    ['tenant', 'add', 'third'],
    ['have'],
  ]) {
    expect([args, await told(...args)]).toEqual([args, []]);
  }
  expect(entrepot.logs()).toMatch(/a Secret is malformed/);
});
