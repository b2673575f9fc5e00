// What a real API server does to its watches, seen on the way to it: it ends them, forgets where they were, goes away.
import { setTimeout as sleep } from 'node:timers/promises';
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
  soonFollows,
  soonFollowsNothing,
  soonRefused,
  WATCHES,
} from '../support/logins.ts';
import { freePort, until } from '../support/programs.ts';
import type { Login } from '../support/tenants.ts';

/** How long a server may be away: a restart of a control plane on a bad day. */
const AWAY_MS = 60_000;

describe.skipIf(!HAS_CLUSTER)('watches of a cluster', () => {
  let cluster: KubeCluster;
  let gate: KubeGate;
  let entrepot: Entrepot;
  let host: string;

  beforeAll(async () => {
    cluster = await KubeCluster.start();
    await cluster.kubectl('apply', '--kustomize', MANIFESTS);
    gate = await KubeGate.start(cluster);
    host = `127.0.0.1:${await freePort()}`;
    entrepot = await Entrepot.start({
      server: { listen: host, serverNames: [host] },
      kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot', gate.url) },
    });
    await soonFollows(entrepot);
  });

  afterAll(async () => {
    await entrepot.remove();
    await gate.remove();
    await cluster.remove();
  });

  const login = (tenant: string, nth: number): Login => [`${tenant}-${nth}`, `password-${nth}`];

  test('that the server ends, or that break, continue where they were, without listing again', async () => {
    await cluster.makeTenant('resumed');
    gate.watchSeconds = 2;
    const listed = gate.lists.length;
    gate.shut();
    await soonFollowsNothing(entrepot);
    await cluster.putPullSecret('resumed', 'pull', host, login('resumed', 1));
    gate.open();
    await soonLogsIn(login('resumed', 1), entrepot);
    await soonFollows(entrepot);
    for (const nth of [2, 3]) {
      const ended = () => gate.watches.filter(({ isComplete }) => isComplete).length;
      const before = ended();
      await until('each watch to be ended', SOON_MS, () => Promise.resolve(ended() >= before + 2 * WATCHES));
      await cluster.putPullSecret('resumed', 'pull', host, login('resumed', nth));
      await soonLogsIn(login('resumed', nth), entrepot);
      expect(await loginStatus(login('resumed', nth - 1), entrepot)).toBe(401);
    }
    gate.watchSeconds = undefined;
    expect(gate.lists.length).toBe(listed);
    await soonFollows(entrepot);
  });

  test('of a server that is down for a minute continue soon; until then rights stay as they were', async () => {
    await cluster.makeTenant('patient');
    await cluster.kubectl('create', 'serviceaccount', 'robot', '--namespace', 'patient');
    await cluster.putPullSecret('patient', 'pull', host, login('patient', 1));
    await cluster.putPullSecret('patient', 'other', host, login('patient', 2));
    const robot: Login = ['serviceaccount', await cluster.tokenOf('patient', 'robot', host)];
    const holders = [login('patient', 1), login('patient', 2), robot];
    for (const holder of holders) await soonLogsIn(holder, entrepot);

    await cluster.stop();
    const backAt = Date.now() + AWAY_MS;
    await soonFollowsNothing(entrepot);
    while (Date.now() < backAt) {
      for (const holder of holders) expect(await loginStatus(holder, entrepot)).toBe(200);
      expect(await loginStatus(login('patient', 3), entrepot)).toBe(401);
      await sleep(5_000);
    }
    expect((await entrepot.command('tenants')).stdout).toMatch(/^cannot be watched: secrets of /m);

    await cluster.start();
    await cluster.putPullSecret('patient', 'pull', host, login('patient', 3));
    await cluster.kubectl('delete', 'secret', 'other', '--namespace', 'patient');
    await cluster.kubectl('delete', 'serviceaccount', 'robot', '--namespace', 'patient');
    await soonLogsIn(login('patient', 3), entrepot);
    for (const holder of holders) await soonRefused(holder, entrepot);
    await soonFollows(entrepot);
    await soonLogged(/the cluster is watched again/, entrepot);
  });

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
    await soonFollows(entrepot);

    gate.shut();
    await soonFollowsNothing(entrepot);
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
    await soonLogged(/the resource version of a watch has expired/, entrepot);
    const expired = () =>
      gate.asked.slice(seen).filter(({ isWatch, text }) => isWatch && /"code":410\b/.test(text));
    await until('each watch to be Gone', SOON_MS, () => Promise.resolve(expired().length === WATCHES));
    await until('a list of each', SOON_MS, () => Promise.resolve(gate.lists.length === listed + WATCHES));
    await soonFollows(entrepot);
  });
});
