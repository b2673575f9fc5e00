// Tenants from a real Kubernetes API server: what kubectl does there counts here within seconds.
import { fileURLToPath } from 'node:url';
import { importPKCS8, SignJWT } from 'jose';
import { createPrivateKey } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { get } from '../support/client.ts';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster } from '../support/kube-cluster.ts';
import { freePort, until } from '../support/programs.ts';
import { challengeOf, type Login, tokenFor } from '../support/tenants.ts';
import type { TenantDocument, TenantsDocument } from '../../src/tenants/tenants-document.ts';

const MANIFESTS = fileURLToPath(new URL('../../config/kubernetes', import.meta.url));
const ACCOUNT = 'system:serviceaccount:entrepot:entrepot';
/** Of a busy machine; on an idle one, changes count within a fraction of a second. */
const SOON_MS = 20_000;

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

async function makeTenant(name: string): Promise<void> {
  await cluster.kubectl('create', 'namespace', name);
  await cluster.kubectl('label', 'namespace', name, 'entrepot=tenant');
  await until(`the account of ${name}`, SOON_MS, async () => {
    const found = await cluster.tryKubectl('get', 'serviceaccount', 'default', '--namespace', name);
    return found.code === 0;
  });
}

/** `kubectl create secret docker-registry`, in place of one that may be there. */
async function putSecret(namespace: string, name: string, [username, password]: Login, server = host) {
  await cluster.tryKubectl('delete', 'secret', name, '--namespace', namespace);
  const login = [`--docker-username=${username}`, `--docker-password=${password}`];
  const flags = ['--namespace', namespace, `--docker-server=${server}`, ...login];
  await cluster.kubectl('create', 'secret', 'docker-registry', name, ...flags);
}

/** Of the token endpoint. */
async function loginStatus(login: Login, at: Entrepot = entrepot): Promise<number> {
  const challenge = challengeOf(await get(`${at.url}/v2/`));
  return challenge['realm'] === undefined ? 404 : (await tokenFor(challenge, login)).status;
}

async function soonLogsIn(login: Login, at: Entrepot = entrepot): Promise<void> {
  await until(`${login[0]} to log in`, SOON_MS, async () => (await loginStatus(login, at)) === 200);
}

async function soonRefused(login: Login, at: Entrepot = entrepot): Promise<void> {
  await until(`${login[0]} to be refused`, SOON_MS, async () => (await loginStatus(login, at)) === 401);
}

async function soonLogged(at: Entrepot, line: RegExp): Promise<void> {
  await until(`the log to say ${line}`, SOON_MS, () => Promise.resolve(line.test(at.logs())));
}

async function tenant(name: string, at: Entrepot = entrepot): Promise<TenantDocument | undefined> {
  const document: TenantsDocument = JSON.parse((await get(`${at.ops}/debug/tenants`)).text);
  return document.tenants.find(one => one.name === name);
}

async function tokenOf(namespace: string, account: string, audience: string): Promise<Login> {
  const flags = ['--namespace', namespace, '--audience', audience];
  return ['serviceaccount', (await cluster.kubectl('create', 'token', account, ...flags)).trim()];
}

describe.skipIf(!HAS_CLUSTER)('config/kubernetes', () => {
  const RESOURCES = ['secrets', 'serviceaccounts', 'namespaces', 'pods', 'configmaps', 'nodes', 'events'];
  const VERBS = ['get', 'list', 'watch', 'create', 'update', 'patch', 'delete', 'impersonate'];

  test('allows what Entrepot does, and nothing more', async () => {
    const rules = RESOURCES.flatMap(resource => VERBS.map(verb => ({ verb, resource })));
    const allowed: string[] = [];
    for (const { verb, resource } of rules) {
      const flags = ['--as', ACCOUNT, '--all-namespaces'];
      const asked = await cluster.tryKubectl('auth', 'can-i', verb, resource, ...flags);
      if (asked.stdout.trim() === 'yes') allowed.push(`${verb} ${resource}`);
    }
    expect(allowed).toEqual([
      'list secrets',
      'watch secrets',
      'list serviceaccounts',
      'watch serviceaccounts',
      'get namespaces',
      'list namespaces',
      'watch namespaces',
    ]);
  });
});

