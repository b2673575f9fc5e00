// How Entrepot comes to a real cluster, and what it may there: in a pod, with the rights of config/kubernetes, with fewer.
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import type { TenantsPage } from '../../src/admin/documents/tenants.ts';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import {
  loginStatus,
  SOON_MS,
  soonFollows,
  soonLogged,
  soonLogsIn,
  tenantAt,
  watchesDown,
} from '../support/logins.ts';
import { AccountVolume, CAN_MOUNT } from '../support/pod-files.ts';
import { freePort, until } from '../support/programs.ts';
import type { Login } from '../support/tenants.ts';

/** What the registry is called in pull secrets. */
const SERVER = 'registry.test:5000';
const FIRST: Login = ['first', 'password-1'];
const SECOND: Login = ['second', 'password-2'];
const LATER: Login = ['later', 'password-3'];

let cluster: KubeCluster;

beforeAll(async () => {
  if (!HAS_CLUSTER) return;
  cluster = await KubeCluster.start();
  await cluster.kubectl('apply', '--kustomize', MANIFESTS);
});

afterAll(async () => {
  if (HAS_CLUSTER) await cluster.remove();
});

describe.skipIf(!HAS_CLUSTER)('config/kubernetes', () => {
  /** What an account may, one rule a line. */
  async function rightsOf(account: string): Promise<readonly string[]> {
    const flags = ['--as', `system:serviceaccount:entrepot:${account}`, '--no-headers'];
    const list = await cluster.kubectl('auth', 'can-i', '--list', ...flags);
    return list.split('\n').map(line => line.replaceAll(/\s+/g, ' '));
  }

  test('allows what Entrepot does, and nothing more than any account may do', async () => {
    const anybody = await rightsOf('default');
    const rights = await rightsOf('entrepot');
    expect(rights.filter(right => !anybody.includes(right)).sort()).toEqual([
      'namespaces [] [] [get list watch]',
      'secrets [] [] [list watch]',
      'serviceaccounts [] [] [list watch]',
    ]);
  });
});

describe.skipIf(!HAS_CLUSTER || !CAN_MOUNT)('in a pod', () => {
  let entrepot: Entrepot;
  let host: string;
  let volume: AccountVolume;
  let token: string;

  /** A new token of the account in access.yaml, put where the pod has it. */
  async function renewToken(): Promise<void> {
    token = await cluster.tokenOf('entrepot', 'entrepot');
    await volume.write({ token, 'ca.crt': await cluster.certificate(), namespace: 'entrepot' });
  }

  beforeAll(async () => {
    volume = new AccountVolume(join(cluster.folder, 'account'));
    await renewToken();
    const stored = ['configmaps', '--namespace', 'entrepot', '--output', 'json'];
    const maps: { readonly items: readonly { readonly data: Readonly<Record<string, string>> }[] } =
      JSON.parse(await cluster.kubectl('get', ...stored));
    const [config = ''] = maps.items.flatMap(({ data }) => data['entrepot.yaml'] ?? []);
    host = `127.0.0.1:${await freePort()}`;
    await cluster.makeTenant('team-a');
    await cluster.putPullSecret('team-a', 'pull', host, FIRST);
    entrepot = await Entrepot.start(
      { kubernetes: parse(config).kubernetes, server: { listen: host, serverNames: [host] } },
      {
        env: { KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT: String(cluster.port) },
        within: volume.within,
      },
    );
  });

  afterAll(async () => {
    await entrepot.remove();
  });

  test('tenants are those of its own cluster, by the account of the pod', async () => {
    await soonLogsIn(FIRST, entrepot);
    // Whoever may list is told only afterwards that he may not watch.
    await cluster.putPullSecret('team-a', 'later', host, LATER);
    await soonLogsIn(LATER, entrepot);
    expect(entrepot.logs()).not.toContain('cannot be watched');
  });

  test('a token that was renewed in its file is used, without a restart', async () => {
    await soonLogsIn(FIRST, entrepot);
    const old = token;
    await cluster.kubectl('delete', 'serviceaccount', 'entrepot', '--namespace', 'entrepot');
    await until('the old token to end', SOON_MS, async () => !(await cluster.knows(old)));
    await cluster.kubectl('apply', '--filename', join(MANIFESTS, 'access.yaml'));
    await cluster.putPullSecret('team-a', 'pull', host, SECOND);
    await soonLogged(/Unauthorized.*namespaces cannot be read/, entrepot);
    expect(await loginStatus(SECOND, entrepot)).toBe(401);
    expect(await loginStatus(FIRST, entrepot)).toBe(200);
    await renewToken();
    await soonLogsIn(SECOND, entrepot);
    expect(await loginStatus(FIRST, entrepot)).toBe(401);
  });
});

