// The way of images into a place without a network: pulled ahead, exported, imported, served by their old names.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { absentAsUndefined } from '../../src/lib/error-code.ts';
import { parsePlatform } from '../../src/oci/platform.ts';
import type { BundlesDocument } from '../../src/admin/documents/bundles.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Image, imageOf, indexOf, randomBlob } from '../support/content.ts';
import { Entrepot, STARTER } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { answers, type RunResult, tryRun, until } from '../support/programs.ts';
import { beginUpload, sendBytes } from '../support/push-client.ts';
import { runCommand } from '../support/run-command.ts';

const UPSTREAM = 'up.example';
const PLATFORMS = 'linux/amd64,linux/arm64';

const base = randomBlob(700_000, 'base');
const imageFor = (platform: string, ...seeds: string[]): Image =>
  imageOf([base, ...seeds.map(seed => randomBlob(200_000, `${platform} ${seed}`))], {
    platform: parsePlatform(platform),
  });
const app = indexOf([
  imageFor('linux/amd64', 'app'),
  imageFor('linux/arm64', 'app'),
  imageFor('linux/s390x', 'app'),
]);
const sidecar = imageFor('linux/amd64', 'sidecar', 'more');

const WORKLOADS = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  template:
    spec:
      initContainers: [{name: init, image: "${UPSTREAM}/org/sidecar:2"}]
      containers: [{name: app, image: "${UPSTREAM}/org/app:1"}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: app}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: app, image: "${UPSTREAM}/org/app:1"}]}}}}}
