// Who a namespace and its accounts are, and what they may: what a namespace's admin can try against a real API server.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { loginStatus, soonLogged, soonLogsIn } from '../support/logins.ts';
import { freePort } from '../support/programs.ts';
import { basic, type Login } from '../support/tenants.ts';

let cluster: KubeCluster;
let entrepot: Entrepot;
let host: string;

beforeAll(async () => {
  if (!HAS_CLUSTER) return;
  cluster = await KubeCluster.start();
  await cluster.kubectl('apply', '--filename', MANIFESTS);
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

describe.skipIf(!HAS_CLUSTER)('a namespace that is called like a hosted prefix', () => {
  test('takes nothing over, and is told in the log, the list of tenants and a metric', async () => {
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
