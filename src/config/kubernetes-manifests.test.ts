import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseYaml, parseYamlDocuments } from '../lib/yaml.ts';
import { loadConfig } from './load.ts';
import { isTree, type Tree, valueAt } from './tree.ts';

const manifests = fileURLToPath(new URL('../../config/kubernetes/', import.meta.url));

/** What a replica gets from its pod. */
const ADVERTISED = { ENTREPOT_CLUSTER__ADVERTISE: '10.1.2.3:5003' };

/** How an overlay names what it changes. */
const BASE = '../base';

const read = (...path: string[]) => readFileSync(join(manifests, ...path), 'utf8');

/** A list in an object; empty if it is not there. */
function listAt(object: unknown, ...path: string[]): readonly unknown[] {
  const list = valueAt(object, path);
  return Array.isArray(list) ? list : [];
}

/** What is to be applied together, as far as it is written in files: test/clients/kubernetes-manifests has what kubectl makes of it. */
class Kustomization {
  readonly folder: string;
  readonly settings: Tree;
  readonly objects: readonly Tree[];

  constructor(folder: string) {
    this.folder = folder;
    this.settings = Object(parseYaml(read(folder, 'kustomization.yaml')).value);
    this.objects = listAt(this.settings, 'resources')
      .filter(name => name !== BASE)
      .flatMap(name => parseYamlDocuments(read(folder, String(name))))
      .map(({ value }) => value)
      .filter(isTree);
  }

  only(kind: string): Tree {
    const [object, ...others] = this.objects.filter(one => one['kind'] === kind);
    if (object === undefined || others.length > 0) throw new Error(`expected one ${kind}`);
    return object;
  }

  named(kind: string, name: string): Tree {
    const found = this.objects.find(one => one['kind'] === kind && nameOf(one) === name);
    if (found === undefined) throw new Error(`expected a ${kind} ${name}`);
    return found;
  }
}

function nameOf(object: unknown): unknown {
  return valueAt(object, ['metadata', 'name']);
}

const base = new Kustomization('base');
const nodes = new Kustomization('nodes');
const replicas = new Kustomization('replicas');

describe('config/kubernetes', () => {
  const folders = readdirSync(manifests).filter(name => name !== 'image');

  it.each(folders)('%s names all of its files, and nothing else', folder => {
    const { settings } = new Kustomization(folder);
    const generated = listAt(settings, 'configMapGenerator').flatMap(map => listAt(map, 'files'));
    const named = [...listAt(settings, 'resources'), ...generated].map(String).filter(name => name !== BASE);
    expect(readdirSync(join(manifests, folder)).sort()).toEqual([...named, 'kustomization.yaml'].sort());
  });

  it.each(folders)('%s takes name and version of the image from image/', folder => {
    const { settings, objects } = new Kustomization(folder);
    expect(settings['components']).toEqual(['../image']);
    expect(settings['images']).toBeUndefined();
    const images = objects
      .flatMap(object => listAt(object, 'spec', 'template', 'spec', 'containers'))
      .map(container => valueAt(container, ['image']));
    expect(images).toEqual(['entrepot']);
  });

  it('runs the version that is described here', () => {
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
    const [image] = listAt(parseYaml(read('image', 'kustomization.yaml')).value, 'images');
    expect(image).toEqual({ name: 'entrepot', newName: 'entrepot', newTag: version });
  });

  it.each([base, nodes])('$folder has everything in the namespace that comes first', ({ objects }) => {
    const [first] = objects;
    expect(first?.['kind']).toBe('Namespace');
    const namespaced = objects.filter(
      ({ kind }) => !/^(Namespace|ClusterRole.*|PriorityClass)$/.test(String(kind)),
    );
    expect(new Set(namespaced.map(object => valueAt(object, ['metadata', 'namespace'])))).toEqual(
      new Set([nameOf(first)]),
    );
  });
});