`;

let upstream: FakeUpstream;
let connected: Entrepot;
let workloads: string;

beforeEach(async () => {
  upstream = await FakeUpstream.start();
  upstream.add('org/app', app, '1');
  upstream.add('org/sidecar', sidecar, '2');
  connected = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
  workloads = join(connected.folder, 'workloads.yaml');
  await writeFile(workloads, WORKLOADS);
});

afterEach(async () => {
  await connected.remove();
  await upstream.stop();
});

async function succeed(entrepot: Entrepot, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await entrepot.command(...args);
  expect({ code, stderr }).toMatchObject({ code: 0 });
  return stdout;
}

/** The result of an export, and the bundle that it wrote. */
async function exported(...args: string[]): Promise<RunResult & { readonly bundle: string }> {
  const file = join(connected.folder, 'exported.tar');
  const done = await connected.command('export', '-o', file, ...args);
  return { ...done, bundle: done.code === 0 ? await readFile(file, 'utf8') : '' };
}

const pulled = (...more: string[]) =>
  succeed(connected, 'pull', '--from', workloads, '--platform', PLATFORMS, ...more);

describe('entrepot pull', () => {
  it('fetches the images of Kubernetes objects, once, beside a running server that then serves them', async () => {
    const events = (await pulled('--json'))
      .trim()
      .split('\n')
      .map(line => JSON.parse(line));
    expect(events.at(-1)).toMatchObject({ event: 'summary', pulled: 2, failed: [] });
    const blobs = new Set(
      [...app.images.slice(0, 2), sidecar].flatMap(image => [image.config, ...image.layers]),
    );
    expect(upstream.downloads().length).toBe(new Set([...blobs].map(({ digest }) => digest)).size);

    const before = upstream.downloads().length;
    await pulled();
    for (const { digest, size } of app.images[1]!.layers) {
      const got = await get(`${connected.url}/v2/org/app/blobs/${digest}?ns=${UPSTREAM}`);
      expect({ status: got.status, bytes: got.bytes }).toEqual({ status: 200, bytes: size });
    }
    expect(upstream.downloads().length).toBe(before);

    upstream.add('org/copy', sidecar, '2');
    const copy = await succeed(connected, 'pull', '--json', `${UPSTREAM}/org/copy:2`);
    expect(JSON.parse(copy.trim().split('\n').at(-1) ?? '')).toMatchObject({ pulled: 1, fetchedBytes: 0 });
    expect(upstream.downloads().length).toBe(before);
  });

  it('uses the platforms of the configuration, and those of the handler for a RuntimeClass', async () => {
    await connected.stop();
    connected = await connected.startAgain({
      upstreams: { [UPSTREAM]: { url: upstream.url, platforms: 'linux/arm64' } },
      runtimeHandlers: { mainframe: 'linux/s390x' },
    });
    // Who pulls what is missing may have another configuration.
    const missing = await connected.command('check', `${UPSTREAM}/org/app:1`);
    expect(missing).toMatchObject({ code: 1, stdout: `${UPSTREAM}/org/app:1 linux/arm64\n` });
    await succeed(connected, 'pull', `${UPSTREAM}/org/app:1`);
    await succeed(connected, 'check', `${UPSTREAM}/org/app:1`);
    const special = join(connected.folder, 'special.yaml');
    const spec = { runtimeClassName: 'mainframe', containers: [{ image: `${UPSTREAM}/org/app:1` }] };
    await writeFile(special, JSON.stringify({ kind: 'Pod', spec }));
    const lacking = await connected.command('check', '--from', special);
    expect(lacking).toMatchObject({ code: 1, stdout: `${UPSTREAM}/org/app:1 linux/s390x\n` });
    await succeed(connected, 'pull', '--from', special);
    await succeed(connected, 'check', '--from', special);
    // A class that the files describe may be called otherwise than its handler, and as anything at all.
    const [classes, pods] = ['classes.yaml', 'pods.yaml'].map(name => join(connected.folder, name));
    const handled = { kind: 'RuntimeClass', metadata: { name: 'big-iron' }, handler: 'mainframe' };
    await writeFile(classes!, JSON.stringify(handled));
    const runtimeClassNames = ['big-iron', 'constructor'];
    const other = `${UPSTREAM}/org/other:1`;
    upstream.add('org/other', app, '1');
    const containers = [{ name: 'other', image: other }];
    const items = runtimeClassNames.map(runtimeClassName => ({ spec: { runtimeClassName, containers } }));
    await writeFile(pods!, JSON.stringify({ kind: 'List', items }));
    await succeed(connected, 'pull', '--from', pods!, '--from', classes!);
    await succeed(connected, 'check', '--from', pods!, classes!);
    await succeed(connected, 'check', other, '--platform', 'linux/s390x,linux/arm64');
    expect(
      (await connected.command('check', `${UPSTREAM}/org/app:1`, '--platform', 'linux/amd64')).code,
    ).toBe(1);
  });

  it('uses the platforms of the nodes on which a pod may run', async () => {
    const pods = join(connected.folder, 'pods.yaml');
    const spec = {
      nodeSelector: { 'kubernetes.io/arch': 's390x' },
      containers: [{ image: `${UPSTREAM}/org/app:1` }],
    };
    await writeFile(pods, JSON.stringify({ kind: 'Pod', metadata: { name: 'far' }, spec }));
    const lacking = await connected.command('check', '--from', pods);
    expect(lacking).toMatchObject({ code: 1, stdout: `${UPSTREAM}/org/app:1 linux/s390x\n` });
    expect(lacking.stderr).toContain(`${UPSTREAM}/org/app:1 (Pod far: spec.containers[0])`);
    await succeed(connected, 'pull', '--from', pods);
    await succeed(connected, 'check', `${UPSTREAM}/org/app:1`, '--platform', 'linux/s390x');
    const usual = await connected.command('check', `${UPSTREAM}/org/app:1`, '--platform', 'linux/amd64');
    expect(usual.code).toBe(1);
  });

  it('says of a single image that it is for none of the given platforms', async () => {
    const sidecarName = `${UPSTREAM}/org/sidecar:2`;
    await succeed(connected, 'pull', sidecarName);
    await succeed(connected, 'check', sidecarName, '--platform', PLATFORMS);
    const list = join(connected.folder, 'list.txt');
    await writeFile(list, `${sidecarName} linux/arm64\n`);
    for (const args of [
      [sidecarName, '--platform', 'linux/arm64'],
      ['--from', list],
    ]) {
      const { code, stderr } = await connected.command('check', ...args);
      expect(code).toBe(1);
      expect(stderr).toContain('an image for linux/arm64 (this one is for linux/amd64) is missing\n');
    }
  });

  it('includes likely images of custom resources only with --likely, and always lists them', async () => {
    const objects = join(connected.folder, 'objects.yaml');
    const prometheus = { image: `${UPSTREAM}/org/sidecar:2` };
    const custom = { kind: 'Prometheus', metadata: { name: 'p' }, spec: prometheus };
    await writeFile(
      objects,
      `${WORKLOADS.replace(/initContainers: .*/, '')}---\n${JSON.stringify(custom)}\n`,
    );
    const options = ['--from', objects, '--platform', PLATFORMS];
    const { code, stderr } = await connected.command('pull', ...options);
    expect(code).toBe(0);
    expect(stderr).toContain(
      `likely an image, skipped without --likely: ${UPSTREAM}/org/sidecar:2 (Prometheus p: spec.image)`,
    );
    expect((await connected.command('check', `${UPSTREAM}/org/sidecar:2`)).code).toBe(1);
    await succeed(connected, 'pull', '--likely', ...options);
    await succeed(connected, 'check', '--likely', ...options);
    await succeed(connected, 'check', `${UPSTREAM}/org/sidecar:2`);
  });

  it('includes an image once under whatever names, as does export', async () => {
    upstream.add('org/app', app, 'latest');
    await connected.stop();
    connected = await connected.startAgain({
      upstreams: { [UPSTREAM]: { url: upstream.url, platforms: 'linux/arm64' } },
      runtimeHandlers: { mainframe: 'linux/s390x', other: 'linux/riscv64' },
    });
    const image = `${UPSTREAM}/org/app`;
    await succeed(connected, 'pull', image, '--all-platforms');
    const bundleOf = async (...args: string[]) => {
      const { code, stderr, bundle } = await exported(...args);
      expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining('1 image, ') });
      return bundle;
    };
    const configured = await bundleOf(image);
    for (const wanted of [1, 2]) expect(configured).toContain(app.images[wanted]!.layers[1]!.digest);
    expect(configured).not.toContain(app.images[0]!.layers[1]!.digest);
    expect((await connected.spawnCommand('export', '-o', '-', image)).stdout).toBe(configured);
    expect(await bundleOf(image, `${image}:latest`)).toBe(configured);
    expect(await bundleOf(image, '--platform', 'linux/arm64,linux/aarch64,linux/s390x')).toBe(configured);
    upstream.add('org/other', app, '1');
    await succeed(connected, 'pull', `${UPSTREAM}/org/other:1`, '--platform', 'linux/amd64');
    const { code, stderr } = await connected.spawnCommand('export', '-o', '-', `${UPSTREAM}/org/other:1`);
    expect({ code, stderr }).toMatchObject({ code: 1, stderr: expect.stringContaining('linux/arm64') });
  });

  it('takes a name with an architecture to mean what a node gets for it, as do check and export', async () => {
    await connected.stop();
    const upstreams = { [UPSTREAM]: { url: upstream.url, archInName: true } };
    connected = await connected.startAgain({ upstreams });
    const named = `${UPSTREAM}/org/app-arm64:1`;
    expect((await connected.command('check', named)).stdout).toBe(`${named}\n`);
    await succeed(connected, 'pull', named);
    await succeed(connected, 'check', named);
    await succeed(connected, 'check', `${UPSTREAM}/org/app:1`, '--platform', 'linux/arm64');
    const bundle = join(connected.folder, 'arm64.tar');
    await succeed(connected, 'export', named, '-o', bundle);
    const isolated = await Entrepot.start({ upstreams, offline: true });
    try {
      await succeed(isolated, 'import', bundle);
      const got = await get(`${isolated.url}/v2/org/app-arm64/manifests/1?ns=${UPSTREAM}`);
      expect(got.headers['docker-content-digest']).toBe(app.images[1]!.manifest.digest);
    } finally {
      await isolated.remove();
    }
  });

  it('fetches only the requested platforms, even if others are prefetched for nodes', async () => {
    await connected.stop();
    connected = await connected.startAgain({
      upstreams: { [UPSTREAM]: { url: upstream.url, prefetch: true, platforms: 'linux/arm64' } },
    });
    await succeed(connected, 'pull', `${UPSTREAM}/org/app:1`, '--platform', 'linux/amd64');
    const asked = new Set(upstream.requests.map(({ reference }) => reference));
    for (const { digest } of app.images[0]!.layers) expect(asked).toContain(digest);
    expect(asked).not.toContain(app.images[1]!.manifest.digest);
  });

  it('continues after failures, and lists them at the end', async () => {
    const images = [`${UPSTREAM}/org/none:1`, 'nowhere.example/x:1', 'Bad Name', `${UPSTREAM}/org/sidecar:2`];
    const { code, stderr } = await connected.command('pull', '--serialize', ...images);
    expect(code).toBe(1);
    expect(stderr).toContain('1 of 4 images are stored; 3 failed');
    expect(stderr).toMatch(/org\/none:1: upstream has no such content.* responded 404\)/);
    expect(await succeed(connected, 'check', `${UPSTREAM}/org/sidecar:2`)).toBe('');
  });

  it.each([
    { options: ['--serialize'], atOnce: 1 },
    { options: ['--max-parallel', '2'], atOnce: 2 },
    { options: [], atOnce: 3 },
  ])('with the options $options pulls $atOnce of three images at a time', async ({ options, atOnce }) => {
    for (const name of ['one', 'two', 'three']) upstream.add(name, imageFor('linux/amd64', name), '1');
    await succeed(connected, 'pull', ...['one', 'two', 'three'].map(at => `${UPSTREAM}/${at}:1`), ...options);
    const asked = upstream.requests.map(({ repository }) => repository);
    // An image is under way from the first that is asked of it to the last.
    const underWay = asked.map((_, now) => {
      const begun = new Set(asked.slice(0, now + 1));
      return [...begun].filter(repository => asked.lastIndexOf(repository) >= now).length;
    });
    expect(Math.max(...underWay)).toBe(atOnce);
  });

  it('ends at once when it is interrupted, even while upstream does not respond', async () => {
    const behave = upstream.misbehave({ kind: 'manifest', hang: true });
    const pulling = await connected.begin('pull', `${UPSTREAM}/org/sidecar:2`);
    await until('the question', 60_000, async () => upstream.count('manifest') > 0);
    process.kill(pulling.pid, 'SIGINT');
    await until('the end', 30_000, async () => !pulling.isRunning);
    behave();
    expect(pulling.exitCode).toBe(130);
    expect(pulling.logs()).toContain('sidecar:2: stopped\n');
  });

  it('keeps what it has fetched when it is interrupted, and the next one fetches the rest', async () => {
    const [first, second] = sidecar.layers.slice(1).map(({ digest }) => digest);
    const behave = upstream.misbehave({ reference: second!, hangAtByte: 100_000 });
    const pulling = await connected.begin('pull', `${UPSTREAM}/org/sidecar:2`);
    await until('the other layers to be held', 60_000, async () => {
      const held = await succeed(connected, 'have');
      return [base.digest, first!].every(digest => held.includes(digest));
    });
    const ingests = join(connected.folder, 'store', 'ingest');
    await until('half of the last layer', 60_000, async () => {
      // What has just been stored is no longer there.
      const names = await readdir(ingests);
      const found = await Promise.all(names.map(name => absentAsUndefined(stat(join(ingests, name)))));
      const sizes = found.flatMap(each => each?.size ?? []);
      return sizes.length === 1 && sizes[0] === 100_000;
    });
    process.kill(pulling.pid, 'SIGINT');
    await until('the end', 30_000, async () => !pulling.isRunning);
    expect(pulling.exitCode).toBe(130);
    expect(pulling.logs()).toContain('stopped; what has been done is kept');
    behave();
    await succeed(connected, 'pull', `${UPSTREAM}/org/sidecar:2`);
    const gets = (digest: string) =>
      upstream.downloads().filter(({ reference }) => reference === digest).length;
    expect([base.digest, first!].map(gets)).toEqual([1, 1]);
    const ranges = upstream.downloads().filter(({ reference }) => reference === second);
    expect(ranges.map(({ headers }) => headers['range'])).toEqual([undefined, 'bytes=95904-']);
    await succeed(connected, 'check', `${UPSTREAM}/org/sidecar:2`);
  });
});

describe('entrepot check', () => {
  it('lists incomplete images, for the connected side', async () => {
    await succeed(connected, 'pull', `${UPSTREAM}/org/sidecar:2`, `${UPSTREAM}/org/app:1`);
    await succeed(connected, 'check', '--from', workloads);
    const { code, stdout, stderr } = await connected.command(
      'check',
      '--from',
      workloads,
      '--platform',
      'linux/amd64',
      '--platform',
      'linux/arm64',
      'Bad Name',
    );
    expect({ code, stdout }).toEqual({ code: 1, stdout: `${UPSTREAM}/org/app:1 ${PLATFORMS}\n` });
    expect(stderr).toContain('linux/arm64');
    expect(stderr).toMatch(/^Bad Name: .*"Bad Name"$/m);
    const args = [...STARTER, 'pull', '--from', '-', '--config', connected.configFile];
    expect(await tryRun(process.execPath, args, { input: stdout })).toMatchObject({
      code: 0,
      stderr: expect.stringContaining('1 of 1 images are stored\n'),
    });
    await succeed(connected, 'check', '--from', workloads, '--platform', PLATFORMS);
  });

  it('names the file and line of what is no image in a list, and so do pull and export', async () => {
    const list = join(connected.folder, 'list.txt');
    await writeFile(
      list,
      `# images\n${UPSTREAM}/org/sidecar:2\n${UPSTREAM}/org/App:1\n${UPSTREAM}/org/app:1 linux/amd65,tow\n`,
    );
    const out = join(connected.folder, 'out.tar');
    for (const command of [['pull'], ['check'], ['export', '-o', out]]) {
      const { code, stdout, stderr } = await connected.command(...command, '--from', list);
      expect([command, code, stdout]).toEqual([command, 2, '']);
      expect(stderr).toMatch(
        /list\.txt:3: .*up.example\/org\/App:1"\n.*list\.txt:4: "tow" is not a platform/,
      );
      expect(stderr).not.toContain('missing');
    }
    expect(upstream.count('manifest')).toBe(0);
  });

  it('lists an image with all its platforms as such, and one with an unsupported digest, too', async () => {
    const list = join(connected.folder, 'list.txt');
    const unknown = `${UPSTREAM}/org/app:1@sha384:${'a'.repeat(96)}`;
    await writeFile(list, `${UPSTREAM}/org/app:1 all\n${unknown}\n`);
    await succeed(connected, 'pull', `${UPSTREAM}/org/app:1`);
    const lacking = await connected.command('check', '--from', list);
    expect(lacking).toMatchObject({ code: 1, stdout: `${UPSTREAM}/org/app:1 all\n${unknown}\n` });
    const { code, stderr } = await connected.command('pull', '--from', list);
    expect({ code, stderr }).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('unsupported digest: sha384:'),
    });
    await succeed(connected, 'check', `${UPSTREAM}/org/app:1`, '--all-platforms');
    const typed = await connected.command('check', `${UPSTREAM}/org/sidecar:2`, '--all-platforms');
    expect(typed).toMatchObject({ code: 1, stdout: `${UPSTREAM}/org/sidecar:2 all\n` });
  });
});

