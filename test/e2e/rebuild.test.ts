// A store that has lost its index, and gets a new one of what lies in its folder or bucket.
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { imageOf, indexOf, type Image, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { pushBlob, putManifest } from '../support/push-client.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';

describe.each(['folder', 'bucket'])('with its blobs in a %s', place => {
  let folder: string;
  let s3: FakeS3;
  let upstream: FakeUpstream;
  let entrepot: Entrepot;

  beforeEach(async () => {
    folder = await makeTempFolder('rebuild');
    s3 = await FakeS3.start();
    upstream = await FakeUpstream.start();
    entrepot = await Entrepot.start({
      upstreams: { [UPSTREAM]: { url: upstream.url } },
      hosted: { prefixes: ['team'], anonymous: 'push', delete: true },
      ...(place === 'bucket' && { storage: { s3: await s3.config(folder, 'entrepot/') } }),
    });
  });

  afterEach(async () => {
    await entrepot.remove();
    await upstream.stop();
    await s3.close();
    await removeFolder(folder);
  });

  const store = () => join(entrepot.folder, 'store');
  const url = (path: string) => `${entrepot.url}/v2/${path}`;

  async function push(name: string, tag: string, image: Image): Promise<void> {
    for (const blob of [image.config, ...image.layers]) await pushBlob(entrepot.url, name, blob);
    await putManifest(entrepot.url, name, tag, image.manifest);
  }

  /** What is recorded of hosted images. */
  async function records(): Promise<readonly string[]> {
    const isRecord = (name: string) => /^images\/.+\/sha\d+-[0-9a-f]+$/.test(name);
    if (place === 'bucket') {
      const objects = [...s3.objects].map(([key, { bytes }]) => ({
        name: key.replace('entrepot/', ''),
        bytes,
      }));
      return objects.filter(({ name }) => isRecord(name)).map(({ bytes }) => String(bytes));
    }
    const names = (await readdir(store(), { recursive: true })).filter(isRecord);
    return Promise.all(names.map(name => readFile(join(store(), name), 'utf8')));
  }

  /** Of a folder the index, of a bucket everything else. */
  async function lose(): Promise<void> {
    if (place === 'bucket') {
      await rm(store(), { recursive: true });
      await mkdir(store(), { mode: 0o700 });
      return;
    }
    for (const name of await readdir(store())) if (name.startsWith('index.db')) await rm(join(store(), name));
  }

  async function expectPulled(name: string, reference: string, image: Image): Promise<void> {
    const manifest = await get(url(`${name}/manifests/${reference}`));
    expect([manifest.status, `sha256:${manifest.sha256}`]).toEqual([200, image.manifest.digest]);
    expect(manifest.headers['content-type']).toBe(image.manifest.mediaType);
    for (const blob of [image.config, ...image.layers]) {
      const got = await get(url(`${name}/blobs/${blob.digest}`));
      expect([got.status, `sha256:${got.sha256}`]).toEqual([200, blob.digest]);
    }
  }

  it('serves all hosted images as before, and no deleted ones, by digest and tag, until garbage is collected and after it', async () => {
    const [app, other, gone] = ['app', 'other', 'gone'].map(of => imageOf([randomBlob(50_000, of)]));
    const index = indexOf([app!, other!]);
    await push('team/app', 'v1', app!);
    await push('team/app', 'v2', other!);
    await putManifest(entrepot.url, 'team/app', 'all', index.manifest);
    await push('team/deep/er', 'v1', app!);
    await push('team/app', 'gone', gone!);
    await push('team/app', 'moved', app!);
    await putManifest(entrepot.url, 'team/app', 'moved', other!.manifest);
    await get(url(`team/app/manifests/${gone!.manifest.digest}`), { method: 'DELETE' });
    await get(url('team/app/manifests/v2'), { method: 'DELETE' });
    await expect.poll(async () => (await records()).length).toBe(4);
    expect((await entrepot.command('pin', 'team/app:v1')).code).toBe(0);
    await expect.poll(async () => (await records()).join('')).toContain('"pins":["v1"]');
    await entrepot.stop();
    await lose();
    const { code, stdout } = await entrepot.command('rebuild');
    expect([code, stdout]).toEqual([
      0,
      expect.stringContaining('4 manifests of hosted repositories added, 4 tags set'),
    ]);
    entrepot = await entrepot.startAgain();
    // Before and after garbage is collected.
    for (const args of [['images'], ['gc', '--force', '--grace-period', '0s']]) {
      expect((await entrepot.command(...args)).code).toBe(0);
      await expectPulled('team/app', 'v1', app!);
      await expectPulled('team/app', 'moved', other!);
      await expectPulled('team/app', other!.manifest.digest, other!);
      await expectPulled('team/deep/er', 'v1', app!);
      expect((await get(url('team/app/manifests/all'))).status).toBe(200);
      expect((await get(url('team/app/tags/list'))).text).toContain('"tags":["all","moved","v1"]');
      expect((await get(url(`team/app/manifests/${gone!.manifest.digest}`))).status).toBe(404);
      // Another repository has nothing of it.
      expect((await get(url(`team/deep/er/blobs/${other!.layers[0]!.digest}`))).status).toBe(404);
    }
    expect((await entrepot.command('images', '--json')).stdout).toMatch(/team\/app:v1".*"pinned":true/);
  });

  it('has what was pushed before it was killed, and gives nothing mirrored to anybody without a proof', async () => {
    const [pushed, mirrored] = ['pushed', 'mirrored'].map(of => imageOf([randomBlob(50_000, of)]));
    upstream.add('library/app', mirrored!, 'v1');
    const mirror = (what: string) => get(url(`library/app/${what}?ns=${UPSTREAM}`));
    expect((await mirror('manifests/v1')).status).toBe(200);
    for (const { digest } of [mirrored!.config, ...mirrored!.layers])
      expect((await mirror(`blobs/${digest}`)).complete).toBe(true);
    await push('team/app', 'v1', pushed!);
    await entrepot.kill();
    entrepot = await entrepot.startAgain();
    await expect.poll(async () => (await records()).length).toBe(1);
    await entrepot.kill();
    await lose();
    expect((await entrepot.command('rebuild')).code).toBe(0);
    entrepot = await entrepot.startAgain();
    await expectPulled('team/app', 'v1', pushed!);
    upstream.misbehave({ status: 404 });
    expect((await mirror('manifests/v1')).status).toBe(404);
    expect((await mirror(`blobs/${mirrored!.layers[0]!.digest}`)).status).toBe(404);
  });
});
