// What a real API server does to its watches, seen on the way to it: it ends them, forgets where they were, goes away.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { KubeGate } from '../support/kube-gate.ts';
import {
  loginStatus,
  SOON_MS,
  soonHasSecrets,
  soonLogged,
  soonLogsIn,
  soonMeasured,
  soonRefused,
} from '../support/logins.ts';
import { freePort, until } from '../support/programs.ts';
import type { Login } from '../support/tenants.ts';

const DOWN = 'entrepot_kubernetes_watches_down';
/** Of each kind, and of Secrets of each of the two types. */
const WATCHES = 4;

describe.skipIf(!HAS_CLUSTER)('watches of a cluster', () => {
  let cluster: KubeCluster;
  let gate: KubeGate;
  let entrepot: Entrepot;
  let host: string;

  beforeAll(async () => {
    cluster = await KubeCluster.start();
    await cluster.kubectl('apply', '--filename', MANIFESTS);
    gate = await KubeGate.start(cluster);
    host = `127.0.0.1:${await freePort()}`;
    entrepot = await Entrepot.start({
      server: { listen: host, serverNames: [host] },
      kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot', gate.url) },
    });
    await soonMeasured(DOWN, 0, entrepot);
  });

  afterAll(async () => {
    await entrepot.remove();
    await gate.remove();
    await cluster.remove();
  });

  const login = (tenant: string, nth: number): Login => [`${tenant}-${nth}`, `password-${nth}`];

  test('that are too old, since etcd was compacted, are followed by new lists, in which nothing is missing or left over', async () => {
    // Its watch cache would remember what etcd does not.
    await cluster.stop();
    await cluster.start('--watch-cache=false');
    for (const tenant of ['gone', 'kept']) {
      await cluster.makeTenant(tenant);
      await cluster.putPullSecret(tenant, 'pull', host, login(tenant, 1));
      await soonLogsIn(login(tenant, 1), entrepot);
    }
    await cluster.putPullSecret('kept', 'removed', host, login('kept', 2));
    await soonLogsIn(login('kept', 2), entrepot);

    gate.shut();
    await soonMeasured(DOWN, WATCHES, entrepot);
    await cluster.kubectl('delete', 'secret', 'removed', '--namespace', 'kept');
    await cluster.putPullSecret('kept', 'pull', host, login('kept', 3));
    await cluster.kubectl('label', 'namespace', 'gone', 'entrepot-');
    await cluster.makeTenant('new');
    await cluster.putPullSecret('new', 'pull', host, login('new', 1));
    await cluster.compact();
    const [seen, listed] = [gate.asked.length, gate.lists.length];
    gate.open();

    await soonLogsIn(login('kept', 3), entrepot);
    await soonLogsIn(login('new', 1), entrepot);
    await soonRefused(login('gone', 1), entrepot);
    for (const nth of [1, 2]) expect(await loginStatus(login('kept', nth), entrepot)).toBe(401);
    await soonHasSecrets(entrepot, 'kept', ['pull loaded']);
    await soonLogged(/the cluster has forgotten what was seen last/, entrepot);
    await soonMeasured(DOWN, 0, entrepot);
    const expired = gate.asked
      .slice(seen)
      .filter(({ isWatch, text }) => isWatch && /"code":410\b/.test(text));
    expect(expired.length).toBe(WATCHES);
    await until('a list of each', SOON_MS, () => Promise.resolve(gate.lists.length === listed + WATCHES));
  });
});
