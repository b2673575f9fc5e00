// What a real cluster renews while Entrepot runs: the issuer of its tokens, their key, and its certificate.
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { loginStatus, soonFollows, soonLogged, soonLogsIn } from '../support/logins.ts';
import { freePort, until } from '../support/programs.ts';
import type { Login } from '../support/tenants.ts';

/** What is withdrawn ends no later than this, on a busy machine. */
const MINUTE_MS = 60_000;

describe.skipIf(!HAS_CLUSTER)('a cluster that renews', () => {
  let cluster: KubeCluster;
  let entrepot: Entrepot;
  let host: string;

  beforeAll(async () => {
    cluster = await KubeCluster.start();
    await cluster.kubectl('apply', '--kustomize', MANIFESTS);
    host = `127.0.0.1:${await freePort()}`;
    entrepot = await Entrepot.start({
      server: { listen: host, serverNames: [host] },
      kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot') },
    });
    await cluster.makeTenant('team-a');
  });

  afterAll(async () => {
    await entrepot.remove();
    await cluster.remove();
  });

  async function robotLogin(): Promise<Login> {
    return ['serviceaccount', await cluster.tokenOf('team-a', 'default', host)];
  }

  /** Starts the cluster again with another issuer, and gives Entrepot's own account a token of it, as the kubelet does. */
  async function restart(issuer: string, ...files: readonly string[]): Promise<void> {
    await cluster.stop();
    for (const file of files) await rm(join(cluster.folder, file));
    await cluster.start(`--service-account-issuer=${issuer}`);
    await cluster.kubeconfigOf('entrepot', 'entrepot');
  }

  async function endsWithinAMinute(login: Login): Promise<void> {
    await until('the old token to end', MINUTE_MS, async () => (await loginStatus(login, entrepot)) === 401);
  }

  test.each([
    ['the issuer of its tokens, by the old key', 'https://next.example', []],
    [
      'the key of its tokens and its certificate',
      'https://next.example',
      ['sa.key', 'apiserver.crt', 'apiserver.key'],
    ],
  ] as const)('%s is followed without a restart', async (_what, issuer, files) => {
    const before = await robotLogin();
    await soonLogsIn(before, entrepot);
    await restart(issuer, ...files);
    const after = await robotLogin();
    await soonLogsIn(after, entrepot);
    await endsWithinAMinute(before);
    await soonLogged(/the signing keys of service-account tokens have changed/, entrepot);
    await soonFollows(entrepot);
    expect((await get(`${entrepot.ops}/readyz`)).text).toBe('ok\n');
  });
});