describe.skipIf(!HAS_CLUSTER)('a namespace with the label', () => {
  const FIRST: Login = ['first', 'of-team-a'];
  const SECOND: Login = ['second', 'of-team-a'];

  test('is a tenant; its Secrets log in, in the order that its accounts name them; rotation and removal count', async () => {
    await makeTenant('team-a');
    await putSecret('team-a', 'b-secret', FIRST);
    await putSecret('team-a', 'a-secret', ['for', 'docker'], 'docker.io');
    await soonLogsIn(FIRST);
    await until('both Secrets', SOON_MS, async () => (await tenant('team-a'))?.secrets.length === 2);
    expect((await tenant('team-a'))?.secrets.map(({ name }) => name)).toEqual(['a-secret', 'b-secret']);

    const patch = JSON.stringify({ imagePullSecrets: [{ name: 'b-secret' }, { name: 'absent' }] });
    await cluster.kubectl('patch', 'serviceaccount', 'default', '--namespace', 'team-a', '--patch', patch);
    await until('the order of the account', SOON_MS, async () => {
      const names = (await tenant('team-a'))?.secrets.map(({ name, state }) => `${name} ${state}`);
      return names?.join() === 'b-secret loaded,absent missing,a-secret loaded';
    });

    await putSecret('team-a', 'b-secret', SECOND);
    await soonLogsIn(SECOND);
    expect(await loginStatus(FIRST)).toBe(401);
    await cluster.kubectl('delete', 'secret', 'b-secret', '--namespace', 'team-a');
    await soonRefused(SECOND);
  });

  test('is one from when it has the label until it has it no more', async () => {
    const login: Login = ['third', 'of-team-b'];
    await cluster.kubectl('create', 'namespace', 'team-b');
    await putSecret('team-b', 'pull', login);
    expect(await loginStatus(login)).toBe(401);
    await cluster.kubectl('label', 'namespace', 'team-b', 'entrepot=tenant');
    await soonLogsIn(login);
    await cluster.kubectl('label', 'namespace', 'team-b', 'entrepot-');
    await soonRefused(login);
    expect(await tenant('team-b')).toBeUndefined();
  });

  test('that is created anew is nobody until it is adopted', async () => {
    const [old, other]: Login[] = [
      ['fourth', 'of-team-c'],
      ['fifth', 'of-another-team-c'],
    ];
    if (old === undefined || other === undefined) throw new Error('two logins');
    await makeTenant('team-c');
    await putSecret('team-c', 'pull', old);
    await soonLogsIn(old);
    await cluster.kubectl('delete', 'namespace', 'team-c');
    await soonRefused(old);
    await makeTenant('team-c');
    await putSecret('team-c', 'pull', other);
    await until('the suspension', SOON_MS, async () => (await tenant('team-c'))?.suspended !== undefined);
    expect(await loginStatus(other)).toBe(401);
    expect((await entrepot.command('tenant', 'adopt', 'team-c')).code).toBe(0);
    await soonLogsIn(other);
    expect(await loginStatus(old)).toBe(401);
  });
});

