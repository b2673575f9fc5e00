// The files of `entrepot hosts`, as it writes them, read by a node that pulls lazily: its snapshotter, which fetches layers, and
// its containerd, which fetches the rest.
import { readFile, writeFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makeCertificate } from '../support/certificates.ts';
import { DockerRegistry, REGISTRY_PROGRAMS, REGISTRY_USER } from '../support/docker-registry.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { estargzImage } from '../support/estargz.ts';
import { canPullLazily, LazyNode } from '../support/lazy-node.ts';
import { freePort, hasPrograms, run } from '../support/programs.ts';
import { putManifest, streamBlob } from '../support/push-client.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { type Login, writeSecret } from '../support/tenants.ts';

const REPOSITORY = 'team/lazy';
const image = estargzImage(100, 80_000, 'node files');
/** Files that no request fetches together. */
const [FIRST = '', LAST = ''] = [image.names.at(0), image.names.at(-1)];

const TEAM_A: Login = ['team-a', 'password-of-team-a'];

/** An address of this machine other than loopback: programs do not connect to it without TLS by default. */
const outside = Object.values(networkInterfaces())
  .flatMap(addresses => addresses ?? [])
  .find(({ family, internal }) => family === 'IPv4' && !internal)?.address;

/** The ports of Entrepot: for all registries, and for the one that is mirrored. */
let ports: { readonly all: number; readonly own: number };
let folder: string;
let registry: DockerRegistry;
let entrepot: Entrepot;
let nodes: LazyNode[];

describe.skipIf(!canPullLazily || !hasPrograms('skopeo', ...REGISTRY_PROGRAMS))(
  'files for nodes that pull lazily',
  () => {
    beforeEach(async () => {
      ports = { all: await freePort(), own: await freePort() };
      folder = await makeTempFolder('lazy-files');
      registry = await DockerRegistry.start();
      for (const blob of [image.config, image.layer]) await streamBlob(registry.url, REPOSITORY, blob);
      await putManifest(registry.url, REPOSITORY, '1', image.manifest);
      nodes = [];
    });
    afterEach(async () => {
      for (const node of nodes) await node.remove();
      await entrepot.remove();
      await registry.remove();
      await removeFolder(folder);
    });

    test('layers are read through Entrepot, and from the registry itself if Entrepot is down', async () => {
      await serve();
      await expectFile(await mountOn(await startNode()), FIRST);
      expect(await layerReaders()).toEqual(['entrepot']);
      await entrepot.stop();
      await expectFile(await mountOn(await startNode()), FIRST);
      expect(await layerReaders()).toEqual(['Go-http-client']);
    });

    test('what is mounted cannot be read while Entrepot is down, but can be once it is back', async () => {
      await serve();
      const root = await mountOn(await startNode());
      await expectFile(root, FIRST);
      await entrepot.stop();
      await expect(readFile(join(root, LAST))).rejects.toThrow('EIO');
      entrepot = await entrepot.startAgain();
      await expectFile(root, LAST);
      expect(await layerReaders()).toEqual(['entrepot']);
    });

    test.skipIf(outside === undefined)(
      'layers are read through an Entrepot with TLS if the system of the snapshotter trusts its CA',
      async () => {
        await makeCertificate(folder, 'server', `IP:${outside}`);
        const [certFile, keyFile] = [join(folder, 'server.crt'), join(folder, 'server.key')];
        await serve({ server: { tls: { certFile, keyFile } } }, outside);
        const url = `https://${outside}:${ports.all}`;
        await expectFile(await mountOn(await startNode({ url })), FIRST);
        expect(await layerReaders()).toEqual(['Go-http-client']);
        await expectFile(await mountOn(await startNode({ url, env: { SSL_CERT_FILE: certFile } })), FIRST);
        expect(await layerReaders()).toEqual(['entrepot']);
      },
    );

    test('layers of a private image are read with a login for the port that belongs to its registry', async () => {
      await closeRegistry();
      const secrets = join(folder, 'team-a.json');
      const upstream: Login = [REGISTRY_USER.username, REGISTRY_USER.password];
      await writeSecret(secrets, { [`127.0.0.1:${ports.all}`]: TEAM_A, [registry.host]: upstream });
      await serve({ tenants: [{ name: 'team-a', secrets }] });
      const node = await startNode({ env: { DOCKER_CONFIG: folder } });
      const auth = Buffer.from(TEAM_A.join(':')).toString('base64');
      await writeFile(
        join(folder, 'config.json'),
        JSON.stringify({ auths: { [`127.0.0.1:${ports.own}`]: { auth } } }),
      );
      await expectFile(await mountOn(node, TEAM_A), FIRST);
      expect(await layerReaders()).toEqual(['entrepot']);
    });
  },
);

/** Starts an Entrepot that mirrors the registry. */
async function serve(config: EntrepotConfig = {}, address = '127.0.0.1'): Promise<void> {
  const all = `${address}:${ports.all}`;
  const listen = [all, { address: `${address}:${ports.own}`, upstream: registry.host }];
  entrepot = await Entrepot.start({
    upstreams: { [registry.host]: { url: registry.url } },
    ...config,
    server: { listen, serverNames: [all], ...config.server },
  });
  await registry.forgetRequests();
}

/** Replaces the registry by one with the same image that requires a login. */
async function closeRegistry(): Promise<void> {
  const closed = await DockerRegistry.start({ kind: 'htpasswd' });
  const [from, to] = [registry, closed].map(({ host }) => `docker://${host}/${REPOSITORY}:1`);
  const flags = [
    '--src-tls-verify=false',
    '--dest-tls-verify=false',
    '--dest-creds',
    closed.credential ?? '',
  ];
  await run('skopeo', ['copy', '--quiet', '--preserve-digests', ...flags, from ?? '', to ?? '']);
  await registry.remove();
  registry = closed;
}

interface NodeOptions {
  /** Of Entrepot, for clients that name the registry. */
  readonly url?: string;
  /** Of the snapshotter. */
  readonly env?: Readonly<Record<string, string>>;
}

/** A node with the files that Entrepot writes for it. */
async function startNode({
  url = `http://127.0.0.1:${ports.all}`,
  env = {},
}: NodeOptions = {}): Promise<LazyNode> {
  const writeFiles = async (kind: string, out: string): Promise<void> => {
    const flags = ['--upstream', registry.host, '--server', url, '--out', out];
    expect(await entrepot.command('hosts', kind, ...flags)).toMatchObject({ code: 0 });
  };
  const node = await LazyNode.start({ configure: async out => writeFiles('stargz', out), env });
  nodes.push(node);
  await writeFiles('containerd', node.hostsFolder);
  return node;
}

/** The root file system of the image; `login` is containerd's. */
async function mountOn(node: LazyNode, login?: Login): Promise<string> {
  return node.mount(`${registry.host}/${REPOSITORY}:1`, login?.join(':'));
}

async function expectFile(root: string, name: string): Promise<void> {
  const bytes = await readFile(join(root, name));
  expect(bytes.equals(image.contentOf(name))).toBe(true);
}

/** Who got ranges of the layer from the registry since the last call, by the first word of the user agent. */
async function layerReaders(): Promise<readonly string[]> {
  const requests = (await registry.requests()).filter(
    ({ method, path, status }) => method === 'GET' && path.includes(image.layer.digest) && status < 300,
  );
  await registry.forgetRequests();
  expect(requests.filter(({ status }) => status !== 206)).toEqual([]);
  return [...new Set(requests.map(({ userAgent }) => userAgent.split('/')[0] ?? ''))];
}
