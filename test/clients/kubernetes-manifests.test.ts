// config/kubernetes as kubectl builds it, and as a real API server takes it.
import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments, stringify } from 'yaml';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { run } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const REPLICAS = join(MANIFESTS, '..', 'replicas');

interface Manifest {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly spec?: { readonly template: PodTemplate };
}

interface PodTemplate {
  readonly metadata: object;
  readonly spec: PodSpec;
}

interface PodSpec {
  readonly securityContext: object;
  readonly containers: readonly [{ readonly image: string; readonly securityContext: object }];
  readonly volumes: readonly object[];
}

/** What `kubectl apply --kustomize` would send, in this order. */
async function built(folder: string): Promise<readonly Manifest[]> {
  const text = await run('kubectl', ['kustomize', folder]);
  return parseAllDocuments(text).map(document => document.toJS());
}

function templateIn(manifests: readonly Manifest[]): PodTemplate {
  const [template, ...others] = manifests.flatMap(({ spec }) => spec?.template ?? []);
  if (template === undefined || others.length > 0) throw new Error('expected one pod template');
  return template;
}

describe.skipIf(!HAS_CLUSTER)('config/kubernetes', () => {
  let folder: string;
  let copies = 0;
  beforeAll(async () => void (folder = await makeTempFolder('manifests')));
  afterAll(async () => removeFolder(folder));

  /** A copy to edit; its path. */
  async function copy(): Promise<string> {
    const to = join(folder, `copy-${(copies += 1)}`);
    await cp(join(MANIFESTS, '..'), to, { recursive: true });
    return to;
  }

  async function edit(file: string, from: string | RegExp, to: string): Promise<void> {
    const text = await readFile(file, 'utf8');
    const edited = text.replace(from, to);
    expect(edited).not.toBe(text);
    await writeFile(file, edited);
  }

  test('builds a list that begins with the namespace', async () => {
    const [first] = await built(MANIFESTS);
    expect(first).toMatchObject({ kind: 'Namespace', metadata: { name: 'entrepot' } });
  });

  test('gets its image, and the version of it, from one place', async () => {
    const edited = await copy();
    const image = join(edited, 'image', 'kustomization.yaml');
    await edit(image, /newName: .*/, 'newName: registry.example/tools/entrepot');
    await edit(image, /newTag: .*/, 'newTag: 9.9.9');
    for (const name of ['base', 'nodes', 'replicas']) {
      const { containers } = templateIn(await built(join(edited, name))).spec;
      expect(containers.map(container => container.image)).toEqual(['registry.example/tools/entrepot:9.9.9']);
    }
  });

  test('replaces the pod when the configuration has changed, and only then', async () => {
    const edited = await copy();
    const before = templateIn(await built(join(edited, 'base')));
    expect(templateIn(await built(MANIFESTS))).toEqual(before);
    await edit(join(edited, 'base', 'entrepot.yaml'), 'maxBytes: 90GiB', 'maxBytes: 80GiB');
    const manifests = await built(join(edited, 'base'));
    expect(templateIn(manifests)).not.toEqual(before);
    const [map] = manifests.filter(({ kind }) => kind === 'ConfigMap');
    expect(JSON.stringify(templateIn(manifests))).toContain(`"configMap":{"name":"${map?.metadata.name}"}`);
  });

  describe('on an API server', () => {
    let cluster: KubeCluster;
    beforeAll(async () => void (cluster = await KubeCluster.start()));
    afterAll(async () => cluster.remove());

    const dryRun = ['apply', '--dry-run=server', '--kustomize'];

    test('passes a dry run as soon as its namespace is there, and is applied either way', async () => {
      expect((await cluster.tryKubectl(...dryRun, MANIFESTS)).stderr).toContain(
        'namespaces "entrepot" not found',
      );
      await cluster.kubectl('apply', '--filename', join(MANIFESTS, 'namespace.yaml'));
      await cluster.kubectl(...dryRun, MANIFESTS);
      await cluster.kubectl('apply', '--kustomize', MANIFESTS);
      const byServer = ['--server-side', '--force-conflicts'];
      await cluster.kubectl(...dryRun, MANIFESTS, ...byServer);
      await cluster.kubectl('apply', '--kustomize', MANIFESTS, ...byServer);
    });

    test('is applied as replicas, too, in which no StatefulSet is left', async () => {
      const names = (await built(REPLICAS)).map(({ kind }) => kind);
      expect(names).toContain('Deployment');
      expect(names).not.toContain('StatefulSet');
      await cluster.apply(SERVICE_MONITORS);
      await cluster.kubectl(
        'wait',
        '--for=condition=established',
        'crd/servicemonitors.monitoring.coreos.com',
      );
      await cluster.kubectl('apply', '--filename', join(MANIFESTS, 'namespace.yaml'));
      const edited = await copy();
      // This server is older than policy/v1, which has the same fields here.
      await edit(join(edited, 'replicas', 'disruption-budget.yaml'), 'policy/v1', 'policy/v1beta1');
      await cluster.kubectl(...dryRun, join(edited, 'replicas'));
      await cluster.kubectl('apply', '--kustomize', join(edited, 'replicas'));
    });

    test('has no field that the server does not know', async () => {
      const edited = await copy();
      await edit(
        join(edited, 'base', 'stateful-set.yaml'),
        'terminationGracePeriodSeconds',
        'terminationGrace',
      );
      const { code, stderr } = await cluster.tryKubectl(...dryRun, join(edited, 'base'));
      expect([code, stderr]).toEqual([1, expect.stringContaining('terminationGrace')]);
    });

    test('can be changed by an overlay: its image, its volume, its configuration', async () => {
      const edited = await copy();
      const overlay = join(edited, 'mine');
      await mkdir(overlay);
      const size = '/spec/volumeClaimTemplates/0/spec/resources/requests/storage';
      const patch = JSON.stringify([{ op: 'replace', path: size, value: '2Ti' }]);
      const files = {
        'entrepot.yaml': 'storage: {path: /data, maxBytes: 1900GiB}\n',
        'kustomization.yaml': stringify({
          resources: ['../base'],
          images: [{ name: 'entrepot', newName: 'registry.example/entrepot', newTag: '9.9.9' }],
          patches: [{ target: { kind: 'StatefulSet', name: 'entrepot' }, patch }],
          configMapGenerator: [
            { name: 'entrepot', namespace: 'entrepot', behavior: 'replace', files: ['entrepot.yaml'] },
          ],
        }),
      };
      for (const [name, text] of Object.entries(files)) await writeFile(join(overlay, name), text);
      const text = JSON.stringify(await built(overlay));
      expect(text).toContain('"storage":"2Ti"');
      expect(text).toContain('1900GiB');
      expect(text).not.toContain('90GiB"');
      expect(text).toContain('"image":"registry.example/entrepot:9.9.9"');
    });

    test('runs under the restricted profile as it is, which would refuse it with any less', async () => {
      await cluster.kubectl('apply', '--kustomize', MANIFESTS);
      await cluster.apply(RESTRICTED);
      await cluster.stop();
      await cluster.start('--enable-admission-plugins=PodSecurityPolicy');
      const { spec } = templateIn(await built(MANIFESTS));
      // As the controller adds the volume of each replica.
      const data = { name: 'data', persistentVolumeClaim: { claimName: 'data-entrepot-0' } };
      const pod = { ...spec, volumes: [...spec.volumes, data] };
      const path = '/api/v1/namespaces/entrepot/pods';
      const admitted = await cluster.post(path, { metadata: { name: 'as-is' }, spec: pod });
      // A policy adds what a pod leaves out, which the profile of a namespace does not.
      const { securityContext, containers } = admitted['spec'] as PodSpec;
      expect(securityContext).toEqual(spec.securityContext);
      expect(containers[0].securityContext).toEqual(spec.containers[0].securityContext);
      const replica = templateIn(await built(REPLICAS)).spec;
      const another = await cluster.post(path, { metadata: { name: 'replica' }, spec: replica });
      expect((another['spec'] as PodSpec).securityContext).toEqual(replica.securityContext);
      const asRoot = {
        ...pod,
        securityContext: { ...spec.securityContext, runAsNonRoot: false, runAsUser: 0 },
      };
      await expect(cluster.post(path, { metadata: { name: 'root' }, spec: asRoot })).rejects.toThrow(
        /PodSecurityPolicy: unable to admit pod.*root/,
      );
    });
  });
});