describe.skipIf(!HAS_CLUSTER)('namespaces that are listed by name', () => {
  test('need no right beyond them', async () => {
    await cluster.makeTenant('team-g');
    await cluster.putPullSecret('team-g', 'pull', SERVER, FIRST);
    await cluster.kubectl('create', 'serviceaccount', 'narrow', '--namespace', 'entrepot');
    const account = ['--serviceaccount', 'entrepot:narrow'];
    const there = ['--namespace', 'team-g'];
    const named = ['--resource', 'namespaces', '--resource-name', 'team-g'];
    await cluster.kubectl('create', 'clusterrole', 'narrow', '--verb', 'get,list,watch', ...named);
    await cluster.kubectl('create', 'clusterrolebinding', 'narrow', '--clusterrole', 'narrow', ...account);
    const content = ['--verb', 'list,watch', '--resource', 'secrets,serviceaccounts'];
    await cluster.kubectl('create', 'role', 'narrow', ...content, ...there);
    await cluster.kubectl('create', 'rolebinding', 'narrow', '--role', 'narrow', ...account, ...there);
    for (const what of ['secrets', 'serviceaccounts', 'namespaces/team-g']) {
      await until(`the right to watch ${what}`, SOON_MS, async () => {
        const asked = ['watch', what, '--as', 'system:serviceaccount:entrepot:narrow', ...there];
        return (await cluster.tryKubectl('auth', 'can-i', ...asked)).code === 0;
      });
    }
    const narrow = await Entrepot.start({
      server: { listen: `127.0.0.1:${await freePort()}`, serverNames: [SERVER] },
      kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'narrow'), namespaces: ['team-g'] },
    });
    try {
      await soonLogsIn(FIRST, narrow);
      await cluster.putPullSecret('team-g', 'pull', SERVER, SECOND);
      await soonLogsIn(SECOND, narrow);
      expect(narrow.logs()).not.toContain('cannot be watched');
    } finally {
      await narrow.remove();
    }
  });
});

describe.skipIf(!HAS_CLUSTER)('an account with too few rights', () => {
  const RULES = [
    ['list', 'secrets'],
    ['watch', 'secrets'],
    ['list', 'serviceaccounts'],
    ['watch', 'serviceaccounts'],
    ['get', 'namespaces'],
    ['list', 'namespaces'],
    ['watch', 'namespaces'],
  ] as const;

  /** An account that may all that Entrepot needs, but for one verb. */
  function accountWithout(verb: string, resource: string): readonly object[] {
    const name = `without-${verb}-${resource}`;
    const rules = RULES.filter(([v, r]) => v !== verb || r !== resource);
    const rbac = 'rbac.authorization.k8s.io';
    return [
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace: 'entrepot' } },
      {
        apiVersion: `${rbac}/v1`,
        kind: 'ClusterRole',
        metadata: { name },
        rules: rules.map(([v, r]) => ({ apiGroups: [''], resources: [r], verbs: [v] })),
      },
      {
        apiVersion: `${rbac}/v1`,
        kind: 'ClusterRoleBinding',
        metadata: { name },
        roleRef: { apiGroup: rbac, kind: 'ClusterRole', name },
        subjects: [{ kind: 'ServiceAccount', name, namespace: 'entrepot' }],
      },
    ];
  }

  async function startAs(account: string): Promise<Entrepot> {
    const address = `127.0.0.1:${await freePort()}`;
    return Entrepot.start({
      server: { listen: address, serverNames: [SERVER] },
      kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', account), namespaces: ['team-f'] },
    });
  }

  beforeAll(async () => {
    await cluster.apply(...RULES.flatMap(([verb, resource]) => accountWithout(verb, resource)));
    await until('the rights of the last of them', SOON_MS, async () => {
      const flags = ['--as', 'system:serviceaccount:entrepot:without-watch-namespaces', '--all-namespaces'];
      return (await cluster.tryKubectl('auth', 'can-i', 'list', 'secrets', ...flags)).code === 0;
    });
    await cluster.makeTenant('team-f');
  });

  test.each(RULES)('to %s %s is reported everywhere', async (verb, resource) => {
    const reader = await startAs(`without-${verb}-${resource}`);
    try {
      // Whose a namespace is, is asked when something in it changes.
      await cluster.putPullSecret('team-f', 'pull', SERVER, FIRST);
      const missing = new RegExp(`cannot ${verb} resource .?"${resource}`);
      await soonLogged(missing, reader);
      const watches = resource === 'secrets' ? 2 : 1;
      await until('the metric', SOON_MS, async () => (await watchesDown(reader)) === watches);
      const document = await reader.ask<TenantsPage>('/admin/v1/tenants');
      expect(document.problems.length).toBe(watches);
      for (const problem of document.problems) expect(problem).toMatch(missing);
      const told = [...reader.logs().matchAll(/cannot (\w+) resource .?"(\w+)/g)];
      expect(new Set(told.map(([, v, r]) => `${v} ${r}`))).toEqual(new Set([`${verb} ${resource}`]));
    } finally {
      await reader.remove();
    }
  });

  test('reads again and again what it may list but not watch', async () => {
    await cluster.putPullSecret('team-f', 'pull', SERVER, FIRST);
    const lister = await startAs('without-watch-secrets');
    try {
      await soonLogsIn(FIRST, lister);
      await cluster.putPullSecret('team-f', 'pull', SERVER, SECOND);
      await soonLogsIn(SECOND, lister);
      expect(await loginStatus(FIRST, lister)).toBe(401);
    } finally {
      await lister.remove();
    }
  });

  test('knows who is a tenant, but not its Secrets until it may read them', async () => {
    await cluster.putPullSecret('team-f', 'pull', SERVER, FIRST);
    const blind = await startAs('without-list-secrets');
    try {
      const [secret] = (await tenantAt(blind, 'team-f'))?.secrets ?? [];
      expect(secret).toMatchObject({ state: 'unread', reason: expect.stringContaining('forbidden') });
      const rule = { apiGroups: [''], resources: ['secrets'], verbs: ['list', 'watch'] };
      const patch = JSON.stringify([{ op: 'add', path: '/rules/-', value: rule }]);
      const role = ['clusterrole', 'without-list-secrets', '--type=json'];
      await cluster.kubectl('patch', ...role, '--patch', patch);
      await soonLogsIn(FIRST, blind);
      await soonFollows(blind);
    } finally {
      await blind.remove();
    }
  });
});
