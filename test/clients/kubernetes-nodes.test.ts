// A node as a cluster makes it: the kubelet's plugin hands over the token of a pod's ServiceAccount, and containerd
// pulls with it. The pod has no secret at all; its namespace has the one for the upstream.
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { fileURLToPath } from 'node:url';
import { decodeResponse } from '../../src/tenants/credential-provider.ts';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { DockerRegistry, REGISTRY_PROGRAMS, REGISTRY_USER } from '../support/docker-registry.ts';
import { Entrepot } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, pushImage } from '../support/images.ts';
import { HAS_CLUSTER, KubeCluster } from '../support/kube-cluster.ts';
import { PRIVATE } from '../support/mirrored-registry.ts';
import { freePort, hasPrograms, run, until } from '../support/programs.ts';

const PLUGIN = fileURLToPath(new URL('../../dist/entrepot-credential-provider.cjs', import.meta.url));
/** No such host exists: nodes know it only by way of Entrepot. */
const UPSTREAM = 'registry.test';
const IMAGE = `${UPSTREAM}/${PRIVATE}`;

const canRun = HAS_CLUSTER && hasPrograms(...CONTAINERD_PROGRAMS, ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

describe.skipIf(!canRun)('a pod without secrets, with the token of its account', () => {
  let cluster: KubeCluster;
  let upstream: DockerRegistry;
  let entrepot: Entrepot;
  let node: Containerd;
  let host: string;

  beforeAll(async () => {
    cluster = await KubeCluster.start();
    upstream = await DockerRegistry.start({ kind: 'token' });
    await pushImage('busybox', upstream, PRIVATE);
    for (const namespace of ['team-a', 'team-b']) {
      await cluster.kubectl('create', 'namespace', namespace);
      await cluster.kubectl('label', 'namespace', namespace, 'entrepot=tenant');
      await cluster.kubectl('create', 'serviceaccount', 'app', '--namespace', namespace);
    }
    const { username, password } = REGISTRY_USER;
    const login = [`--docker-username=${username}`, `--docker-password=${password}`];
    const secret = ['secret', 'docker-registry', 'pull', `--docker-server=${UPSTREAM}`, ...login];
    await cluster.kubectl('create', ...secret, '--namespace', 'team-a');
    host = `127.0.0.1:${await freePort()}`;
    const realms = upstream.tokenServer === undefined ? [] : [new URL(upstream.tokenServer.realm).host];
    entrepot = await Entrepot.start({
      server: { listen: host, serverNames: [host] },
      upstreams: { [UPSTREAM]: { url: upstream.url, realms } },
      kubernetes: { kubeconfig: join(cluster.folder, 'kubeconfig') },
    });
    node = await Containerd.start();
    const wanted = ['--upstream', UPSTREAM, '--server', entrepot.url, '--out', node.hostsFolder];
    await entrepot.spawnCommand('hosts', 'containerd', '--credential-provider', ...wanted);
  });

  afterAll(async () => {
    await node.remove();
    await entrepot.remove();
    await upstream.remove();
    await cluster.remove();
  });

  /** What the kubelet does: a token for the audience of its configuration, and the plugin's answer to it. */
  async function credentialOf(namespace: string, audience = host) {
    const serviceAccountToken = await cluster.tokenOf(namespace, 'app', audience);
    const apiVersion = 'credentialprovider.kubelet.k8s.io/v1';
    const [image = ''] = IMAGE.split(':');
    const request = { kind: 'CredentialProviderRequest', apiVersion, image, serviceAccountToken };
    const input = `${JSON.stringify(request)}\n`;
    const answer = decodeResponse(await run(PLUGIN, [], { input }));
    const credential = answer.auth.get(UPSTREAM);
    if (credential === undefined) throw new Error('the plugin has no credential for the registry');
    return credential;
  }

  test('can be pulled for ahead, on the command line, with the Secret of its namespace', async () => {
    expect((await entrepot.command('pull', '--tenant', 'team-b', IMAGE)).code).toBe(1);
    const pulled = await entrepot.command('pull', '--tenant', 'team-a', IMAGE);
    expect(pulled.code).toBe(0);
  });

  test("pulls what its namespace's Secret gives access to, and nothing else", async () => {
    const mine = await credentialOf('team-a');
    expect(await node.cri.pull(IMAGE, mine)).toMatch(/^sha256:/);
    await node.cri.remove(IMAGE);
    // It is held now, and that changes nothing for anybody else.
    await expect(node.cri.pull(IMAGE, await credentialOf('team-b'))).rejects.toThrow(/failed to pull/);
    await expect(node.cri.pull(IMAGE, await credentialOf('team-a', 'elsewhere'))).rejects.toThrow(
      /failed to pull/,
    );
    await expect(node.cri.pull(IMAGE)).rejects.toThrow(/failed to pull/);
    expect(await node.cri.pull(IMAGE, mine)).toMatch(/^sha256:/);
    await node.cri.remove(IMAGE);
    await cluster.kubectl('delete', 'serviceaccount', 'app', '--namespace', 'team-a');
    await until('the end of the account', 20_000, async () => {
      const pulled = await node.cri.pull(IMAGE, mine).catch(() => undefined);
      if (pulled !== undefined) await node.cri.remove(IMAGE);
      return pulled === undefined;
    });
  });
});
