// Who may use the administration API by the rules of a real cluster: the roles are those of docs/admin-api.md.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import type { AuditDocument } from '../../src/admin/documents/audit.ts';
import type { SessionDocument } from '../../src/admin/documents/session.ts';
import { Entrepot } from '../support/entrepot.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { until } from '../support/programs.ts';

const DOCUMENT = fileURLToPath(new URL('../../docs/admin-api.md', import.meta.url));
const PATH = '/entrepot/admin';
const NAMESPACE = 'entrepot';
/** An answer of the cluster is believed for a minute, and the API server remembers tokens for ten seconds. */
const WITHDRAWN_MS = 150_000;

describe.skipIf(!HAS_CLUSTER)('/admin/v1 with Kubernetes tokens', () => {
  let cluster: KubeCluster;
  let entrepot: Entrepot;
  /** Of the accounts, by their names. */
  const tokens = new Map<string, string>();

  const bind = (role: string, account: string) =>
    cluster.apply({
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'ClusterRoleBinding',
      metadata: { name: `${role}-${account}` },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: role },
      subjects: [{ kind: 'ServiceAccount', name: account, namespace: NAMESPACE }],
    });

  beforeAll(async () => {
    cluster = await KubeCluster.start();
    await cluster.kubectl('apply', '--kustomize', MANIFESTS);
    const [, section = ''] = (await readFile(DOCUMENT, 'utf8')).split('### Kubernetes tokens');
    const [, yaml = ''] = /```yaml\n(.*?)```/s.exec(section) ?? [];
    const roles: readonly object[] = parseAllDocuments(yaml).map(each => each.toJS());
    await cluster.apply(...roles);
    const reading = ['--verb', 'get', '--non-resource-url', PATH];
    await cluster.kubectl('create', 'clusterrole', 'entrepot-reader', ...reading);
    await bind('entrepot-reviews', 'entrepot');
    for (const [account, role] of [
      ['boss', 'entrepot-admin'],
      ['grafana', 'entrepot-reader'],
      ['nobody', undefined],
    ] as const) {
      await cluster.kubectl('create', 'serviceaccount', account, '--namespace', NAMESPACE);
      if (role !== undefined) await bind(role, account);
      tokens.set(account, await cluster.tokenOf(NAMESPACE, account));
    }
    entrepot = await Entrepot.start({
      kubernetes: { kubeconfig: await cluster.kubeconfigOf(NAMESPACE, 'entrepot'), adminPath: PATH },
      server: { loopbackAdmin: 'none' },
    });
  });

  afterAll(async () => {
    await entrepot?.remove();
    await cluster?.remove();
  });

  async function ask(
    authorization: string | undefined,
    path: string,
    body?: object,
  ): Promise<{ readonly status: number; readonly text: string; readonly challenge: string | null }> {
    const headers = {
      ...(authorization !== undefined && { authorization }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
    };
    const url = `${entrepot.ops}/admin/v1${path}`;
    const session = body === undefined ? undefined : await ask(authorization, '/session');
    const token = session?.status === 200 ? tokenIn(session.text) : '';
    const response = await fetch(
      url,
      body === undefined
        ? { headers }
        : { method: 'POST', headers: { ...headers, 'x-entrepot-token': token }, body: JSON.stringify(body) },
    );
    const challenge = response.headers.get('www-authenticate');
    return { status: response.status, text: await response.text(), challenge };
  }

  const bearer = (account: string) => `Bearer ${tokens.get(account)}`;

  test('whoever may post to the path may change things, whoever may get it may look, others may nothing', async () => {
    for (const [account, rights] of [
      ['boss', 'full'],
      ['grafana', 'read'],
    ] as const) {
      const { text } = await ask(bearer(account), '/session');
      expect(JSON.parse(text)).toMatchObject({
        name: `system:serviceaccount:${NAMESPACE}:${account}`,
        by: 'kubernetes',
        rights,
      });
    }
    for (const authorization of [undefined, bearer('nobody'), 'Bearer made.up.token', 'Bearer x']) {
      expect(await ask(authorization, '/session')).toMatchObject({
        status: 401,
        challenge: 'Bearer realm="Entrepot administration"',
      });
    }
  });

  test('what is done with a token is recorded under the name that the cluster has for it', async () => {
    const body = { reference: 'docker.io/library/none:1' };
    expect((await ask(bearer('grafana'), '/actions/unpin', body)).status).toBe(403);
    expect((await ask(bearer('boss'), '/actions/unpin', body)).status).toBe(200);
    const { text } = await ask(bearer('grafana'), '/audit');
    const { entries }: AuditDocument = JSON.parse(text);
    expect(entries.map(({ who, outcome }) => `${who} ${outcome}`)).toEqual([
      `system:serviceaccount:${NAMESPACE}:boss allowed`,
      `system:serviceaccount:${NAMESPACE}:grafana refused`,
    ]);
  });

  test('a right that the cluster withdraws ends, with the streams that rest on it', {
    timeout: 400_000,
  }, async () => {
    const stream = await fetch(`${entrepot.ops}/admin/v1/events`, {
      headers: { authorization: bearer('grafana') },
    });
    expect(stream.status).toBe(200);
    const ended = stream.text();
    await cluster.kubectl('delete', 'clusterrolebinding', 'entrepot-reader-grafana');
    await until('the right to end', WITHDRAWN_MS, async () => {
      return (await ask(bearer('grafana'), '/session')).status === 401;
    });
    expect(await ended).toContain('event: reset');
    expect((await ask(bearer('boss'), '/session')).status).toBe(200);
  });

  test('while the cluster is away, nobody is judged: what was known counts, and the rest has to wait', async () => {
    expect((await ask(bearer('boss'), '/session')).status).toBe(200);
    await cluster.stop();
    expect((await ask(bearer('boss'), '/session')).status).toBe(200);
    expect(await ask('Bearer made.up.later', '/session')).toMatchObject({ status: 503, challenge: null });
    // Commands need no cluster.
    expect((await entrepot.command('status')).code).toBe(0);
    await cluster.start();
    await until('the cluster to be asked again', 60_000, async () => {
      return (await ask('Bearer made.up.later', '/session')).status === 401;
    });
  });
});

function tokenIn(text: string): string {
  const { token }: SessionDocument = JSON.parse(text);
  return token;
}
