// entrepot rm, beside a running server: what goes, what is refused, and what is freed.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { type Content, type Image, imageOf, indexOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import { pushImage, putManifest } from '../support/push-client.ts';

const UPSTREAM = 'up.example';

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeAll(async () => {
  upstream = await FakeUpstream.start();
  entrepot = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    hosted: { prefixes: ['team'], anonymous: 'push' },
  });
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
});

const imageFor = (...seeds: string[]): Image => imageOf(seeds.map(seed => randomBlob(20_000, `rm ${seed}`)));
const push = (repository: string, tag: string, image: Image) =>
  pushImage(entrepot.url, repository, tag, image);
const rm = (...args: string[]) => entrepot.command('rm', ...args);

/** The status of a manifest: of a hosted repository, or without its upstream of a mirrored one. */
async function statusOf(repository: string, reference: string, ns = ''): Promise<number> {
  const accept = 'application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json';
  const url = `${entrepot.url}/v2/${repository}/manifests/${reference}${ns && `?ns=${ns}`}`;
  return (await get(url, { headers: { accept } })).status;
}

const isOnDisk = ({ digest }: Content) =>
  existsSync(join(entrepot.folder, 'store', 'blobs', 'sha256', digest.slice(7, 9), digest.slice(7)));

async function mirror(repository: string, image: Image): Promise<void> {
  upstream.add(repository, image, 'v1');
  expect((await entrepot.command('pull', `${UPSTREAM}/${repository}:v1`)).code).toBe(0);
}

it('removes a hosted tag alone, and lists the other tags of its digest', async () => {
  const image = imageFor('tags');
  const { digest } = image.manifest;
  for (const tag of ['v1', 'v1.0', 'latest']) await push('team/app', tag, image);
  expect(await rm('team/app:v1')).toEqual({
    code: 0,
    stdout: `team/app:v1: removed; ${digest} is still stored as latest, v1.0\n`,
    stderr: '',
  });
  expect(await statusOf('team/app', 'v1')).toBe(404);
  expect(await statusOf('team/app', 'latest')).toBe(200);
  expect(JSON.parse((await rm('team/app:v1.0', '--json')).stdout)).toEqual({
    image: 'team/app:v1.0',
    digest,
    removedTags: ['v1.0'],
    otherTags: ['latest'],
    manifestHeld: true,
    freedBytes: 0,
    neededBytes: 0,
    neededBy: [],
    remainingBytes: 0,
  });
  expect((await rm('team/app:latest')).stdout).toMatch(
    /^team\/app:latest: removed; still stored without a tag, with 2\d\.\d KiB of its own, /,
  );
  expect(await statusOf('team/app', digest)).toBe(200);
  expect(await rm('team/app:latest')).toMatchObject({
    code: 1,
    stdout: `team/app:latest: there is no such tag; stored without a tag: team/app@${digest}\n`,
  });
});

it('removes a digest with tags, or a whole hosted repository, only with --force', async () => {
  const image = imageFor('by digest');
  const name = `team/digest@${image.manifest.digest}`;
  for (const tag of ['v1', 'v2']) await push('team/digest', tag, image);
  expect(await rm(name)).toMatchObject({ code: 1, stdout: '', stderr: expect.stringContaining('v1, v2') });
  expect(await statusOf('team/digest', 'v1')).toBe(200);
  expect((await rm(name, '--force')).stdout).toMatch(
    /: removed, with its tags v1, v2; 2\d\.\d KiB stays on disk/,
  );
  expect(await statusOf('team/digest', 'v1')).toBe(404);

  await push('team/whole', 'v1', imageFor('whole'));
  expect(await rm('team/whole')).toMatchObject({ code: 1, stderr: expect.stringContaining('--force') });
  expect(await statusOf('team/whole', 'v1')).toBe(200);
  expect((await rm('team/whole', '--force')).stdout).toMatch(/^team\/whole: removed; 2\d\.\d KiB stays/);
  expect(await statusOf('team/whole', 'v1')).toBe(404);
});

