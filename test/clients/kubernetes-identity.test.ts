// Who a namespace and its accounts are, and what they may: what a namespace's admin can try against a real API server.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { loginStatus, SOON_MS, soonLogged, soonLogsIn } from '../support/logins.ts';
import { freePort, until } from '../support/programs.ts';
import { basic, type Login } from '../support/tenants.ts';

let cluster: KubeCluster;
let entrepot: Entrepot;
let host: string;

beforeAll(async () => {
  if (!HAS_CLUSTER) return;
  cluster = await KubeCluster.start();
  await cluster.kubectl('apply', '--kustomize', MANIFESTS);
  host = `127.0.0.1:${await freePort()}`;
  entrepot = await Entrepot.start({
    server: { listen: host, serverNames: [host] },
    hosted: { prefixes: ['tools'], anonymous: 'push' },
    kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot') },
  });
  await cluster.makeTenant('team-a');
  await soonLogsIn(await tokenOf('team-a'), entrepot);
});

afterAll(async () => {
  if (!HAS_CLUSTER) return;
  await entrepot.remove();
  await cluster.remove();
});

/** By an account of the namespace, for this registry. */
async function tokenOf(namespace: string, account = 'default'): Promise<Login> {
  return ['serviceaccount', await cluster.tokenOf(namespace, account, host)];
}

/** What the beginning of a push is answered. */
async function pushStatus(repository: string, login?: Login): Promise<number> {
  const headers = login === undefined ? {} : basic(login);
  return (await get(`${entrepot.url}/v2/${repository}/blobs/uploads/`, { method: 'POST', headers })).status;
}

describe.skipIf(!HAS_CLUSTER)('the token of a ServiceAccount', () => {
  /** As who administers team-a: by a RoleBinding to what the ClusterRole `admin` is made of. */
  const AS_ADMIN = ['--as', 'admin-of-team-a', '--namespace', 'team-a'];

  beforeAll(async () => {
    for (const part of ['view', 'edit', 'admin']) {
      const role = ['--clusterrole', `system:aggregate-to-${part}`, '--user', 'admin-of-team-a'];
      await cluster.kubectl('create', 'rolebinding', part, ...role, '--namespace', 'team-a');
    }
  });

  test('may only pull; an admin of the cluster can change that, an admin of the namespace cannot', async () => {
    const login = await tokenOf('team-a');
    expect(await pushStatus('team-a/app', login)).toBe(403);
    const annotation = 'entrepot-push=serviceAccounts';
    await until('the rights of the admin', SOON_MS, async () => {
      const annotate = ['annotate', 'serviceaccount', 'default', annotation, ...AS_ADMIN];
      return (await cluster.tryKubectl(...annotate)).code === 0;
    });
    const refused = await cluster.tryKubectl('annotate', 'namespace', 'team-a', annotation, ...AS_ADMIN);
    expect(refused.stderr).toMatch(/cannot patch resource "namespaces"/);
    // Had it counted, it would have by the time that a later change counts.
    await cluster.putPullSecret('team-a', 'marker', host, ['marker', 'password']);
    await soonLogsIn(['marker', 'password'], entrepot);
    expect(await pushStatus('team-a/app', login)).toBe(403);
    expect((await get(`${entrepot.url}/v2/team-a/app/tags/list`, { headers: basic(login) })).status).toBe(
      404,
    );

    await cluster.kubectl('annotate', 'namespace', 'team-a', annotation);
    await until(
      'the push to be allowed',
      SOON_MS,
      async () => (await pushStatus('team-a/app', login)) === 202,
    );
    await cluster.kubectl('annotate', 'namespace', 'team-a', 'entrepot-push-');
    await until(
      'the push to be refused',
      SOON_MS,
      async () => (await pushStatus('team-a/app', login)) === 403,
    );
  });
});

describe.skipIf(!HAS_CLUSTER)('a new ServiceAccount', () => {
  /** Makes the account and a token of it for this registry within some milliseconds. */
  async function newAccount(namespace: string, name: string): Promise<Login> {
    const accounts = `/api/v1/namespaces/${namespace}/serviceaccounts`;
    await cluster.post(accounts, { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name } });
    const { status } = await cluster.post(`${accounts}/${name}/token`, {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenRequest',
      spec: { audiences: [host], expirationSeconds: 3_600 },
    });
    return ['serviceaccount', (status as { readonly token: string }).token];
  }

  test('logs in with its token at once', async () => {
    // What is slow about the first one is the connection.
    await newAccount('team-a', 'account-0');
    for (let n = 1; n <= 5; n += 1) {
      expect(await loginStatus(await newAccount('team-a', `account-${n}`), entrepot)).toBe(200);
    }
  });
});

describe.skipIf(!HAS_CLUSTER)('a namespace with the name of a hosted prefix', () => {
  test('gets nothing of the prefix, which the log, the list of tenants and a metric report', async () => {
    expect(await pushStatus('tools/app')).toBe(202);
    await cluster.makeTenant('tools');
    await soonLogged(/"tenant":"tools".*no tenant can have this name/, entrepot);
    const account = await tokenOf('tools');
    expect(await loginStatus(account, entrepot)).toBe(401);
    expect(await pushStatus('tools/app', account)).toBe(401);
    expect(await pushStatus('tools/app')).toBe(202);
    const listed = (await entrepot.command('tenants')).stdout;
    expect(listed).toMatch(/^tools +refused .*is one of hosted\.prefixes/m);
    expect(await entrepot.metrics()).toContain('entrepot_tenants_refused 1');
  });
});