describe('entrepot export --from', () => {
  it('takes the images of a list or of Kubernetes objects, with the platforms in the list', async () => {
    await pulled();
    const [amd64, arm64] = app.images.map(image => image.layers[1]!.digest);
    const all = await exported('--from', workloads);
    expect(all).toMatchObject({ code: 0, stderr: expect.stringContaining('2 images, ') });
    for (const { digest } of sidecar.layers) expect(all.bundle).toContain(digest);
    for (const digest of [amd64!, arm64!]) expect(all.bundle).toContain(digest);
    const list = join(connected.folder, 'list.txt');
    await writeFile(list, `${UPSTREAM}/org/app:1 linux/arm64\n`);
    const { code, bundle } = await exported('--from', list);
    expect({ code, amd64: bundle.includes(amd64!), arm64: bundle.includes(arm64!) }).toEqual({
      code: 0,
      amd64: false,
      arm64: true,
    });
    await writeFile(list, `${UPSTREAM}/org/app:1 linux/s390x\n`);
    expect(await exported('--from', list)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('linux/s390x'),
    });
    expect(await exported()).toMatchObject({
      code: 2,
      stderr: expect.stringContaining('no images are given'),
    });
  });
});

describe('an offline registry', () => {
  it('serves what is stored, answers the rest as not stored, and sends no packet upstream', async () => {
    await succeed(connected, 'pull', `${UPSTREAM}/org/app:1`);
    await connected.stop();
    connected = await connected.startAgain({
      upstreams: { [UPSTREAM]: { url: upstream.url, pullPolicy: 'Always' } },
      offline: true,
    });
    const before = upstream.requests.length;
    const ask = (path: string) => get(`${connected.url}/v2/org/${path}?ns=${UPSTREAM}`);
    expect((await ask('app/manifests/1')).status).toBe(200);
    expect((await ask(`app/blobs/${base.digest}`)).status).toBe(200);
    expect((await ask('app/tags/list')).status).toBe(200);
    const missing = app.images[1]!.layers[1]!.digest;
    for (const [path, name] of [
      ['sidecar/manifests/2', `${UPSTREAM}/org/sidecar:2`],
      [`sidecar/manifests/${sidecar.manifest.digest}`, `${UPSTREAM}/org/sidecar@${sidecar.manifest.digest}`],
      [`app/blobs/${missing}`, `the blob ${missing} of ${UPSTREAM}/org/app`],
      ['none/tags/list', `${UPSTREAM}/org/none`],
    ] as const) {
      const got = await ask(path);
      expect(got.status).toBe(404);
      expect(got.text).toContain(name);
      expect(got.text).toContain('not stored');
    }
    expect((await connected.command('refresh', `${UPSTREAM}/org/app:1`)).code).toBe(1);
    expect((await connected.command('pull', `${UPSTREAM}/org/sidecar:2`)).stderr).toContain('not stored');
    expect(upstream.requests.length).toBe(before);
    expect(await upstream.connections()).toBe(0);
  });

  it('can be made one by the option of serve alone', async () => {
    await connected.stop();
    const serving = await connected.begin('serve', '--offline');
    try {
      await until('the server to be ready', 20_000, () => answers(`${connected.ops}/readyz`, 200));
      const got = await get(`${connected.url}/v2/org/app/manifests/1?ns=${UPSTREAM}`);
      expect(got.status).toBe(404);
      expect(got.text).toContain('not stored');
      expect(upstream.requests).toEqual([]);
    } finally {
      await serving.stop();
    }
    expect(serving.logs()).toContain('"offline":true');
  });
});