it('refuses pinned content, and what belongs to it, without --force, which also removes the pin', async () => {
  const [amd64, arm64] = [imageFor('pinned amd64'), imageFor('pinned arm64')];
  await push('team/pinned', amd64.manifest.digest, amd64);
  await push('team/pinned', arm64.manifest.digest, arm64);
  await putManifest(entrepot.url, 'team/pinned', 'v1', indexOf([amd64, arm64]).manifest);
  const mirrored = `${UPSTREAM}/pinned:v1`;
  await mirror('pinned', imageFor('pinned mirror'));
  for (const name of ['team/pinned:v1', mirrored]) {
    expect((await entrepot.command('pin', name)).code).toBe(0);
    const refused = { code: 1, stdout: '', stderr: expect.stringMatching(/pinned.*--force/) };
    expect(await rm(name)).toMatchObject(refused);
    expect(await rm(name.replace(':v1', ''))).toMatchObject(refused);
  }
  const child = `team/pinned@${arm64.manifest.digest}`;
  expect(await rm(child)).toMatchObject({ code: 1, stderr: expect.stringContaining('pinned as v1') });
  expect((await rm('team/pinned:v1', '--force')).code).toBe(0);
  expect((await rm(mirrored, '--force')).code).toBe(0);
  // The next that is called so is no heir of the pin.
  await mirror('pinned', imageFor('pinned mirror'));
  expect((await rm(mirrored)).code).toBe(0);
});

it('frees with --purge at once what only the image had, and nothing else', async () => {
  const [shared, own] = ['purge shared', 'purge own'].map(seed => randomBlob(20_000, seed));
  const [kept, gone] = [imageOf([shared!]), imageOf([shared!, own!])];
  const index = indexOf([gone]);
  await push('team/purge', 'kept', kept);
  await push('team/purge', gone.manifest.digest, gone);
  for (const tag of ['v1', 'v2']) await putManifest(entrepot.url, 'team/purge', tag, index.manifest);
  const waiting = randomBlob(20_000, 'a push is under way');
  await push('team/waiting', 'v1', imageOf([waiting]));

  expect((await rm('team/purge:v1', '--purge')).stdout).toBe(
    `team/purge:v1: removed; ${index.manifest.digest} is still stored as v2\n`,
  );
  expect(await statusOf('team/purge', gone.manifest.digest)).toBe(200);
  expect((await rm('team/purge:v2', '--purge')).stdout).toMatch(
    /^team\/purge:v2: removed; freed 2\d\.\d KiB, while 19\.5 KiB are still needed by team\/purge\n$/,
  );
  for (const { manifest } of [index, gone]) {
    expect(await statusOf('team/purge', manifest.digest)).toBe(404);
  }
  expect([shared!, own!, gone.config, waiting].map(isOnDisk)).toEqual([true, false, false, true]);
  expect(await statusOf('team/purge', 'kept')).toBe(200);
});

it('frees with --purge a mirrored image or repository, which is fetched again when it is requested', async () => {
  for (const [repository, name] of [
    ['purge/tag', `${UPSTREAM}/purge/tag:v1`],
    ['purge/all', `${UPSTREAM}/purge/all`],
  ] as const) {
    const image = imageFor(repository);
    await mirror(repository, image);
    await until('the layer to be held', 60_000, async () => isOnDisk(image.layers[0]!));
    expect((await rm(name, '--purge')).stdout).toMatch(/: forgotten; freed 2\d\.\d KiB\n$/);
    expect(isOnDisk(image.layers[0]!)).toBe(false);
    expect(await statusOf(repository, 'v1', UPSTREAM)).toBe(200);
  }
});

it('removes what is attached to an image with --purge, and leaves what others need', async () => {
  const image = imageFor('signed');
  const signature = imageOf([randomBlob(1_000, 'rm signature')], {
    subject: image.manifest,
    artifactType: 'application/vnd.example.signature',
  });
  const tagged = imageFor('cosign');
  const tag = image.manifest.digest.replace(':', '-').concat('.sig');
  await push('team/signed', 'v1', image);
  await push('team/signed', signature.manifest.digest, signature);
  await push('team/signed', tag, tagged);
  expect((await rm('team/signed:v1', '--purge')).code).toBe(0);
  for (const { manifest, layers } of [image, signature, tagged]) {
    expect(await statusOf('team/signed', manifest.digest)).toBe(404);
    expect(isOnDisk(layers[0]!)).toBe(false);
  }
});