describe('config/kubernetes/base', () => {
  const pod = valueAt(base.only('StatefulSet'), ['spec', 'template', 'spec']);
  const [container] = listAt(pod, 'containers');

  it('admits only restricted pods to the namespace', () => {
    const labels = valueAt(base.only('Namespace'), ['metadata', 'labels']);
    expect(labels).toMatchObject({ 'pod-security.kubernetes.io/enforce': 'restricted' });
  });

  it('grants what watching a cluster needs, and no writes', () => {
    expect(allowed(base.only('ClusterRole')['rules'])).toEqual([
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

  it('has a valid configuration, which fits what is mounted and which port is open', async () => {
    const { kubernetes, server, storage } = await loadConfig({
      file: join(manifests, 'base', 'entrepot.yaml'),
      env: {},
    });
    expect(kubernetes).toEqual({ namespaceSelector: 'entrepot=tenant', namespaces: [], push: 'logins' });
    const paths = listAt(container, 'volumeMounts').map(mount => String(valueAt(mount, ['mountPath'])));
    expect(paths).toContain(storage.path);
    expect(paths.some(path => server.tls?.certFile.startsWith(`${path}/`))).toBe(true);
    expect(listAt(container, 'args')).toEqual(['serve']);
    // So that commands which kubectl exec runs beside it read the same.
    expect(listAt(container, 'env')).toEqual([
      { name: 'ENTREPOT_CONFIG', value: '/etc/entrepot/entrepot.yaml' },
    ]);
    expect(server.listen[0]?.address.port).toBe(valueAt(listAt(container, 'ports')[0], ['containerPort']));
  });

  it('mounts the configuration by the name that gets its checksum', () => {
    const [generator] = listAt(base.settings, 'configMapGenerator');
    expect(generator).toEqual({ name: 'entrepot', namespace: 'entrepot', files: ['entrepot.yaml'] });
    expect(base.settings['generatorOptions']).toBeUndefined();
    expect(listAt(pod, 'volumes')).toContainEqual({ name: 'config', configMap: { name: 'entrepot' } });
    expect(existsSync(join(manifests, 'base', 'entrepot.yaml'))).toBe(true);
  });

  it('stops a pod only when the server would have ended by itself', async () => {
    const { server } = await loadConfig({ file: join(manifests, 'base', 'entrepot.yaml'), env: {} });
    const graceS = Number(valueAt(pod, ['terminationGracePeriodSeconds']));
    expect(graceS * 1000).toBeGreaterThan(server.shutdownTimeoutMs + 5_000);
  });

  it('may be put on a volume with much content: its owner is checked at the root alone', () => {
    expect(valueAt(pod, ['securityContext', 'fsGroupChangePolicy'])).toBe('OnRootMismatch');
    expect(listAt(pod, 'volumes')).toContainEqual({ name: 'tmp', emptyDir: { sizeLimit: '64Mi' } });
  });

  it('is scheduled by its own priority class', () => {
    expect(valueAt(pod, ['priorityClassName'])).toBe(nameOf(base.only('PriorityClass')));
  });

  it('opens the registry port to everybody, and the operations port only to monitoring', () => {
    const [registry, ops] = listAt(container, 'ports').map(port => valueAt(port, ['name']));
    const policy = base.only('NetworkPolicy');
    expect(valueAt(policy, ['spec', 'podSelector'])).toEqual(
      valueAt(base.only('StatefulSet'), ['spec', 'selector']),
    );
    expect(valueAt(policy, ['spec', 'policyTypes'])).toEqual(['Ingress']);
    const opened = listAt(policy, 'spec', 'ingress').map(rule => [
      valueAt(listAt(rule, 'ports')[0], ['port']),
      valueAt(rule, ['from']) !== undefined,
    ]);
    expect(opened).toEqual([
      [registry, false],
      [ops, true],
    ]);
    const targets = ['entrepot', 'entrepot-metrics'].flatMap(name =>
      listAt(base.named('Service', name), 'spec', 'ports').map(port => valueAt(port, ['targetPort'])),
    );
    expect(targets).toEqual([registry, ops]);
  });
});

describe('config/kubernetes/replicas', () => {
  const deployment = replicas.only('Deployment');
  const pod = valueAt(deployment, ['spec', 'template', 'spec']);
  const [container] = listAt(pod, 'containers');

  it('runs pods like that of the base, but for what makes them replicas', () => {
    const own = new Set(['POD_IP', 'ENTREPOT_CLUSTER__ADVERTISE', 'cluster', 'postgres', 's3', 'data']);
    const others = (list: readonly unknown[]) => list.filter(one => !own.has(String(valueAt(one, ['name']))));
    const common = (podSpec: unknown) => {
      const [one] = listAt(podSpec, 'containers');
      const { topologySpreadConstraints: _spread, securityContext, ...rest } = Object(podSpec);
      const { fsGroupChangePolicy: _policy, ...context } = Object(securityContext);
      return {
        ...rest,
        securityContext: context,
        volumes: others(listAt(podSpec, 'volumes')),
        containers: [
          {
            ...Object(one),
            env: others(listAt(one, 'env')),
            ports: others(listAt(one, 'ports')),
            volumeMounts: others(listAt(one, 'volumeMounts')),
          },
        ],
      };
    };
    const single = valueAt(base.only('StatefulSet'), ['spec', 'template', 'spec']);
    expect(common(pod)).toEqual(common(single));
    expect(valueAt(deployment, ['spec', 'selector'])).toEqual(
      valueAt(base.only('StatefulSet'), ['spec', 'selector']),
    );
  });

  it('has a valid configuration, which fits what is mounted, which ports are open, and the address of each pod', async () => {
    const config = await loadConfig({ file: join(manifests, 'replicas', 'entrepot.yaml'), env: ADVERTISED });
    const mounts = listAt(container, 'volumeMounts').map(
      mount => `${String(valueAt(mount, ['mountPath']))}/`,
    );
    const { cluster, index, storage, server } = config;
    const files = [
      cluster?.keyFile,
      index.postgres?.passwordFile,
      index.postgres?.tls?.caFile,
      storage.s3?.credentialsFile,
      server.tls?.certFile,
      `${storage.path}/`,
    ];
    for (const file of files) expect(mounts.some(mount => file?.startsWith(mount))).toBe(true);
    const secrets = listAt(pod, 'volumes').flatMap(volume => valueAt(volume, ['secret', 'secretName']) ?? []);
    expect(secrets).toEqual(['entrepot-tls', 'entrepot-cluster', 'entrepot-postgres', 'entrepot-s3']);
    const ports = listAt(container, 'ports').map(port => valueAt(port, ['containerPort']));
    expect(ports).toEqual([
      server.listen[0]?.address.port,
      server.opsListen && server.opsListen.port,
      cluster?.listen.port,
    ]);
    expect(listAt(container, 'env')).toContainEqual({
      name: 'ENTREPOT_CLUSTER__ADVERTISE',
      value: `$(POD_IP):${cluster?.listen.port}`,
    });
    expect(config.kubernetes).toEqual(
      (await loadConfig({ file: join(manifests, 'base', 'entrepot.yaml'), env: {} })).kubernetes,
    );
  });

  it('replaces the configuration of the base, and its pods whenever it changes', () => {
    expect(listAt(replicas.settings, 'configMapGenerator')).toEqual([
      { name: 'entrepot', namespace: 'entrepot', behavior: 'replace', files: ['entrepot.yaml'] },
    ]);
    expect(replicas.settings['generatorOptions']).toBeUndefined();
  });

  it('opens the port for replicas to replicas alone', () => {
    const labels = valueAt(deployment, ['spec', 'template', 'metadata', 'labels']);
    expect(valueAt(replicas.only('NetworkPolicy'), ['spec'])).toEqual({
      podSelector: { matchLabels: labels },
      policyTypes: ['Ingress'],
      ingress: [
        { ports: [{ protocol: 'TCP', port: 'cluster' }], from: [{ podSelector: { matchLabels: labels } }] },
      ],
    });
  });

  it('is spread over nodes and zones, replaced and drained one by one, and scraped at the ops port of the base', () => {
    const selector = valueAt(deployment, ['spec', 'selector']);
    const spread = listAt(pod, 'topologySpreadConstraints');
    expect(spread.map(one => valueAt(one, ['topologyKey']))).toEqual([
      'kubernetes.io/hostname',
      'topology.kubernetes.io/zone',
    ]);
    for (const one of spread) expect(valueAt(one, ['labelSelector'])).toEqual(selector);
    expect(valueAt(deployment, ['spec', 'strategy', 'rollingUpdate'])).toEqual({
      maxSurge: 1,
      maxUnavailable: 0,
    });
    expect(valueAt(replicas.only('PodDisruptionBudget'), ['spec'])).toEqual({ maxUnavailable: 1, selector });
    const metrics = base.named('Service', 'entrepot-metrics');
    const monitor = replicas.only('ServiceMonitor');
    expect(valueAt(monitor, ['spec', 'selector', 'matchLabels'])).toEqual(
      valueAt(metrics, ['metadata', 'labels']),
    );
    expect(valueAt(listAt(monitor, 'spec', 'endpoints')[0], ['port'])).toBe(
      valueAt(listAt(metrics, 'spec', 'ports')[0], ['name']),
    );
  });
});

describe('config/kubernetes/nodes', () => {
  const pod = valueAt(nodes.only('DaemonSet'), ['spec', 'template', 'spec']);
  const [container] = listAt(pod, 'containers');
  const args = listAt(container, 'args').map(String);

  it('lets its pods see whether they are removed, and nothing else', () => {
    expect(allowed(nodes.only('Role')['rules'])).toEqual(['get daemonsets', 'get namespaces']);
    const names = listAt(nodes.only('Role'), 'rules').flatMap(rule => listAt(rule, 'resourceNames'));
    expect(names).toEqual([nameOf(nodes.only('DaemonSet')), nameOf(nodes.only('Namespace'))]);
    expect(args).toContain(`--remove-with=${String(nameOf(nodes.only('DaemonSet')))}`);
  });

  it("lets them write to containerd's folder of registries, as root without capabilities, and to nothing else", () => {
    const hostPaths = listAt(pod, 'volumes').flatMap(volume => valueAt(volume, ['hostPath', 'path']) ?? []);
    expect(hostPaths).toEqual(['/etc/containerd/certs.d']);
    const writable = listAt(container, 'volumeMounts').filter(mount => valueAt(mount, ['readOnly']) !== true);
    expect(writable).toEqual([{ name: 'certs', mountPath: '/certs.d' }]);
    expect(valueAt(container, ['securityContext'])).toEqual({
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    });
    expect(['hostNetwork', 'hostPID', 'hostIPC'].map(key => valueAt(pod, [key]))).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
  });

  it('runs on all nodes, also on those with taints', () => {
    expect(valueAt(pod, ['tolerations'])).toEqual([{ operator: 'Exists' }]);
    expect(valueAt(pod, ['nodeSelector'])).toEqual({ 'kubernetes.io/os': 'linux' });
  });

  it('gives containerd an address instead of a name in the cluster, and the CA', () => {
    expect(args).toContain('--resolve');
    const mount = listAt(container, 'volumeMounts').find(one => valueAt(one, ['name']) === 'ca');
    expect(args).toContain(`--ca=${String(valueAt(mount, ['mountPath']))}/ca.crt`);
    expect(listAt(pod, 'volumes')).toContainEqual({ name: 'ca', configMap: { name: 'entrepot-ca' } });
  });

  it('mirrors the registries of the base and of replicas, from the same places', async () => {
    expect(await upstreamsIn('nodes')).toEqual(await upstreamsIn('base'));
    expect(await upstreamsIn('replicas', ADVERTISED)).toEqual(await upstreamsIn('base'));
  });

  it('follows its configuration without new pods, and the Service of the base', () => {
    const [generator] = listAt(nodes.settings, 'configMapGenerator');
    expect(generator).toMatchObject({ name: 'entrepot', options: { disableNameSuffixHash: true } });
    const service = base.named('Service', 'entrepot');
    const port = valueAt(listAt(service, 'spec', 'ports')[0], ['port']);
    expect(args).toContain(`--server=https://entrepot.entrepot.svc:${String(port)}`);
    expect(valueAt(service, ['metadata'])).toMatchObject({ name: 'entrepot', namespace: 'entrepot' });
  });
});

async function upstreamsIn(
  folder: string,
  env: Readonly<Record<string, string>> = {},
): Promise<readonly object[]> {
  const { upstreams } = await loadConfig({
    file: join(manifests, folder, 'entrepot.yaml'),
    env,
  });
  return [...upstreams.values()].map(({ name, aliases, url }) => ({ name, aliases, url }));
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