describe('a bundle', () => {
  let island: Entrepot;

  beforeEach(async () => {
    // A port where nobody listens: whatever is asked for there fails at once.
    island = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: 'http://127.0.0.1:9' } } });
  });

  afterEach(() => island.remove());

  async function expectServed(repository: string, tag: string, image: Image): Promise<void> {
    const manifest = await get(`${island.url}/v2/${repository}/manifests/${tag}?ns=${UPSTREAM}`);
    expect(manifest.status).toBe(200);
    for (const { digest, size } of [image.manifest]) {
      const got = await get(`${island.url}/v2/${repository}/manifests/${digest}?ns=${UPSTREAM}`);
      expect({ status: got.status, bytes: got.bytes }).toEqual({ status: 200, bytes: size });
    }
    for (const { digest, size } of [image.config, ...image.layers]) {
      const got = await get(`${island.url}/v2/${repository}/blobs/${digest}?ns=${UPSTREAM}`);
      expect({ status: got.status, bytes: got.bytes }).toEqual({ status: 200, bytes: size });
    }
  }

  it('makes images available without a network, under their usual names', async () => {
    await pulled();
    const file = join(connected.folder, 'bundle.tar');
    const references = [`${UPSTREAM}/org/app:1`, `${UPSTREAM}/org/sidecar:2`];
    await succeed(connected, 'export', ...references, '-o', file);
    const out = await succeed(island, 'import', file);
    expect(out).toContain(`${UPSTREAM}/org/app:1 ${app.manifest.digest}`);
    await expectServed('org/app', '1', app.images[0]!);
    await expectServed('org/app', '1', app.images[1]!);
    await expectServed('org/sidecar', '2', sidecar);
    await succeed(island, 'check', '--from', workloads, '--platform', PLATFORMS);
    // Who carries bundles can look up later which there were.
    for (const [registry, kind] of [
      [connected, 'export'],
      [island, 'import'],
    ] as const) {
      const { entries }: BundlesDocument = JSON.parse(
        await (await fetch(`${registry.ops}/admin/v1/bundles`)).text(),
      );
      expect(entries).toMatchObject([{ kind, file, images: 2, names: references }]);
    }
  });

  it('has all platforms only if they are stored, and is imported as such only if it contains them', async () => {
    await pulled();
    const [part, whole] = ['part.tar', 'whole.tar'].map(name => join(connected.folder, name));
    const [image, s390x] = [`${UPSTREAM}/org/app:1`, app.images[2]!];
    expect(await connected.command('export', image, '--all-platforms', '-o', whole!)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        new RegExp(
          `${s390x.manifest.digest}.*fetch what is missing with entrepot pull --all-platforms ${image}, or `,
        ),
      ),
    });
    expect(
      await connected.command('export', image, '--platform', 'linux/riscv64', '-o', whole!),
    ).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /linux\/riscv64, which its index does not list \(select platforms with --platform\)/,
      ),
    });
    await succeed(connected, 'export', image, '-o', part!);
    expect(await island.command('import', part!, '--all-platforms')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('linux/s390x'),
    });
    await succeed(connected, 'pull', image, '--all-platforms');
    await succeed(connected, 'export', image, '--all-platforms', '-o', whole!);
    await succeed(island, 'import', whole!, '--all-platforms');
    await expectServed('org/app', '1', s390x);
    for (const command of [
      ['pull', image],
      ['check', image],
      ['export', image, '-o', whole!],
      ['import', part!],
    ]) {
      const both = await connected.command(...command, '--all-platforms', '--platform', 'linux/amd64');
      expect(both).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('--all-platforms') });
    }
  });

  it('contains only the difference if the receiver said what it has', async () => {
    await pulled();
    const [first, have, second] = ['1.tar', 'HAVE.json', '2.tar'].map(name => join(connected.folder, name));
    await succeed(connected, 'export', `${UPSTREAM}/org/sidecar:2`, '-o', first!);
    await succeed(island, 'import', first!);
    await succeed(island, 'have', '-o', have!);
    await succeed(connected, 'export', `${UPSTREAM}/org/app:1`, '--have', have!, '-o', second!);
    // Two layers of 200,000 bytes, and not the base of 700,000.
    expect((await stat(second!)).size).toBeLessThan(500_000);
    await succeed(island, 'import', second!);
    await expectServed('org/app', '1', app.images[1]!);
  });

  it('is not written for a list of the receiver that cannot be read, or is none', async () => {
    await pulled();
    const [absent, other, out] = ['absent.json', 'other.json', 'out.tar'].map(name =>
      join(connected.folder, name),
    );
    await writeFile(other!, JSON.stringify({ blobs: [] }));
    for (const [have, said] of [
      [absent!, `--have: ${absent} cannot be read: it does not exist (ENOENT)\n`],
      [other!, `--have: ${other}: the have-list was not written by "entrepot have", or was changed\n`],
    ]) {
      const made = await connected.command('export', `${UPSTREAM}/org/app:1`, '--have', have!, '-o', out!);
      expect(made).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining(said!) });
      await expect(stat(out!)).rejects.toMatchObject({ code: 'ENOENT' });
    }
  });

  it('includes signatures, those that refer to the image and those that are tagged after its digest', async () => {
    const about = { subject: sidecar.manifest, artifactType: 'application/vnd.example.signature' };
    const referring = imageOf([randomBlob(100, 'referring')], about);
    const tagged = imageOf([randomBlob(100, 'tagged')]);
    const tag = `${sidecar.manifest.digest.replace(':', '-')}.sig`;
    upstream.add('org/sidecar', referring);
    upstream.add('org/sidecar', tagged, tag);
    const file = join(connected.folder, 'signed.tar');
    await succeed(connected, 'pull', `${UPSTREAM}/org/sidecar:2`, '--referrers');
    await succeed(connected, 'export', `${UPSTREAM}/org/sidecar:2`, '--referrers', '-o', file);
    await succeed(island, 'import', file);
    await expectServed('org/sidecar', '2', sidecar);
    await expectServed('org/sidecar', tag, tagged);
    await expectServed('org/sidecar', referring.manifest.digest, referring);
    const list = await get(
      `${island.url}/v2/org/sidecar/referrers/${sidecar.manifest.digest}?ns=${UPSTREAM}`,
    );
    expect(list.text).toContain(referring.manifest.digest);
  });

  it('is not written if the export is interrupted while nobody reads its pipe', async () => {
    await succeed(connected, 'pull', `${UPSTREAM}/org/sidecar:2`);
    const args = [
      ...STARTER,
      'export',
      `${UPSTREAM}/org/sidecar:2`,
      '-o',
      '-',
      '--config',
      connected.configFile,
    ];
    const exporting = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let told = '';
    exporting.stderr.on('data', chunk => (told += chunk));
    await once(exporting.stdout, 'readable');
    exporting.kill('SIGINT');
    const [code] = await once(exporting, 'exit');
    expect({ code, told }).toEqual({
      code: 130,
      told: expect.stringContaining('stopped; no bundle was written'),
    });
  });

  it('whose import is interrupted while its pipe provides nothing is kept as far as it was read', async () => {
    await succeed(connected, 'pull', `${UPSTREAM}/org/sidecar:2`);
    const bundle = join(connected.folder, 'sidecar.tar');
    await succeed(connected, 'export', `${UPSTREAM}/org/sidecar:2`, '-o', bundle);
    const bytes = await readFile(bundle);
    const args = [...STARTER, 'import', '-', '--config', island.configFile];
    const importing = spawn(process.execPath, args, { stdio: ['pipe', 'ignore', 'pipe'] });
    let told = '';
    importing.stderr.on('data', chunk => (told += chunk));
    importing.stdin.write(bytes.subarray(0, bytes.byteLength - 100_000));
    const have = () => succeed(island, 'have');
    await until('a blob to be held', 60_000, async () => (await have()).includes('sha256:'));
    const held = JSON.parse(await have()).blobs.length;
    importing.kill('SIGINT');
    const [code] = await once(importing, 'exit');
    importing.stdin.destroy();
    expect({ code, told }).toEqual({
      code: 130,
      told: expect.stringContaining('stopped; what has been done'),
    });
    expect(JSON.parse(await have()).blobs.length).toBeGreaterThanOrEqual(held);
  });

  it('with an image below an unknown prefix is refused, and never taken for one of Docker Hub', async () => {
    const home = await Entrepot.start({ hosted: { prefixes: ['team-a'], anonymous: 'push' } });
    try {
      const { config, layers, manifest } = sidecar;
      for (const blob of [config, ...layers]) {
        const session = await beginUpload(home.url, 'team-a/app');
        const separator = session.includes('?') ? '&' : '?';
        await sendBytes('PUT', `${home.url}${session}${separator}digest=${blob.digest}`, blob);
      }
      const put = { method: 'PUT', body: bytesOf(manifest), headers: { 'content-type': manifest.mediaType } };
      expect((await get(`${home.url}/v2/team-a/app/manifests/v1`, put)).status).toBe(201);
      const file = join(connected.folder, 'private.tar');
      await succeed(home, 'export', 'team-a/app:v1', '-o', file);

      for (const flags of [[], ['--public'], ['--rename', 'team-a/app=team-b/app']]) {
        const { code, stderr } = await island.command('import', file, ...flags);
        expect({ code, stderr }).toEqual({
          code: 1,
          stderr: expect.stringMatching(
            /team-a\/app:v1: "team-[ab]\/app:v1" begins with neither .*hosted\.prefixes.*--rename OLD=NEW/,
          ),
        });
      }
      expect(await succeed(island, 'images')).not.toContain('team-');
      const pushed = {
        upstreams: { [UPSTREAM]: { url: 'http://127.0.0.1:9' } },
        hosted: { anonymous: 'push' },
      };
      await island.stop();
      island = await island.startAgain({
        ...pushed,
        hosted: { ...pushed.hosted, prefixes: ['tools', 'team-a'] },
      });
      await succeed(island, 'import', file);
      await succeed(island, 'import', file, '--rename', 'team-a/app=tools/app');
      for (const name of ['team-a/app', 'tools/app'])
        expect((await get(`${island.url}/v2/${name}/manifests/v1`)).status).toBe(200);
      await succeed(island, 'import', file, '--rename', 'team-a/app=docker.io/team-a/app');
    } finally {
      await home.remove();
    }
  });

  describe('imported with --dry-run', () => {
    const dryRun = (entrepot: Entrepot, ...args: string[]) =>
      entrepot.command('import', '--dry-run', '--json', ...args);
    const rowsIn = (stdout: string) =>
      stdout
        .trim()
        .split('\n')
        .map(line => JSON.parse(line));

    it('is listed with how much of it is stored, and changes nothing', async () => {
      await pulled();
      const [all, one] = ['all.tar', 'one.tar'].map(name => join(connected.folder, name));
      await succeed(connected, 'export', `${UPSTREAM}/org/app:1`, `${UPSTREAM}/org/sidecar:2`, '-o', all!);
      await succeed(connected, 'export', `${UPSTREAM}/org/sidecar:2`, '-o', one!);
      await succeed(island, 'import', one!);
      const before = [await succeed(island, 'images'), await succeed(island, 'have')];
      const { code, stdout, stderr } = await dryRun(island, all!);
      expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining('2 images, ') });
      expect(rowsIn(stdout)).toEqual([
        {
          file: all,
          image: `${UPSTREAM}/org/app:1`,
          name: `${UPSTREAM}/org/app:1`,
          digest: app.manifest.digest,
          platforms: ['linux/amd64', 'linux/arm64'],
          bytes: expect.any(Number),
          // Two layers and two configs: the base came with the sidecar.
          newBytes: 400_000 + app.images[0]!.config.size + app.images[1]!.config.size,
          state: 'new',
          replaces: null,
          reason: null,
        },
        expect.objectContaining({
          image: `${UPSTREAM}/org/sidecar:2`,
          digest: sidecar.manifest.digest,
          platforms: ['linux/amd64'],
          newBytes: 0,
          state: 'held',
        }),
      ]);
      expect([await succeed(island, 'images'), await succeed(island, 'have')]).toEqual(before);
      const renamed = await dryRun(island, one!, '--rename', `${UPSTREAM}/org/app:1`);
      expect(rowsIn(renamed.stdout)).toMatchObject([{ image: `${UPSTREAM}/org/app:1`, state: 'new' }]);
      await succeed(island, 'import', all!);
      const replacing = await dryRun(island, one!, '--rename', `${UPSTREAM}/org/app:1`);
      expect(rowsIn(replacing.stdout)).toMatchObject([
        { state: 'replaces', replaces: app.manifest.digest, name: `${UPSTREAM}/org/sidecar:2` },
      ]);
      const table = await succeed(island, 'import', '--dry-run', one!);
      expect(table).toMatch(
        /^IMAGE +PLATFORMS +SIZE +NEW +STATE +DIGEST\n.*sidecar:2 +linux\/amd64 .* held +sha256:/,
      );
    });

    it('marks each image that is refused, and lists every reason', async () => {
      upstream.add('org/app', sidecar, '3');
      await succeed(
        connected,
        'pull',
        ...['app:1', 'app:3', 'sidecar:2'].map(name => `${UPSTREAM}/org/${name}`),
      );
      const file = join(connected.folder, 'three.tar');
      const names = ['app:1', 'app:3', 'sidecar:2'].map(name => `${UPSTREAM}/org/${name}`);
      await succeed(connected, 'export', ...names, '-o', file);
      const rename = ['--rename', `${UPSTREAM}/org/app=nowhere.example/app`];
      const { code, stdout, stderr } = await dryRun(island, file, ...rename);
      expect(code).toBe(1);
      const refused = { image: null, state: 'refused', reason: expect.stringContaining('nowhere.example') };
      expect(rowsIn(stdout)).toMatchObject([
        { name: names[0], ...refused },
        { name: names[1], ...refused },
        { name: names[2], image: names[2], state: 'new', reason: null },
      ]);
      expect(stderr).toContain('would be refused because of 2 of its 3 images');
      for (const name of names.slice(0, 2)) expect(stderr).toContain(`\n  ${name}: `);
      expect((await island.command('import', file, ...rename)).code).toBe(1);
      expect(await succeed(island, 'images', '--json')).toBe('');
    });

    it('needs no store and creates none, and knows the names of the configuration', async () => {
      await pulled();
      const file = join(connected.folder, 'bundle.tar');
      await succeed(connected, 'export', `${UPSTREAM}/org/sidecar:2`, '-o', file);
      const store = join(connected.folder, 'no-store');
      for (const [upstreams, code, said] of [
        [{ [UPSTREAM]: { url: upstream.url } }, 0, '1 image, '],
        [{}, 1, 'would be refused: '],
      ] as const) {
        const configFile = join(connected.folder, 'other.yaml');
        await writeFile(configFile, JSON.stringify({ upstreams, storage: { path: store } }));
        const args = ['import', '--dry-run', '--json', file, '--config', configFile];
        const run = await runCommand(...args);
        expect(run).toMatchObject({ code, stderr: expect.stringContaining(`no store in ${store}`) });
        expect(run.stderr).toContain(said);
        const [row] = rowsIn(run.stdout);
        expect(row).toMatchObject({
          name: `${UPSTREAM}/org/sidecar:2`,
          state: code === 0 ? 'new' : 'refused',
        });
        expect(row.newBytes).toBe(row.bytes - sidecar.manifest.size);
        await expect(stat(store)).rejects.toThrow('ENOENT');
      }
    });

    it('is refused like the import: damaged, truncated, a delta for another store, or incomplete', async () => {
      await pulled();
      const [whole, thin, have] = ['whole.tar', 'thin.tar', 'HAVE.json'].map(name =>
        join(connected.folder, name),
      );
      await succeed(connected, 'export', `${UPSTREAM}/org/sidecar:2`, '-o', whole!);
      await succeed(connected, 'have', '-o', have!);
      await succeed(connected, 'export', `${UPSTREAM}/org/app:1`, '--have', have!, '-o', thin!);
      const bytes = await readFile(whole!);
      const [damaged, cut] = ['damaged.tar', 'cut.tar'].map(name => join(connected.folder, name));
      const broken = Buffer.from(bytes);
      const at = bytes.indexOf(bytesOf(sidecar.layers[0]!));
      broken.writeUInt8(bytes.readUInt8(at) ^ 1, at);
      await writeFile(damaged!, broken);
      await writeFile(cut!, bytes.subarray(0, 300_000));
      for (const [file, reason] of [
        [damaged, 'a different digest'],
        [cut, ''],
        [thin, 'which was made for a registry that already has it'],
      ] as const) {
        const dry = await dryRun(island, file!);
        const real = await island.command('import', file!);
        expect({ dry: dry.code, real: real.code }).toEqual({ dry: 1, real: 1 });
        expect(dry.stderr).toContain(reason);
        expect(dry.stderr.replace('would be refused: ', '').replace(/ \([^)]*\)\n$/, '')).toBe(
          real.stderr.replace(/ \([^)]*\)\n$/, ''),
        );
      }
    });
  });

  it('is not written with a damaged blob, and the error names the platform that was lost', async () => {
    await pulled();
    const file = join(connected.folder, 'bundle.tar');
    const { digest, size } = app.images[1]!.layers[1]!;
    const [algorithm = '', hex = ''] = digest.split(':');
    const path = join(connected.folder, 'store', 'blobs', algorithm, hex.slice(0, 2), hex);
    await chmod(path, 0o644);
    await writeFile(path, Buffer.alloc(size, '?'));
    const unverified = await connected.command('export', `${UPSTREAM}/org/app:1`, '-o', file);
    const damaged = { code: 1, stderr: expect.stringContaining(`${digest} is damaged`) };
    expect(unverified).toMatchObject(damaged);
    expect((await readdir(connected.folder)).filter(name => name.startsWith('bundle.tar'))).toEqual([]);
    expect(await connected.command('scrub', '--rate', '1GiB')).toMatchObject({ code: 1 });
    const lost = await connected.command('export', `${UPSTREAM}/org/app:1`, '-o', file);
    expect(lost).toMatchObject(damaged);
    await succeed(connected, 'export', `${UPSTREAM}/org/app:1`, '--platform', 'linux/amd64', '-o', file);
    await succeed(connected, 'pull', `${UPSTREAM}/org/app:1`, '--platform', PLATFORMS);
    await succeed(connected, 'export', `${UPSTREAM}/org/app:1`, '-o', file);
  });

  it('can be imported under another name', async () => {
    await pulled();
    const file = join(connected.folder, 'bundle.tar');
    await succeed(connected, 'export', `${UPSTREAM}/org/sidecar:2`, '-o', file);
    const rename = `${UPSTREAM}/org/sidecar=${UPSTREAM}/other/name`;
    const unused = `${UPSTREAM}/org/none`;
    const renames = ['--rename', `${rename},${unused}=${UPSTREAM}/other/none`];
    // A mistyped name would publish the image under the one that it should not have.
    for (const flags of [['--dry-run'], []]) {
      const mistyped = await island.command('import', ...flags, file, ...renames);
      expect(mistyped.code).toBe(1);
      expect(mistyped.stderr).toContain(`--rename: no image has the name ${unused} (`);
      expect(await succeed(island, 'images', '--json')).toBe('');
    }
    const { code, stderr } = await island.command('import', 'nowhere.tar', file, '--rename', rename);
    // One that cannot be read does not keep the others out.
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/✗ nowhere\.tar: it cannot be read: [^]*✓ .*: 1 image; 4 blobs added, /),
    });
    await expectServed('other/name', '2', sidecar);
    expect((await get(`${island.url}/v2/org/sidecar/manifests/2?ns=${UPSTREAM}`)).status).toBe(503);
    // Nor does a name that may be in it.
    const unread = await island.command(
      'import',
      'nowhere.tar',
      file,
      '--rename',
      `${unused}=${UPSTREAM}/other/none`,
    );
    expect(unread).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /✗ nowhere\.tar: .*\n[^]*✓ .*: 1 image; .*\n[^]*org\/none \(an archive that failed may contain it\)/,
      ),
    });
    await expectServed('org/sidecar', '2', sidecar);
  });
});
