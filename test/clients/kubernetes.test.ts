// Tenants from a real Kubernetes API server: what kubectl does there counts here within seconds.
import { createPrivateKey } from 'node:crypto';
import { importPKCS8, SignJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import {
  loginStatus,
  SOON_MS,
  soonHasSecrets,
  soonLogged,
  soonLogsIn,
  soonMeasured,
  soonRefused,
  tenantAt,
} from '../support/logins.ts';
import { freePort, until } from '../support/programs.ts';
import type { Login } from '../support/tenants.ts';

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
    kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot') },
  });
});

afterAll(async () => {
  if (!HAS_CLUSTER) return;
  await entrepot.remove();
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
  const flags = ['--namespace', namespace, '--audience', audience];
  return ['serviceaccount', (await cluster.kubectl('create', 'token', account, ...flags)).trim()];
}

describe.skipIf(!HAS_CLUSTER)('config/kubernetes', () => {
  /** What an account may, one rule a line. */
  async function rightsOf(account: string): Promise<readonly string[]> {
    const flags = ['--as', `system:serviceaccount:entrepot:${account}`, '--no-headers'];
    const list = await cluster.kubectl('auth', 'can-i', '--list', ...flags);
    return list.split('\n').map(line => line.replaceAll(/\s+/g, ' '));
  }

  test('allows what Entrepot does, and nothing more than any account may', async () => {
    const anybody = await rightsOf('default');
    const rights = await rightsOf('entrepot');
    expect(rights.filter(right => !anybody.includes(right)).sort()).toEqual([
      'namespaces [] [] [get list watch]',
      'secrets [] [] [list watch]',
      'serviceaccounts [] [] [list watch]',
    ]);
  });
});

describe.skipIf(!HAS_CLUSTER)('a namespace with the label', () => {
  test('is a tenant; its Secrets log in, in the order that its accounts name them; rotation and removal count', async () => {
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

  test('is one from when it has the label until it has it no more', async () => {
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

  test('that is created anew is nobody until it is adopted', async () => {
    const [old, other] = loginsOf('team-c');
    await cluster.makeTenant('team-c');
    await cluster.putPullSecret('team-c', 'pull', host, old);
    await soonLogsIn(old, entrepot);
    await cluster.kubectl('delete', 'namespace', 'team-c');
    await soonRefused(old, entrepot);
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

describe.skipIf(!HAS_CLUSTER)('a service account', () => {
  test('logs in with a token for this registry, and with no other; not when it is deleted', async () => {
    await cluster.makeTenant('team-d');
    await cluster.kubectl('create', 'serviceaccount', 'robot', '--namespace', 'team-d');
    const good = await tokenOf('team-d', 'robot', host);
    await soonLogsIn(good, entrepot);
    const wrong: readonly string[] = [
      (await tokenOf('team-d', 'robot', 'registry.other'))[1],
      (await tokenOf('team-d', 'robot', 'https://kubernetes.default.svc.cluster.local'))[1],
      await forged(good[1], await cluster.signingKey()),
      `${good[1].slice(0, -8)}AAAAAAAA`,
    ];
    for (const token of wrong) expect(await loginStatus(['serviceaccount', token], entrepot)).toBe(401);
    await cluster.kubectl('delete', 'serviceaccount', 'robot', '--namespace', 'team-d');
    await soonRefused(good, entrepot);
    await cluster.kubectl('create', 'serviceaccount', 'robot', '--namespace', 'team-d');
    await soonLogsIn(await tokenOf('team-d', 'robot', host), entrepot);
    expect(await loginStatus(good, entrepot)).toBe(401);
  });

  /** The same claims by another issuer, even with the right key. */
  async function forged(token: string, pem: string): Promise<string> {
    const [, claims = ''] = token.split('.');
    const key = createPrivateKey(pem).export({ type: 'pkcs8', format: 'pem' }).toString();
    const payload = JSON.parse(Buffer.from(claims, 'base64url').toString());
    return new SignJWT({ ...payload, iss: 'https://elsewhere.example' })
      .setProtectedHeader({ alg: 'RS256' })
      .sign(await importPKCS8(key, 'RS256'));
  }
});

describe.skipIf(!HAS_CLUSTER)('a cluster that goes away', () => {
  test('is missed, not forgotten, even by a server that starts meanwhile; what changes when it is back counts', async () => {
    const [before, after] = loginsOf('team-e');
    await cluster.makeTenant('team-e');
    await cluster.putPullSecret('team-e', 'pull', host, before);
    await soonLogsIn(before, entrepot);
    const printed = await entrepot.command('tenant', 'secret', 'team-e', '--server', host);
    const [, username = '', password = ''] = /--username (\S+) --password '(\S+)'/.exec(printed.stdout) ?? [];
    const issued: Login = [username, password];
    await soonLogsIn(issued, entrepot);

    await cluster.stop();
    await soonLogged(/the cluster cannot be followed/, entrepot);
    expect(await loginStatus(before, entrepot)).toBe(200);
    await soonMeasured('entrepot_kubernetes_watches_down', 4, entrepot);
    expect((await entrepot.command('tenants')).stdout).toMatch(/^cannot be followed: \w+ of 127.0.0.1/);

    await entrepot.stop();
    entrepot = await entrepot.startAgain();
    expect(await loginStatus(issued, entrepot)).toBe(200);
    const [secret] = (await tenantAt(entrepot, 'team-e'))?.secrets ?? [];
    expect(secret).toMatchObject({ state: 'malformed', reason: expect.stringContaining('cannot be read') });

    await cluster.start();
    await soonLogsIn(before, entrepot);
    await soonMeasured('entrepot_kubernetes_watches_down', 0, entrepot);
    await cluster.putPullSecret('team-e', 'pull', host, after);
    await soonLogsIn(after, entrepot);
    expect(await loginStatus(before, entrepot)).toBe(401);
  });
});

describe.skipIf(!HAS_CLUSTER)('namespaces that are named', () => {
  test('need no right beyond them', async () => {
    const [login, next] = loginsOf('team-g');
    await cluster.makeTenant('team-g');
    await cluster.putPullSecret('team-g', 'pull', host, login);
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
      server: { listen: `127.0.0.1:${await freePort()}`, serverNames: [host] },
      kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'narrow'), namespaces: ['team-g'] },
    });
    try {
      await soonLogsIn(login, narrow);
      await cluster.putPullSecret('team-g', 'pull', host, next);
      await soonLogsIn(next, narrow);
      expect(narrow.logs()).not.toContain('cannot be followed');
    } finally {
      await narrow.remove();
    }
  });
});

describe.skipIf(!HAS_CLUSTER)('a reader that may too little', () => {
  const [login, next] = loginsOf('team-f');

  async function startWith(account: string, secretVerbs: readonly string[]): Promise<Entrepot> {
    const rbac = 'rbac.authorization.k8s.io';
    const all = {
      apiGroups: [''],
      resources: ['namespaces', 'serviceaccounts'],
      verbs: ['get', 'list', 'watch'],
    };
    const secrets = { apiGroups: [''], resources: ['secrets'], verbs: secretVerbs };
    await cluster.kubectl('create', 'serviceaccount', account, '--namespace', 'entrepot');
    await cluster.apply(
      {
        apiVersion: `${rbac}/v1`,
        kind: 'ClusterRole',
        metadata: { name: account },
        rules: secretVerbs.length === 0 ? [all] : [all, secrets],
      },
      {
        apiVersion: `${rbac}/v1`,
        kind: 'ClusterRoleBinding',
        metadata: { name: account },
        roleRef: { apiGroup: rbac, kind: 'ClusterRole', name: account },
        subjects: [{ kind: 'ServiceAccount', name: account, namespace: 'entrepot' }],
      },
    );
    const address = `127.0.0.1:${await freePort()}`;
    const kubeconfig = await cluster.kubeconfigOf('entrepot', account);
    return Entrepot.start({
      server: { listen: address, serverNames: [host] },
      kubernetes: { kubeconfig, namespaces: ['team-f'] },
    });
  }

  test('says so, reads what it may list again and again, and works once it may', async () => {
    await cluster.makeTenant('team-f');
    await cluster.putPullSecret('team-f', 'pull', host, login);
    const lister = await startWith('lister', ['list']);
    try {
      await soonLogsIn(login, lister);
      await soonLogged(/secrets is forbidden.*cannot watch/, lister);
      await cluster.putPullSecret('team-f', 'pull', host, next);
      await soonLogsIn(next, lister);
      expect(await loginStatus(login, lister)).toBe(401);
    } finally {
      await lister.remove();
    }
    const blind = await startWith('blind', []);
    try {
      await soonLogged(/secrets is forbidden.*cannot list/, blind);
      await until('the reason', SOON_MS, async () => {
        const [secret] = (await tenantAt(blind, 'team-f'))?.secrets ?? [];
        return secret?.state === 'malformed' && secret.reason?.includes('forbidden') === true;
      });
      const rule = { apiGroups: [''], resources: ['secrets'], verbs: ['list', 'watch'] };
      const patch = JSON.stringify([{ op: 'add', path: '/rules/-', value: rule }]);
      await cluster.kubectl('patch', 'clusterrole', 'blind', '--type=json', '--patch', patch);
      await soonLogsIn(next, blind);
    } finally {
      await blind.remove();
    }
  });
});
