// Tenants from a real Kubernetes API server: what kubectl does there counts here within seconds.
import { createPrivateKey } from 'node:crypto';
import { decodeJwt, importPKCS8, type JWTPayload, SignJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { get } from '../support/client.ts';
import { imageOf } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import {
  loginStatus,
  SOON_MS,
  soonHasSecrets,
  soonLogged,
  soonLogsIn,
  soonFollows,
  soonFollowsNothing,
  soonRefused,
  tenantAt,
} from '../support/logins.ts';
import { freePort, until } from '../support/programs.ts';
import { basic, type Login } from '../support/tenants.ts';

/** Its content is public. */
const UPSTREAM = 'up.example';

let cluster: KubeCluster;
let upstream: FakeUpstream;
let entrepot: Entrepot;
let host: string;

beforeAll(async () => {
  if (!HAS_CLUSTER) return;
  cluster = await KubeCluster.start();
  await cluster.kubectl('apply', '--kustomize', MANIFESTS);
  upstream = await FakeUpstream.start();
  upstream.add('app', imageOf([]), 'v1');
  host = `127.0.0.1:${await freePort()}`;
  entrepot = await Entrepot.start({
    server: { listen: host, serverNames: [host] },
    upstreams: { [UPSTREAM]: { url: upstream.url } },
    kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot') },
  });
});

afterAll(async () => {
  if (!HAS_CLUSTER) return;
  await entrepot.remove();
  await upstream.stop();
  await cluster.remove();
});

/** Two logins of a tenant, which nobody else has. */
function loginsOf(tenant: string): readonly [Login, Login] {
  return [
    [`first-of-${tenant}`, 'one'],
    [`second-of-${tenant}`, 'two'],
  ];
}

async function tokenOf(namespace: string, account: string, audience: string): Promise<Login> {
  return ['serviceaccount', await cluster.tokenOf(namespace, account, audience)];
}

describe.skipIf(!HAS_CLUSTER)('a namespace with the label', () => {
  test('is a tenant; its Secrets log in, in the order that its accounts name them; rotation and removal take effect', async () => {
    const [first, second] = loginsOf('team-a');
    await cluster.makeTenant('team-a');
    await cluster.putPullSecret('team-a', 'b-secret', host, first);
    await cluster.putPullSecret('team-a', 'a-secret', 'docker.io', ['for', 'docker']);
    await soonLogsIn(first, entrepot);
    await soonHasSecrets(entrepot, 'team-a', ['a-secret loaded', 'b-secret loaded']);

    const patch = JSON.stringify({ imagePullSecrets: [{ name: 'b-secret' }, { name: 'absent' }] });
    await cluster.kubectl('patch', 'serviceaccount', 'default', '--namespace', 'team-a', '--patch', patch);
    await soonHasSecrets(entrepot, 'team-a', ['b-secret loaded', 'absent missing', 'a-secret loaded']);

    await cluster.putPullSecret('team-a', 'b-secret', host, second);
    await soonLogsIn(second, entrepot);
    expect(await loginStatus(first, entrepot)).toBe(401);
    await cluster.kubectl('delete', 'secret', 'b-secret', '--namespace', 'team-a');
    await soonRefused(second, entrepot);
  });

  test('is a tenant while it has the label', async () => {
    const [login] = loginsOf('team-b');
    await cluster.kubectl('create', 'namespace', 'team-b');
    await cluster.putPullSecret('team-b', 'pull', host, login);
    expect(await loginStatus(login, entrepot)).toBe(401);
    await cluster.kubectl('label', 'namespace', 'team-b', 'entrepot=tenant');
    await soonLogsIn(login, entrepot);
    await cluster.kubectl('label', 'namespace', 'team-b', 'entrepot-');
    await soonRefused(login, entrepot);
    expect(await tenantAt(entrepot, 'team-b')).toBeUndefined();
  });

  test('that is created again is suspended until it is adopted', async () => {
    const [old, other] = loginsOf('team-c');
    await cluster.makeTenant('team-c');
    await cluster.putPullSecret('team-c', 'pull', host, old);
    await soonLogsIn(old, entrepot);
    await cluster.kubectl('delete', 'namespace', 'team-c');
    await soonRefused(old, entrepot);
    await until('the end of the tenant', SOON_MS, async () => !(await tenantAt(entrepot, 'team-c')));
    await cluster.makeTenant('team-c');
    await cluster.putPullSecret('team-c', 'pull', host, other);
    await until('the suspension', SOON_MS, async () => {
      const tenant = await tenantAt(entrepot, 'team-c');
      return tenant?.suspended !== undefined && tenant.secrets.length === 1;
    });
    expect(await loginStatus(other, entrepot)).toBe(401);
    expect((await entrepot.command('tenant', 'adopt', 'team-c')).code).toBe(0);
    await soonLogsIn(other, entrepot);
    expect(await loginStatus(old, entrepot)).toBe(401);
  });
});

describe.skipIf(!HAS_CLUSTER)('a ServiceAccount', () => {
  test('logs in with a token for this registry only, and not after it is deleted', async () => {
    await cluster.makeTenant('team-d');
    await cluster.kubectl('create', 'serviceaccount', 'robot', '--namespace', 'team-d');
    const good = await tokenOf('team-d', 'robot', host);
    await soonLogsIn(good, entrepot);
    const nowS = Math.floor(Date.now() / 1000);
    const signed = await signer(good[1]);
    expect(await loginStatus(['serviceaccount', await signed({})], entrepot)).toBe(200);
    const wrong: readonly string[] = [
      (await tokenOf('team-d', 'robot', 'registry.other'))[1],
      (await tokenOf('team-d', 'robot', 'https://kubernetes.default.svc.cluster.local'))[1],
      await signed({ iss: 'https://elsewhere.example' }),
      await signed({ iat: nowS - 7_200, nbf: nowS - 7_200, exp: nowS - 3_600 }),
      `${good[1].slice(0, -8)}AAAAAAAA`,
    ];
    for (const token of wrong) expect(await loginStatus(['serviceaccount', token], entrepot)).toBe(401);
    await cluster.kubectl('delete', 'serviceaccount', 'robot', '--namespace', 'team-d');
    await soonRefused(good, entrepot);
    await cluster.kubectl('create', 'serviceaccount', 'robot', '--namespace', 'team-d');
    await soonLogsIn(await tokenOf('team-d', 'robot', host), entrepot);
    expect(await loginStatus(good, entrepot)).toBe(401);
  });

  /** Signs what a token says once more with the cluster's own key, with other claims in it. */
  async function signer(token: string): Promise<(claims: JWTPayload) => Promise<string>> {
    const pem = createPrivateKey(await cluster.signingKey()).export({ type: 'pkcs8', format: 'pem' });
    const key = await importPKCS8(pem.toString(), 'RS256');
    return claims =>
      new SignJWT({ ...decodeJwt(token), ...claims }).setProtectedHeader({ alg: 'RS256' }).sign(key);
  }
});

describe.skipIf(!HAS_CLUSTER)('a malformed Secret', () => {
  const [login] = loginsOf('team-h');
  const [other] = loginsOf('team-i');

  /** Of public content, which takes no credential of the tenant. */
  async function pull(who: Login) {
    return get(`${entrepot.url}/v2/app/manifests/v1?ns=${UPSTREAM}`, { headers: basic(who) });
  }

  test('is reported, and has no effect until an account names it; then pulls of its namespace fail until it is corrected', async () => {
    await cluster.makeTenant('team-h');
    await cluster.makeTenant('team-i');
    await cluster.putPullSecret('team-h', 'good', host, login);
    await cluster.putPullSecret('team-i', 'good', host, other);
    // The API server looks whether it is JSON, and no further.
    const bad = JSON.stringify({ auths: { 'registry.example': { auth: 'no base64!' } } });
    const type = ['--type', 'kubernetes.io/dockerconfigjson', '--from-literal', `.dockerconfigjson=${bad}`];
    await cluster.kubectl('create', 'secret', 'generic', 'bad', ...type, '--namespace', 'team-h');
    await soonHasSecrets(entrepot, 'team-h', ['bad malformed', 'good loaded']);
    await soonLogged(/"secretName":"bad".*a Secret is malformed/, entrepot);
    expect(await entrepot.metrics()).toContain('entrepot_secrets{state="malformed"} 1');
    for (const who of [login, other]) expect((await pull(who)).status).toBe(200);

    const patch = JSON.stringify({ imagePullSecrets: [{ name: 'bad' }] });
    await cluster.kubectl('patch', 'serviceaccount', 'default', '--namespace', 'team-h', '--patch', patch);
    await until('the pull to fail', SOON_MS, async () => (await pull(login)).status === 503);
    expect((await pull(login)).text).toMatch(/team-h: the Secret bad is malformed/);
    expect((await pull(other)).status).toBe(200);
    expect(await loginStatus(login, entrepot)).toBe(200);

    await cluster.putPullSecret('team-h', 'bad', 'registry.example', ['mended', 'password']);
    await until('the pull to work', SOON_MS, async () => (await pull(login)).status === 200);
  });
});

describe.skipIf(!HAS_CLUSTER)('an unreachable cluster', () => {
  test('keeps its last known state, even for a server that starts meanwhile, and its changes take effect when it is back', async () => {
    const [before, after] = loginsOf('team-e');
    await cluster.makeTenant('team-e');
    await cluster.putPullSecret('team-e', 'pull', host, before);
    await soonLogsIn(before, entrepot);
    const printed = await entrepot.command('tenant', 'secret', 'team-e', '--server', host);
    const [, username = '', password = ''] = /--username (\S+) --password '(\S+)'/.exec(printed.stdout) ?? [];
    const issued: Login = [username, password];
    await soonLogsIn(issued, entrepot);

    const account = await tokenOf('team-e', 'default', host);
    await soonLogsIn(account, entrepot);

    await cluster.stop();
    await soonLogged(/the cluster cannot be watched/, entrepot);
    expect(await loginStatus(before, entrepot)).toBe(200);
    await soonFollowsNothing(entrepot);
    expect((await entrepot.command('tenants')).stdout).toMatch(/^cannot be watched: \w+ of 127.0.0.1/);

    await entrepot.stop();
    entrepot = await entrepot.startAgain();
    expect(await loginStatus(issued, entrepot)).toBe(200);
    expect(await loginStatus(before, entrepot)).toBe(200);
    expect(await loginStatus(account, entrepot)).toBe(200);
    await soonHasSecrets(entrepot, 'team-e', ['pull loaded']);
    expect((await get(`${entrepot.ops}/readyz`)).text).toMatch(/using its state of \S+Z/);
    await soonLogged(/its last known state stays in force/, entrepot);
    expect(entrepot.logs().match(/its last known state stays in force/g)).toHaveLength(1);
    expect(entrepot.logs()).not.toMatch(/cannot be read.*malformed/);

    await cluster.start();
    await soonLogsIn(before, entrepot);
    await soonFollows(entrepot);
    await cluster.putPullSecret('team-e', 'pull', host, after);
    await soonLogsIn(after, entrepot);
    expect(await loginStatus(before, entrepot)).toBe(401);
  });
});
