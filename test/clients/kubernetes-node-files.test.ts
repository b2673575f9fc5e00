// The DaemonSet of config/kubernetes/nodes: what its pods may do, and its program with its own arguments beside a real
// API server and a real containerd: through the Service's address, with the CA, and what is left when it ends.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { parse, parseAllDocuments, stringify } from 'yaml';
import { makeCertificate } from '../support/certificates.ts';
import { CONTAINERD_PROGRAMS, Containerd } from '../support/containerd.ts';
import { DockerRegistry, REGISTRY_PROGRAMS, REGISTRY_USER } from '../support/docker-registry.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { IMAGE_PROGRAMS, pushImage } from '../support/images.ts';
import { HAS_CLUSTER, KubeCluster, MANIFESTS } from '../support/kube-cluster.ts';
import { soonHasSecrets } from '../support/logins.ts';
import { PRIVATE } from '../support/mirrored-registry.ts';
import { AccountVolume, CAN_MOUNT } from '../support/pod-files.ts';
import { Daemon, freePort, hasPrograms, run, until } from '../support/programs.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const NODES = join(MANIFESTS, '..', 'nodes');
const NAMESPACE = ['--namespace', 'entrepot-nodes'];
/** For a change to be followed, on a busy machine. */
const SOON_MS = 60_000;
/** What the Service is called in the DaemonSet's arguments, and its addresses, one after the other. */
const SERVICE = 'entrepot.entrepot.svc';
const [FIRST, SECOND] = ['127.0.0.1', '127.0.0.2'];

const canRun =
  HAS_CLUSTER && CAN_MOUNT && hasPrograms(...CONTAINERD_PROGRAMS, ...REGISTRY_PROGRAMS, ...IMAGE_PROGRAMS);

/** Without capabilities, as in the pod. */
const UNPRIVILEGED = ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs'];