it('shows no evicted image, and frees with --purge what only its Links would keep', async () => {
  const small = await Entrepot.start({
    upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    hosted: { prefixes: ['team'], anonymous: 'push' },
    storage: { maxBytes: '30KiB' },
  });
  try {
    const [image, later] = [imageFor('evicted'), imageFor('later')];
    const name = `${UPSTREAM}/evicted:v1`;
    for (const [repository, each] of Object.entries({ evicted: image, later })) {
      upstream.add(repository, each, 'v1');
      expect((await small.command('pull', `${UPSTREAM}/${repository}:v1`)).code).toBe(0);
      expect((await small.command('gc')).code).toBe(0);
    }
    expect((await small.command('images')).stdout).not.toContain(name);
    expect(await small.command('inspect', name)).toMatchObject({
      code: 1,
      stderr: `entrepot: ${name}: no longer stored; the tag last meant ${image.manifest.digest}\n`,
    });
    for (const repository of ['team/one', 'team/two']) await pushImage(small.url, repository, 'v1', image);
    expect((await small.command('rm', 'team/one:v1', '--purge')).stdout).toMatch(
      /^team\/one:v1: removed; freed 0 B, while 2\d\.\d KiB are still needed by team\/two\n$/,
    );
    expect(JSON.parse((await small.command('rm', 'team/two:v1', '--purge', '--json')).stdout)).toMatchObject({
      freedBytes: expect.toSatisfy((bytes: number) => bytes > 20_000),
      neededBytes: 0,
      neededBy: [],
    });
    const [layer] = image.layers;
    const file = join(
      small.folder,
      'store',
      'blobs',
      'sha256',
      layer!.digest.slice(7, 9),
      layer!.digest.slice(7),
    );
    expect(existsSync(file)).toBe(false);
    // Its Link stays: it is fetched again as by its first pull.
    expect((await small.command('pull', name)).code).toBe(0);
  } finally {
    await small.remove();
  }
});

it('says without --purge what stays on disk, and how it is freed, which then frees exactly that', async () => {
  const image = imageFor('stays');
  const { digest } = image.manifest;
  await mirror('stays', image);
  const tag = `${UPSTREAM}/stays:v1`;
  const { stdout } = await rm(tag);
  expect(stdout).toContain(': forgotten; still stored without a tag, with ');
  const [, own, command = ''] = /with (\S+ KiB) of its own, .*`entrepot (rm .*)`\n$/.exec(stdout) ?? [];
  const again = await rm(tag, '--purge');
  expect([again.code, again.stdout]).toEqual([
    1,
    expect.stringContaining(`there is no such tag; stored without a tag: ${UPSTREAM}/stays@${digest}`),
  ]);
  expect((await entrepot.command(...command.split(' '))).stdout).toContain(`freed ${own}`);
  expect(image.layers.some(isOnDisk)).toBe(false);
});

it('says of a removed repository what no repository has any more, also when it is purged too late', async () => {
  const alone = await Entrepot.start({ hosted: { prefixes: ['team'], anonymous: 'push' } });
  try {
    await pushImage(alone.url, 'team/late', 'v1', imageFor('late'));
    const run = async (...args: string[]) => (await alone.command('rm', ...args)).stdout;
    const told = await run('team/late', '--force');
    const stays = told.match(
      /2\d\.\d KiB stays on disk until garbage collection \(upkeep\.gcGracePeriod: 1d\)/,
    )?.[0];
    expect(stays).toBeDefined();
    expect(told).toContain('`entrepot gc --grace-period 0s` frees it now');
    expect(await run('team/late', '--force')).toBe('team/late: nothing of it is stored\n');
    expect(await run('team/late', '--force', '--purge')).toMatch(/^team\/late: nothing of it is stored; /);
    expect(await run('team/late', '--force', '--purge')).toContain(stays);
    await alone.command('gc', '--grace-period', '0s');
    expect(await run('team/late', '--purge')).toBe('team/late: nothing of it is stored\n');
  } finally {
    await alone.remove();
  }
});

it('removes nothing hosted if deleting is disabled, nor can clients; but they can cancel their uploads', async () => {
  const closed = await Entrepot.start({
    hosted: { prefixes: ['team'], anonymous: 'push', delete: false },
  });
  try {
    await pushImage(closed.url, 'team/app', 'v1', imageFor('closed'));
    expect(await closed.command('rm', 'team/app:v1', '--force')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('hosted.delete'),
    });
    const ask = (path: string, method: string) => fetch(`${closed.url}${path}`, { method });
    const manifest = '/v2/team/app/manifests/v1';
    const refused = await ask(manifest, 'DELETE');
    expect([refused.status, await refused.text()]).toEqual([405, expect.stringContaining('hosted.delete')]);
    expect((await get(`${closed.url}${manifest}`)).status).toBe(200);
    const begun = await ask('/v2/team/app/blobs/uploads/', 'POST');
    expect((await ask(begun.headers.get('location') ?? '', 'DELETE')).status).toBe(204);
  } finally {
    await closed.remove();
  }
});