/** As much of the Prometheus operator as an API server has to know. */
const SERVICE_MONITORS = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'servicemonitors.monitoring.coreos.com' },
  spec: {
    group: 'monitoring.coreos.com',
    scope: 'Namespaced',
    names: { kind: 'ServiceMonitor', plural: 'servicemonitors' },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
      },
    ],
  },
};

/** What Kubernetes' restricted Pod Security Standard asks, in the words of a server that does not know its names yet. */
const RESTRICTED = {
  apiVersion: 'policy/v1beta1',
  kind: 'PodSecurityPolicy',
  metadata: {
    name: 'restricted',
    annotations: { 'seccomp.security.alpha.kubernetes.io/allowedProfileNames': 'runtime/default' },
  },
  spec: {
    privileged: false,
    allowPrivilegeEscalation: false,
    requiredDropCapabilities: ['ALL'],
    volumes: ['configMap', 'downwardAPI', 'emptyDir', 'persistentVolumeClaim', 'projected', 'secret'],
    hostNetwork: false,
    hostIPC: false,
    hostPID: false,
    readOnlyRootFilesystem: true,
    runAsUser: { rule: 'MustRunAsNonRoot' },
    seLinux: { rule: 'RunAsAny' },
    supplementalGroups: { rule: 'RunAsAny' },
    fsGroup: { rule: 'RunAsAny' },
  },
};