describe.skipIf(!canRun)('config/kubernetes/nodes', () => {
  let cluster: KubeCluster;
  let node: Containerd;
  let upstream: DockerRegistry;
  let entrepot: Entrepot;
  let folder: string;
  let port: number;
  let account: AccountVolume;
  let pod: Daemon;

  beforeAll(async () => {
    folder = await makeTempFolder('nodes');
    cluster = await KubeCluster.start();
    node = await Containerd.start();
    upstream = await DockerRegistry.start({ kind: 'token' });
    await pushImage('busybox', upstream, PRIVATE);
    await cluster.kubectl('apply', '--kustomize', MANIFESTS);
    await cluster.makeTenant('team-a');
    const { username, password } = REGISTRY_USER;
    await cluster.putPullSecret('team-a', 'pull', upstream.host, [username, password]);
    await startServer();
    await writeFile(
      join(folder, 'entrepot.yaml'),
      stringify({ upstreams: { [upstream.host]: { url: upstream.url } } }),
    );
  });
  afterAll(async () => {
    await node.remove();
    await entrepot.remove();
    await upstream.remove();
    await cluster.remove();
    await removeFolder(folder);
  });

  /** With the configuration of the base, but for what is this machine's. */
  async function startServer(): Promise<void> {
    const { cert, key } = await makeCertificate(folder, 'entrepot', `IP:${FIRST},IP:${SECOND}`);
    const [certFile, keyFile] = [join(folder, 'tls.crt'), join(folder, 'tls.key')];
    await writeFile(certFile, cert);
    await writeFile(keyFile, key);
    await writeFile(join(folder, 'ca.crt'), cert);
    port = await freePort();
    const base = parse(await readFile(join(MANIFESTS, 'entrepot.yaml'), 'utf8'));
    const listen = [FIRST, SECOND].map(address => `${address}:${port}`);
    const realms = upstream.tokenServer === undefined ? [] : [new URL(upstream.tokenServer.realm).host];
    entrepot = await Entrepot.start({
      server: { serverNames: base.server.serverNames, listen, tls: { certFile, keyFile } },
      kubernetes: { ...base.kubernetes, kubeconfig: await cluster.kubeconfigOf('entrepot', 'entrepot') },
      upstreams: { [upstream.host]: { url: upstream.url, realms } },
    });
    await soonHasSecrets(entrepot, 'team-a', ['pull loaded']);
  }

  /** As docs/kubernetes.md says. */
  beforeEach(async () => {
    await cluster.kubectl('apply', '--filename', join(NODES, 'namespace.yaml'));
    await cluster.kubectl(
      'create',
      'configmap',
      'entrepot-ca',
      ...NAMESPACE,
      '--from-file',
      join(folder, 'ca.crt'),
    );
    await cluster.kubectl('apply', '--dry-run=server', '--kustomize', NODES);
    await cluster.kubectl('apply', '--kustomize', NODES);
    account = new AccountVolume(join(folder, `account-${Date.now()}`));
    const token = await cluster.tokenOf('entrepot-nodes', 'entrepot-nodes');
    await account.write({ token, 'ca.crt': await cluster.certificate(), namespace: 'entrepot-nodes' });
    await resolveTo(FIRST);
    pod = await startPod();
  });
  afterEach(async () => {
    await pod.stop();
    await cluster.kubectl('delete', 'namespace', 'entrepot-nodes', '--ignore-not-found');
    await removeFolder(node.hostsFolder);
    await mkdir(node.hostsFolder);
  });

  const resolveTo = async (address: string): Promise<void> =>
    writeFile(join(folder, 'hosts'), `127.0.0.1 localhost\n${address} ${SERVICE}\n`);

  /** The arguments of the DaemonSet, with the paths and the port of this machine in place of its own. */
  async function podArgs(): Promise<readonly string[]> {
    const manifests = parseAllDocuments(await run('kubectl', ['kustomize', NODES])).map(each => each.toJS());
    const { args } = manifests.find(({ kind }) => kind === 'DaemonSet').spec.template.spec.containers[0];
    const places = {
      '/certs.d': node.hostsFolder,
      '/etc/entrepot': folder,
      '/run/ca': folder,
      [`${SERVICE}:5000`]: `${SERVICE}:${port}`,
    };
    return Object.entries(places).reduce((all: readonly string[], [from, to]) => {
      const replaced = all.map(arg => arg.replace(from, to));
      expect(replaced).not.toEqual(all);
      return replaced;
    }, args);
  }

  async function startPod(): Promise<Daemon> {
    const dns = ['sh', '-c', 'mount --bind "$0" /etc/hosts && exec "$@"', join(folder, 'hosts')];
    const own = [process.execPath, ...STARTER, ...(await podArgs())];
    const [program = '', ...args] = [...account.within, ...dns, ...UNPRIVILEGED, ...own];
    const daemon = await Daemon.start({
      program,
      args,
      env: { KUBERNETES_SERVICE_HOST: '127.0.0.1', KUBERNETES_SERVICE_PORT: String(cluster.port) },
      isReady: async () => true,
    });
    await until('the files', SOON_MS, async () => daemon.logs().includes('up to date'));
    return daemon;
  }

  const registries = async (): Promise<readonly string[]> => readdir(node.hostsFolder).catch(() => []);

  /** Who asked the registry for the image that a pod of the tenant pulls now, by the first word of the user agent. */
  async function askersOfPull(): Promise<readonly string[]> {
    await upstream.forgetRequests();
    expect(await node.cri.pull(`${upstream.host}/${PRIVATE}`, REGISTRY_USER)).toMatch(/^sha256:/);
    await node.cri.remove(`${upstream.host}/${PRIVATE}`);
    const requests = await upstream.requests();
    return [...new Set(requests.map(({ userAgent }) => userAgent.split(/[/ ]/)[0] ?? ''))];
  }

  test('lets its account see its DaemonSet and its namespace, and do nothing else that not everybody may', async () => {
    const rightsOf = async (name: string) => {
      const flags = ['--as', `system:serviceaccount:entrepot-nodes:${name}`, ...NAMESPACE, '--no-headers'];
      const list = await cluster.kubectl('auth', 'can-i', '--list', ...flags);
      return list.split('\n').map(line => line.replaceAll(/\s+/g, ' '));
    };
    const anybody = await rightsOf('default');
    expect((await rightsOf('entrepot-nodes')).filter(right => !anybody.includes(right)).sort()).toEqual([
      'daemonsets.apps [] [entrepot-nodes] [get]',
      'namespaces [] [entrepot-nodes] [get]',
    ]);
  });

  test('has a node pull private images through the address of the Service, and follows that', async () => {
    expect(await askersOfPull()).not.toContain('containerd');
    await resolveTo(SECOND);
    const hosts = join(node.hostsFolder, `127.0.0.1_${upstream.host.split(':')[1]}_`, 'hosts.toml');
    await until('the new address', SOON_MS, async () =>
      (await readFile(hosts, 'utf8')).includes(`//${SECOND}:`),
    );
    expect(await askersOfPull()).not.toContain('containerd');
    // While the Service has no address, the last one stays.
    await writeFile(join(folder, 'hosts'), '127.0.0.1 localhost\n');
    await until('it to notice', SOON_MS, async () => pod.logs().includes('cannot be resolved'));
    expect(await readFile(hosts, 'utf8')).toContain(`//${SECOND}:`);
  });

  test('leaves the files when only its pod is replaced', async () => {
    const before = await registries();
    await pod.stop();
    expect([pod.exitCode, pod.logs()]).toEqual([0, expect.stringContaining('the files stay: the DaemonSet')]);
    expect(await registries()).toEqual(before);
    expect(await askersOfPull()).not.toContain('containerd');
    pod = await startPod();
  });

  test('leaves the files when the API server does not answer', async () => {
    const before = await registries();
    await cluster.stop();
    await pod.stop();
    expect([pod.exitCode, pod.logs()]).toEqual([0, expect.stringContaining('the files stay: ')]);
    expect(await registries()).toEqual(before);
    await cluster.start();
  });

  test.each([
    ['its DaemonSet is deleted', ['daemonset', 'entrepot-nodes', ...NAMESPACE]],
    ['it is deleted as it was applied', ['--kustomize', NODES]],
    ['its namespace is deleted', ['namespace', 'entrepot-nodes', '--wait=false']],
  ])('takes its files away when %s, and nodes go on pulling', async (_how, what) => {
    await mkdir(join(node.hostsFolder, 'registry.example'), { recursive: true });
    await cluster.kubectl('delete', ...what);
    await pod.stop();
    expect([pod.exitCode, pod.logs()]).toEqual([0, expect.stringContaining('the files are removed: ')]);
    expect(await registries()).toEqual(['registry.example']);
    expect(await askersOfPull()).toContain('containerd');
  });
});