describe.skipIf(!HAS_CLUSTER)('a service account', () => {
  test('logs in with a token for this registry, and with no other; not when it is deleted', async () => {
    await makeTenant('team-d');
    await cluster.kubectl('create', 'serviceaccount', 'robot', '--namespace', 'team-d');
    const good = await tokenOf('team-d', 'robot', host);
    await soonLogsIn(good);
    expect(await loginStatus(await tokenOf('team-d', 'robot', 'registry.other'))).toBe(401);
    const audience = 'https://kubernetes.default.svc.cluster.local';
    expect(await loginStatus(await tokenOf('team-d', 'robot', audience))).toBe(401);
    expect(await loginStatus(['serviceaccount', await forged(good[1], await cluster.signingKey())])).toBe(
      401,
    );
    expect(await loginStatus(['serviceaccount', `${good[1].slice(0, -8)}AAAAAAAA`])).toBe(401);
    await cluster.kubectl('delete', 'serviceaccount', 'robot', '--namespace', 'team-d');
    await soonRefused(good);
    await cluster.kubectl('create', 'serviceaccount', 'robot', '--namespace', 'team-d');
    await soonLogsIn(await tokenOf('team-d', 'robot', host));
    expect(await loginStatus(good)).toBe(401);
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
  test('is missed, not forgotten; what changes when it is back counts, however much it has forgotten itself', async () => {
    const [before, after]: readonly [Login, Login] = [
      ['sixth', 'of-team-e'],
      ['seventh', 'of-team-e'],
    ];
    await makeTenant('team-e');
    await putSecret('team-e', 'pull', before);
    await soonLogsIn(before);
    const issued = await entrepot.command('tenant', 'secret', 'team-e', '--server', host);
    const [, username = '', password = ''] = /--username (\S+) --password '(\S+)'/.exec(issued.stdout) ?? [];
    await soonLogsIn([username, password]);

    await cluster.stop();
    await soonLogged(entrepot, /the cluster cannot be followed/);
    expect(await loginStatus(before)).toBe(200);
    const down = async () => /^entrepot_kubernetes_watches_down (\d+)$/m.exec(await entrepot.metrics())?.[1];
    await until('the metric', SOON_MS, async () => (await down()) === '4');
    expect((await entrepot.command('tenants')).stdout).toMatch(/^cannot be followed: \w+ of 127.0.0.1/);

    await entrepot.stop();
    entrepot = await entrepot.startAgain();
    expect(await loginStatus([username, password])).toBe(200);
    const [secret] = (await tenant('team-e'))?.secrets ?? [];
    expect(secret).toMatchObject({ state: 'malformed', reason: expect.stringContaining('cannot be read') });

    await cluster.start();
    await soonLogsIn(before);
    await until('the metric', SOON_MS, async () => (await down()) === '0');
    // After a restart the cluster remembers nothing older than its newest change, and of this one no watch told.
    await cluster.kubectl('create', 'configmap', 'unrelated', '--namespace', 'team-e');
    await cluster.stop();
    await cluster.start();
    await putSecret('team-e', 'pull', after);
    await soonLogsIn(after);
    expect(await loginStatus(before)).toBe(401);
    await soonLogged(entrepot, /the cluster has forgotten what was seen last/);
  });
});

describe.skipIf(!HAS_CLUSTER)('namespaces that are named', () => {
  test('need no right beyond them', async () => {
    const login: Login = ['tenth', 'of-team-g'];
    await makeTenant('team-g');
    await putSecret('team-g', 'pull', login);
    await cluster.kubectl('create', 'serviceaccount', 'narrow', '--namespace', 'entrepot');
    const names = ['--resource-name', 'team-g'];
    const account = ['--serviceaccount', 'entrepot:narrow'];
    const there = ['--namespace', 'team-g'];
    const namespaces = ['--verb', 'get,list,watch', '--resource', 'namespaces', ...names];
    await cluster.kubectl('create', 'clusterrole', 'narrow', ...namespaces);
    await cluster.kubectl('create', 'clusterrolebinding', 'narrow', '--clusterrole', 'narrow', ...account);
    const content = ['--verb', 'list,watch', '--resource', 'secrets,serviceaccounts'];
    await cluster.kubectl('create', 'role', 'narrow', ...content, ...there);
    await cluster.kubectl('create', 'rolebinding', 'narrow', '--role', 'narrow', ...account, ...there);
    await until('the rights', SOON_MS, async () => {
      const asked = ['auth', 'can-i', 'watch', 'secrets', '--as', 'system:serviceaccount:entrepot:narrow'];
      return (await cluster.tryKubectl(...asked, ...there)).code === 0;
    });
    const narrow = await Entrepot.start({
      server: { listen: `127.0.0.1:${await freePort()}`, serverNames: [host] },
      kubernetes: { kubeconfig: await cluster.kubeconfigOf('entrepot', 'narrow'), namespaces: ['team-g'] },
    });
    try {
      await soonLogsIn(login, narrow);
      const next: Login = ['eleventh', 'of-team-g'];
      await putSecret('team-g', 'pull', next);
      await soonLogsIn(next, narrow);
      expect(narrow.logs()).not.toContain('cannot be followed');
    } finally {
      await narrow.remove();
    }
  });
});

describe.skipIf(!HAS_CLUSTER)('a reader that may too little', () => {
  const login: Login = ['eighth', 'of-team-f'];

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
    await makeTenant('team-f');
    await putSecret('team-f', 'pull', login);
    const lister = await startWith('lister', ['list']);
    try {
      await soonLogsIn(login, lister);
      await soonLogged(lister, /secrets is forbidden.*cannot watch/);
      const next: Login = ['ninth', 'of-team-f'];
      await putSecret('team-f', 'pull', next);
      await soonLogsIn(next, lister);
    } finally {
      await lister.remove();
    }
    const blind = await startWith('blind', []);
    try {
      await soonLogged(blind, /secrets is forbidden.*cannot list/);
      const [secret] = (await tenant('team-f', blind))?.secrets ?? [];
      expect(secret).toMatchObject({ state: 'malformed', reason: expect.stringContaining('forbidden') });
      const rule = [
        {
          op: 'add',
          path: '/rules/-',
          value: { apiGroups: [''], resources: ['secrets'], verbs: ['list', 'watch'] },
        },
      ];
      await cluster.kubectl('patch', 'clusterrole', 'blind', '--type=json', '--patch', JSON.stringify(rule));
      await soonLogsIn(['ninth', 'of-team-f'], blind);
    } finally {
      await blind.remove();
    }
  });
});
