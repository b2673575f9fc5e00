import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { parseYamlDocuments } from '../lib/yaml.ts';
import { loadConfig } from './load.ts';
import { isTree, type Tree, valueAt } from './tree.ts';

const manifests = fileURLToPath(new URL('../../config/kubernetes/', import.meta.url));
const objects = readdirSync(manifests)
  .sort()
  .flatMap(name => parseYamlDocuments(readFileSync(join(manifests, name), 'utf8')).map(({ value }) => value))
  .filter(isTree);

const folder = mkdtempSync(join(tmpdir(), 'entrepot-manifests-'));
afterAll(() => rmSync(folder, { recursive: true }));

function only(kind: string): Tree {
  const [object, ...others] = objects.filter(one => one['kind'] === kind);
  if (object === undefined || others.length > 0) throw new Error(`expected one ${kind}`);
  return object;
}

/** Each verb on each resource that the rules allow. */
function allowed(rules: unknown): string[] {
  const list = Array.isArray(rules) ? rules.filter(isTree) : [];
  return list.flatMap(rule => {
    const places = [rule['resources'], rule['nonResourceURLs']].find(Array.isArray) ?? [];
    const verbs = Array.isArray(rule['verbs']) ? rule['verbs'] : [];
    return places.flatMap(place => verbs.map(verb => `${String(verb)} ${String(place)}`));
  });
}

describe('config/kubernetes', () => {
  it('begins with the namespace of everything else', () => {
    expect(objects[0]).toMatchObject({ kind: 'Namespace', metadata: { name: 'entrepot' } });
    const namespaced = objects.filter(({ kind }) => !/^(Namespace|ClusterRole.*)$/.test(String(kind)));
    expect(new Set(namespaced.map(object => valueAt(object, ['metadata', 'namespace'])))).toEqual(
      new Set(['entrepot']),
    );
  });

  it('grants what watching a cluster needs, and no writes', () => {
    expect(allowed(only('ClusterRole')['rules'])).toEqual([
      'list secrets',
      'watch secrets',
      'list serviceaccounts',
      'watch serviceaccounts',
      'get namespaces',
      'list namespaces',
      'watch namespaces',
      'get /.well-known/openid-configuration',
      'get /openid/v1/jwks',
    ]);
  });

  it('has a valid configuration', async () => {
    const text = valueAt(only('ConfigMap'), ['data', 'entrepot.yaml']);
    const file = join(folder, 'entrepot.yaml');
    writeFileSync(file, String(text));
    const { kubernetes, server, storage } = await loadConfig({ file, env: {} });
    expect(kubernetes).toEqual({ namespaceSelector: 'entrepot=tenant', namespaces: [], push: 'logins' });
    const container: unknown = valueAt(only('StatefulSet'), ['spec', 'template', 'spec', 'containers', 0]);
    const mounts: unknown = valueAt(container, ['volumeMounts']);
    const paths = Array.isArray(mounts) ? mounts.map(mount => String(valueAt(mount, ['mountPath']))) : [];
    expect(paths).toContain(storage.path);
    expect(paths.some(path => server.tls?.certFile.startsWith(`${path}/`))).toBe(true);
    expect(valueAt(container, ['args'])).toEqual(['serve']);
    // So that commands which kubectl exec runs beside it read the same.
    expect(valueAt(container, ['env'])).toEqual([
      { name: 'ENTREPOT_CONFIG', value: '/etc/entrepot/entrepot.yaml' },
    ]);
    expect(server.listen[0]?.address.port).toBe(valueAt(container, ['ports', 0, 'containerPort']));
  });

  it('opens the registry port to everybody, and the operations port only to monitoring', () => {
    const container = ['spec', 'template', 'spec', 'containers', 0];
    const ports = valueAt(only('StatefulSet'), [...container, 'ports']);
    const policy = only('NetworkPolicy');
    expect(valueAt(policy, ['spec', 'podSelector'])).toEqual(
      valueAt(only('StatefulSet'), ['spec', 'selector']),
    );
    expect(valueAt(policy, ['spec', 'policyTypes'])).toEqual(['Ingress']);
    const rules = valueAt(policy, ['spec', 'ingress']);
    const opened = Array.isArray(rules)
      ? rules.filter(isTree).map(rule => [valueAt(rule, ['ports', 0, 'port']), rule['from'] !== undefined])
      : [];
    expect(opened).toEqual([
      [valueAt(ports, [0, 'name']), false],
      [valueAt(ports, [1, 'name']), true],
    ]);
  });
});
