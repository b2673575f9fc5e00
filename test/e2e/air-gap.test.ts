// The air-gap operator's way by the documentation's own lines: from what `helm template` prints to pods without a network.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parsePlatform } from '../../src/oci/platform.ts';
import { get } from '../support/client.ts';
import { type Image, imageOf, indexOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { type RunResult, tryRun } from '../support/programs.ts';
import { pushBlob, putManifest } from '../support/push-client.ts';

const UPSTREAM = 'up.example';

const imageFor = (platform: string, name: string): Image =>
  imageOf([randomBlob(100_000, `${name} for ${platform}`)], { platform: parsePlatform(platform) });
const images = new Map(
  ['web', 'agent', 'edge'].map(name => [
    name,
    ['linux/amd64', 'linux/arm64', 'windows/amd64'].map(platform => imageFor(platform, name)),
  ]),
);

/** As a chart renders it: a Deployment anywhere, a DaemonSet on Windows, a Pod on arm64, comments and empty documents. */
const CHART = `
---
# Source: shop/templates/web.yaml
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      containers: [{name: web, image: "${UPSTREAM}/shop/web:1"}]
---
# Source: shop/templates/none.yaml
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  template:
    spec:
      os: {name: windows}
      containers: [{name: agent, image: "${UPSTREAM}/shop/agent:1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: edge}
spec:
  nodeSelector: {kubernetes.io/arch: arm64}
  tolerations: [{operator: Exists}]
  containers: [{name: edge, image: "${UPSTREAM}/shop/edge:1"}]
`;

async function succeed(running: Promise<RunResult>): Promise<RunResult> {
  const result = await running;
  expect({ code: result.code, stderr: result.stderr }).toMatchObject({ code: 0 });
  return result;
}

describe('a chart with Windows and arm64 pods, for a site without a network', () => {
  let upstream: FakeUpstream;
  let connected: Entrepot;
  let island: Entrepot;
  let chart: string;
  let bundle: string;

  beforeAll(async () => {
    upstream = await FakeUpstream.start();
    for (const [name, platforms] of images) upstream.add(`shop/${name}`, indexOf(platforms), '1');
    connected = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
    island = await Entrepot.start({
      upstreams: { [UPSTREAM]: { url: 'http://127.0.0.1:9' } },
      offline: true,
    });
    chart = join(connected.folder, 'chart.yaml');
    bundle = join(connected.folder, 'bundle.tar');
    await writeFile(chart, CHART);
  });

  afterAll(async () => {
    await connected.remove();
    await island.remove();
    await upstream.stop();
  });

  /** The status of the manifest of `platform` and of its blobs on the island, by the names that nodes always used. */
  async function pullThere(name: string, platform: string): Promise<number[]> {
    const image = images
      .get(name)
      ?.find(({ config }) => config.digest === imageFor(platform, name).config.digest);
    const ask = async (path: string) =>
      (await get(`${island.url}/v2/shop/${name}/${path}?ns=${UPSTREAM}`)).status;
    const blobs = [...(image?.layers ?? []), ...(image === undefined ? [] : [image.config])];
    return Promise.all([
      ask('manifests/1'),
      ask(`manifests/${image?.manifest.digest}`),
      ...blobs.map(({ digest }) => ask(`blobs/${digest}`)),
    ]);
  }

  it('is pulled for the nodes on which its pods may run, from the output of helm', async () => {
    const own = [...STARTER, 'pull', '--from', '-', '--config', connected.configFile];
    const pulling = await tryRun(process.execPath, own, { cwd: connected.folder, input: CHART });
    expect(pulling).toMatchObject({ code: 0 });
    for (const name of images.keys()) expect(pulling.stderr).toContain(`${UPSTREAM}/shop/${name}:1`);
    await succeed(connected.command('check', '--from', chart));
    const held = (name: string, platform: string) =>
      connected.command('check', `${UPSTREAM}/shop/${name}:1`, '--platform', platform);
    expect((await held('agent', 'windows/amd64')).code).toBe(0);
    expect((await held('agent', 'linux/amd64')).code).toBe(1);
    expect((await held('edge', 'linux/arm64')).code).toBe(0);
    expect((await held('web', 'windows/amd64')).code).toBe(1);
  });

  it('is carried in one bundle, whose contents are listed before anything is changed', async () => {
    await succeed(connected.command('export', '--from', chart, '-o', bundle));
    const { stdout: listed } = await succeed(island.command('import', '--dry-run', bundle));
    for (const name of images.keys()) expect(listed).toContain(`${UPSTREAM}/shop/${name}:1`);
    expect((await island.command('check', '--from', chart)).code).toBe(1);
  });

  it('is served there to each kind of node, and nothing else is', async () => {
    await succeed(island.command('import', bundle));
    await succeed(island.command('check', '--from', chart));
    for (const [name, platform] of [
      ['web', 'linux/amd64'],
      ['agent', 'windows/amd64'],
      ['edge', 'linux/arm64'],
    ] as const) {
      expect(await pullThere(name, platform)).toEqual([200, 200, 200, 200]);
    }
    expect((await pullThere('web', 'windows/amd64')).slice(1)).toEqual([404, 404, 404]);
  });

  it('is followed by a bundle of only what is new', async () => {
    const next = [imageFor('linux/amd64', 'web, the next'), ...(images.get('web') ?? []).slice(1)];
    upstream.add('shop/web', indexOf(next), '2');
    const have = join(island.folder, 'HAVE.json');
    const thin = join(island.folder, 'thin.tar');
    expect((await island.command('have', '-o', have)).stderr).toMatch(
      new RegExp(`^✓ ${have}: \\d+ blobs? listed, [\\d.]+ \\S+\\n$`),
    );
    const reference = `${UPSTREAM}/shop/web:2`;
    await succeed(connected.command('pull', reference, '--platform', 'linux/amd64'));
    await succeed(
      connected.command('export', reference, `${UPSTREAM}/shop/web:1`, '--have', have, '-o', thin),
    );
    await succeed(island.command('import', thin));
    const got = await get(`${island.url}/v2/shop/web/blobs/${next[0]?.layers[0]?.digest}?ns=${UPSTREAM}`);
    expect(got.status).toBe(200);
  });
});

describe('a chart with hosted images beside those of a registry', () => {
  const own = imageFor('linux/amd64', 'own');
  let upstream: FakeUpstream;
  let entrepot: Entrepot;
  let list: string;

  beforeAll(async () => {
    upstream = await FakeUpstream.start();
    upstream.add('shop/web', imageFor('linux/amd64', 'web'), '1');
    entrepot = await Entrepot.start({
      upstreams: { [UPSTREAM]: { url: upstream.url } },
      hosted: { prefixes: ['tools'], anonymous: 'push' },
    });
    for (const blob of [own.config, ...own.layers]) await pushBlob(entrepot.url, 'tools/own', blob);
    await putManifest(entrepot.url, 'tools/own', '1', own.manifest);
    list = join(entrepot.folder, 'list.txt');
  });

  afterAll(async () => {
    await entrepot.remove();
    await upstream.stop();
  });

  it('is pulled and exported completely where they were pushed', async () => {
    await writeFile(list, `${UPSTREAM}/shop/web:1\ntools/own:1\n`);
    const { stderr } = await succeed(entrepot.command('pull', '--from', list));
    expect(stderr).toContain('2 of 2 images are stored');
    expect(stderr).toContain(`tools/own:1: ${own.manifest.digest} is hosted here`);
    await succeed(entrepot.command('check', '--from', list));
    const bundle = join(entrepot.folder, 'own.tar');
    await succeed(entrepot.command('export', '--from', list, '-o', bundle));
    const { stdout } = await succeed(entrepot.command('import', '--dry-run', bundle));
    expect(stdout).toContain('tools/own:1');
  });

  it('fails for one that was not pushed yet', async () => {
    await writeFile(list, `${UPSTREAM}/shop/web:1\ntools/own:2\n`);
    const { code, stderr } = await entrepot.command('pull', '--from', list);
    expect(code).toBe(1);
    expect(stderr).toContain('tools/own:2: it is hosted here but not stored: push or import it');
    expect(stderr).toContain('1 of 2 images are stored; 1 failed:');
  });
});
