// The commands of upkeep beside a running server, on the store that it serves.
import { existsSync } from 'node:fs';
import { chmod, mkdir, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/lib/log.ts';
import { sizeText } from '../../src/lib/units.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import { OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { codeOf, get } from '../support/client.ts';
import {
  bytesOf,
  type Content,
  contentOf,
  descriptorOf,
  type Image,
  imageOf,
  indexOf,
  randomBlob,
} from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import * as pushClient from '../support/push-client.ts';

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

const pushBlob = (repository: string, blob: Content) => pushClient.pushBlob(entrepot.url, repository, blob);
const putManifest = (repository: string, reference: string, manifest: Content) =>
  pushClient.putManifest(entrepot.url, repository, reference, manifest);
const push = (repository: string, tag: string, image: Image) =>
  pushClient.pushImage(entrepot.url, repository, tag, image);

async function pull(repository: string, content: Content): Promise<void> {
  const got = await get(`${entrepot.url}/v2/${repository}/blobs/${content.digest}?ns=${UPSTREAM}`);
  expect([got.status, got.complete]).toEqual([200, true]);
}

async function listImages(): Promise<Record<string, Record<string, unknown>>> {
  const { stdout, code } = await entrepot.command('images', '--json');
  expect(code).toBe(0);
  const lines = stdout.split('\n').filter(line => line !== '');
  const shown: Record<string, unknown>[] = lines.map(line => JSON.parse(line));
  return Object.fromEntries(shown.map(image => [String(image['image']), image]));
}

const pathIn = ({ folder }: Entrepot, { digest }: Content) =>
  join(folder, 'store', 'blobs', 'sha256', digest.slice(7, 9), digest.slice(7));
const blobFile = (blob: Content) => pathIn(entrepot, blob);

describe('upkeep beside a running server', () => {
  it('shows as the own size of a name what its removal would free, while equal images share', async () => {
    const [once, twice, part, rest] = ['once', 'twice', 'part', 'rest'].map(name =>
      imageOf([randomBlob(30_000, `own ${name}`)]),
    );
    if (!once || !twice || !part || !rest) throw new Error('four images');
    const index = indexOf([part, rest]);
    await push('team/once', 'v1', once);
    for (const tag of ['v1', 'v2']) await push('team/twice', tag, twice);
    for (const repository of ['team/one', 'team/other']) await push(repository, 'v1', part);
    await push('team/index', 'part', part);
    await push('team/index', 'rest', rest);
    await putManifest('team/index', 'all', index.manifest);
    const sizeOf = ({ manifest, config, layers }: Image) =>
      [manifest, config, ...layers].reduce((sum, { size }) => sum + size, 0);
    const sizes = async (name: string) => {
      const { ownBytes, sharedBytes } = (await listImages())[name] ?? {};
      return [ownBytes, sharedBytes];
    };
    expect(await sizes('team/once:v1')).toEqual([sizeOf(once), 0]);
    for (const tag of ['v1', 'v2']) expect(await sizes(`team/twice:${tag}`)).toEqual([0, sizeOf(twice)]);
    for (const name of ['one', 'other']) expect(await sizes(`team/${name}:v1`)).toEqual([0, sizeOf(part)]);
    expect(await sizes('team/index:all')).toEqual([index.manifest.size, sizeOf(part) + sizeOf(rest)]);
    expect(await sizes('team/index:rest')).toEqual([0, sizeOf(rest)]);
    // As removal has it.
    const removed = async (name: string) => {
      const { stdout } = await entrepot.command('rm', '--purge', '--json', name);
      return (JSON.parse(stdout) as { readonly freedBytes: number }).freedBytes;
    };
    expect(await removed('team/twice:v1')).toBe(0);
    expect(await sizes('team/twice:v2')).toEqual([sizeOf(twice), 0]);
    expect(await removed('team/twice:v2')).toBe(sizeOf(twice));
    expect(await removed('team/index:rest')).toBe(0);
    expect(await removed('team/index:part')).toBe(0);
    expect(await sizes('team/index:all')).toEqual([index.manifest.size + sizeOf(rest), sizeOf(part)]);
    expect(await removed('team/index:all')).toBe(index.manifest.size + sizeOf(rest));
  });

  it('frees what only a deleted image had, as the dry run said', async () => {
    const shared = randomBlob(10_000, 'shared');
    const [kept, gone] = ['kept', 'gone'].map(name => imageOf([shared, randomBlob(50_000, name)]));
    if (kept === undefined || gone === undefined) throw new Error('two images');
    await push('team/app', 'kept', kept);
    await push('team/app', 'gone', gone);
    const url = `${entrepot.url}/v2/team/app/manifests/${gone.manifest.digest}`;
    expect((await get(url, { method: 'DELETE' })).status).toBe(202);
    const waiting = await entrepot.command('gc');
    expect(waiting.stdout).toBe('freed 0 B\n');
    await sleep(5);
    const dry = await entrepot.command('gc', '--dry-run', '--grace-period', '0s');
    expect(dry.stdout).toMatch(/^would free .*KiB\n {2}1 manifest, .*\n {2}2 blobs, 4.*KiB\n/);
    await stat(blobFile(gone.layers[1] ?? shared));
    const done = await entrepot.command('gc', '--grace-period', '0s');
    expect(done.stdout).toBe(dry.stdout.replace('would free', 'freed'));
    await expect(stat(blobFile(gone.layers[1] ?? shared))).rejects.toThrow('ENOENT');
    await stat(blobFile(shared));
    for (const blob of [kept.config, ...kept.layers]) {
      expect((await get(`${entrepot.url}/v2/team/app/blobs/${blob.digest}`)).status).toBe(200);
    }
  });

  it('lists stored images: own and shared sizes, complete and partial platforms, source and pin', async () => {
    const [amd64, arm64] = [
      imageOf([randomBlob(30_000, 'amd64')]),
      imageOf([randomBlob(40_000, 'arm64')], { platform: { os: 'linux', architecture: 'arm64' } }),
    ];
    const index = indexOf([amd64, arm64]);
    upstream.add('multi', index, 'v1');
    const tagUrl = `${entrepot.url}/v2/multi/manifests/v1?ns=${UPSTREAM}`;
    expect((await get(tagUrl, { headers: { accept: index.manifest.mediaType } })).status).toBe(200);
    const childUrl = `${entrepot.url}/v2/multi/manifests/${amd64.manifest.digest}?ns=${UPSTREAM}`;
    await get(childUrl, { headers: { accept: amd64.manifest.mediaType } });
    for (const blob of [amd64.config, ...amd64.layers]) await pull('multi', blob);
    expect((await entrepot.command('pin', '--dry-run', `${UPSTREAM}/multi:v1`)).stdout).toContain(
      'would be pinned',
    );
    expect((await entrepot.command('unpin', `${UPSTREAM}/multi:v1`)).code).toBe(1);
    expect((await entrepot.command('pin', `${UPSTREAM}/multi:v1`)).code).toBe(0);
    expect((await entrepot.command('unpin', '--dry-run', `${UPSTREAM}/multi:v1`)).code).toBe(0);
    const images = await listImages();
    expect(images[`${UPSTREAM}/multi:v1`]).toMatchObject({
      digest: index.manifest.digest,
      platforms: [
        { platform: 'linux/amd64', complete: true },
        { platform: 'linux/arm64', complete: false },
      ],
      sharedBytes: 0,
      source: 'mirror',
      pinned: true,
      damaged: false,
    });
    expect(images['team/app:kept']).toMatchObject({ source: 'hosted', pinned: false });
    const alone = imageOf([randomBlob(20_000, 'by its digest alone')]);
    await push('team/alone', alone.manifest.digest, alone);
    const name = `team/alone@${alone.manifest.digest}`;
    expect((await entrepot.command('pin', name)).code).toBe(0);
    expect((await listImages())[name]).toMatchObject({ source: 'hosted', pinned: true });
    expect(Object.keys(await listImages()).join('\n')).not.toContain(amd64.manifest.digest);
    const table = await entrepot.command('images');
    expect(table.stdout).toMatch(/^IMAGE +PLATFORMS +SIZE/);
    expect(table.stdout).toContain('linux/amd64 (linux/arm64)');
    expect(table.stdout).toMatch(/\n\nIMAGE .*\nteam\/alone@sha256:/);
    const inspected = await entrepot.command('inspect', `${UPSTREAM}/multi:v1`);
    expect(inspected.stdout).toContain('(pinned)');
    expect(inspected.stdout).toMatch(new RegExp(`manifest.*${arm64.manifest.digest}.*missing`));
    expect((await entrepot.command('unpin', `${UPSTREAM}/multi:v1`)).code).toBe(0);
    expect((await entrepot.command('unpin', `${UPSTREAM}/multi:v1`)).code).toBe(1);
    expect((await entrepot.command('inspect', `${UPSTREAM}/multi:v2`)).code).toBe(1);
  });

  it('shows no platform for an artifact', async () => {
    const config = contentOf('{}', 'application/vnd.oci.empty.v1+json');
    const manifest = contentOf(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: OCI_MANIFEST,
        artifactType: 'application/vnd.example',
        config: descriptorOf(config),
        layers: [descriptorOf(config)],
      }),
      OCI_MANIFEST,
    );
    await pushBlob('team/artifact', config);
    await putManifest('team/artifact', 'v1', manifest);
    const table = await entrepot.command('images');
    expect(table.stdout).toMatch(/^team\/artifact:v1 +- +\d/m);
    const images = await listImages();
    expect(images['team/artifact:v1']).toMatchObject({ platforms: [{ platform: null, complete: true }] });
  });

  it('shows a blob whose file is truncated or absent as damaged, and its bytes as missing', async () => {
    const image = imageOf([randomBlob(20_000, 'to be cut'), randomBlob(30_000, 'to be lost')]);
    const [cut = image.config, lost = image.config] = image.layers;
    await push('team/cut', 'v1', image);
    await chmod(blobFile(cut), 0o600);
    await truncate(blobFile(cut), 100);
    await rm(blobFile(lost));
    const { stdout } = await entrepot.command('inspect', 'team/cut:v1');
    for (const { digest } of [cut, lost])
      expect(stdout).toMatch(new RegExp(`layer +${digest} .* damaged$`, 'm'));
    expect(stdout).toMatch(new RegExp(`config +${image.config.digest} .* held$`, 'm'));
    expect(stdout).toMatch(/^size +\S+ \S+ own, 0 B shared, 48\.\d KiB missing$/m);
    expect(JSON.parse((await entrepot.command('inspect', '--json', 'team/cut:v1')).stdout)).toMatchObject({
      missingBytes: 50_000,
    });
    for (const blob of [cut, lost]) await writeFile(blobFile(blob), bytesOf(blob));
    expect((await entrepot.command('inspect', 'team/cut:v1')).stdout).not.toContain('damaged');
  });

  it('finds damage: a mirrored blob is fetched again, a pushed one is refused until it is pushed again', async () => {
    const pushed = imageOf([randomBlob(20_000, 'to be damaged')]);
    const layer = pushed.layers[0] ?? pushed.config;
    await push('team/damaged', 'v1', pushed);
    const mirrored = randomBlob(25_000, 'mirrored');
    upstream.add('app', imageOf([mirrored]), 'v1');
    await get(`${entrepot.url}/v2/app/manifests/v1?ns=${UPSTREAM}`);
    await pull('app', mirrored);
    for (const blob of [layer, mirrored]) {
      // Who reads a Fill along is let go before its file is renamed.
      await until('the blob to be held', 60_000, async () => existsSync(blobFile(blob)));
      await writeFile(blobFile(blob), Buffer.alloc(blob.size, '?'), { mode: 0o644, flag: 'r+' });
    }
    const found = await entrepot.command('scrub', '--rate', '1GiB');
    expect(found.code).toBe(1);
    expect(found.stdout).toContain(`damaged: blob ${layer.digest}`);
    expect(found.stdout).toContain(`damaged: blob ${mirrored.digest}`);
    for (const [{ digest }, then] of [
      [layer, 'it is refused until it is pushed again'],
      [mirrored, 'it is downloaded again when it is requested'],
    ] as const) {
      // Once, and not in the log, too.
      const lines = `${found.stdout}${found.stderr}`.split('\n').filter(line => line.includes(digest));
      expect(lines).toEqual([expect.stringMatching(`^damaged: blob ${digest}: .*; ${then}$`)]);
    }
    expect((await listImages())['team/damaged:v1']).toMatchObject({ damaged: true });
    expect(await entrepot.command('check', 'team/damaged:v1')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(`team/damaged:v1: ${layer.digest} is damaged\n`),
    });
    expect((await entrepot.command('pull', 'team/damaged:v1')).stderr).toContain(
      `${layer.digest} is damaged`,
    );
    expect(await entrepot.metrics()).toContain('entrepot_store_damaged 2');

    const refused = await get(`${entrepot.url}/v2/team/damaged/blobs/${layer.digest}`);
    expect([refused.status, codeOf(refused)]).toEqual([404, 'BLOB_UNKNOWN']);
    expect(refused.text).toContain('push it again');
    await pull('app', mirrored);
    await pushBlob('team/damaged', layer);
    const whole = await get(`${entrepot.url}/v2/team/damaged/blobs/${layer.digest}`);
    expect(`sha256:${whole.sha256}`).toBe(layer.digest);
    expect(await entrepot.metrics()).toContain('entrepot_store_damaged 0');
    expect((await entrepot.command('scrub', '--rate', '1GiB')).code).toBe(0);
  });

  for (const [signal, exitCode] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    it(`stops a scrub at ${signal}, says how far it was, and lets the next one begin`, async () => {
      await push('team/large', 'v1', imageOf([randomBlob(4_000_000, 'large')]));
      const scrub = await entrepot.begin('scrub', '--rate', '64KB');
      try {
        // Of 4 MB at 64 kB a second, in steps of eight seconds: a minute in all, and less as it goes on.
        await until('a plausible time left', 60_000, async () => {
          const told = [...scrub.logs().matchAll(/blobs checked: .*, (\d+) s left/g)];
          const left = Number(told.at(-1)?.[1]);
          return left > 20 && left < 100;
        });
        process.kill(scrub.pid, signal);
        await until('its end', 30_000, async () => !scrub.isRunning);
      } finally {
        await scrub.kill();
      }
      expect(scrub.exitCode).toBe(exitCode);
      expect(scrub.logs()).toMatch(/stopped; done so far: /);
      expect((await entrepot.command('scrub', '--rate', '1GiB')).stdout).toMatch(/^checked \d+ blobs/);
    });
  }

  it('stops a collection at Ctrl-C, says exactly what was removed until then, and lets the next one begin', {
    timeout: 300_000,
  }, async () => {
    const strays = Array.from({ length: 800 }, (_, at) => randomBlob(100, `stray ${at}`));
    for (const stray of strays) {
      await mkdir(dirname(blobFile(stray)), { recursive: true });
      await writeFile(blobFile(stray), bytesOf(stray));
    }
    const countLeft = () => strays.filter(stray => existsSync(blobFile(stray))).length;
    // So many of them look as if the index had lost their rows.
    const gc = ['gc', '--grace-period', '0s', '--force'];
    const collection = await entrepot.begin(...gc);
    try {
      await until('the first of them to be gone', 150_000, async () => countLeft() < strays.length);
      process.kill(collection.pid, 'SIGINT');
      await until('its end', 30_000, async () => !collection.isRunning);
    } finally {
      await collection.kill();
    }
    expect(collection.exitCode).toBe(130);
    const left = countLeft();
    expect(left).toBeGreaterThan(0);
    expect(collection.logs()).toMatch(
      new RegExp(`stopped; done so far: (.*; )?${strays.length - left} files, `),
    );
    expect((await entrepot.command(...gc)).stdout).toContain(`  ${left} files without a row`);
    expect(countLeft()).toBe(0);
  });

  it('reports what a collection freed even while another process makes room', async () => {
    const stray = randomBlob(1000, 'told');
    await mkdir(dirname(blobFile(stray)), { recursive: true });
    await writeFile(blobFile(stray), bytesOf(stray));
    const index = join(entrepot.folder, 'store', 'index.db');
    const another = await openSqliteMetadataStore(index, { log: silentLog });
    try {
      await another.acquireLease('upkeep-eviction');
      const { code, stdout } = await entrepot.command('gc', '--grace-period', '0s');
      expect(stdout).toContain('  1 file without a row, 1000 B\n');
      expect(stdout).toContain('another process is already making room');
      expect(code).toBe(0);
    } finally {
      await another.close();
    }
  });

  it('says how much is kept only for the grace period if the store still exceeds its limit', async () => {
    const small = await Entrepot.start({
      storage: { maxBytes: '1MB' },
      hosted: { prefixes: ['team'], anonymous: 'push' },
    });
    try {
      const [kept, gone] = [1_500_000, 300_000].map(size => imageOf([randomBlob(size, 'kept or gone')]));
      if (kept === undefined || gone === undefined) throw new Error('two images');
      await pushClient.pushImage(small.url, 'team/app', 'kept', kept);
      await pushClient.pushImage(small.url, 'team/app', 'gone', gone);
      const url = `${small.url}/v2/team/app/manifests/${gone.manifest.digest}`;
      expect((await get(url, { method: 'DELETE' })).status).toBe(202);
      // The server may evict the manifest, which nothing refers to, before the command does. Blobs of a hosted repository
      // stay, since a push may rely on them.
      const graced = sizeText(gone.config.size + 300_000);
      const kept24h = await small.command('gc');
      expect(kept24h.stdout).toContain(
        `the store exceeds storage.maxBytes; ${graced} is kept only for upkeep.gcGracePeriod: ` +
          '`entrepot gc --grace-period 0s` frees it (not during a push)\n',
      );
      await stat(pathIn(small, gone.layers[0] ?? gone.config));
      const dry = await small.command('gc', '--dry-run');
      expect(dry.stdout).toContain('in use, or kept for upkeep.gcGracePeriod\n');
      await sleep(5);
      const freed = await small.command('gc', '--grace-period', '0s');
      expect(freed.stdout).toContain(`  2 blobs, ${graced}\n`);
      expect(freed.stdout).toContain(
        'the store exceeds storage.maxBytes, and the rest is pinned, hosted, or in use\n',
      );
      await expect(stat(pathIn(small, gone.layers[0] ?? gone.config))).rejects.toThrow('ENOENT');
    } finally {
      await small.remove();
    }
  });

  it('refuses wrong usage', async () => {
    expect((await entrepot.command('gc', '--grace-period', 'soon')).code).toBe(2);
    expect((await entrepot.command('scrub', '--rate', 'fast')).code).toBe(2);
    expect((await entrepot.command('pin', 'team/nothing:v1')).code).toBe(1);
  });
});

describe('a store with a limit', () => {
  it('evicts by itself, and fetches evicted content when it is requested again', async () => {
    const small = await Entrepot.start({
      storage: { maxBytes: '1MB' },
      upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    });
    try {
      const layers = Array.from({ length: 12 }, (_, at) => randomBlob(100_000, `limit ${at}`));
      for (const [at, layer] of layers.entries()) {
        upstream.add('limited', imageOf([layer]), `v${at}`);
        await get(`${small.url}/v2/limited/manifests/v${at}?ns=${UPSTREAM}`);
        const url = `${small.url}/v2/limited/blobs/${layer.digest}?ns=${UPSTREAM}`;
        expect((await get(url)).complete).toBe(true);
      }
      const files = () => readdir(join(small.folder, 'store', 'blobs'), { recursive: true });
      const heldBytes = async () => {
        const names = (await files()).filter(name => /[0-9a-f]{64}$/.test(name));
        return names.length * 100_000;
      };
      await until('room to be made', 60_000, async () => (await heldBytes()) <= 900_000);
      const pinned = await small.command('pin', `${UPSTREAM}/limited:v0`);
      expect([pinned.code, pinned.stderr]).toEqual([1, expect.stringContaining('pull it first')]);
      const first = layers[0] ?? randomBlob(1, 'none');
      const again = await get(`${small.url}/v2/limited/blobs/${first.digest}?ns=${UPSTREAM}`);
      expect(`sha256:${again.sha256}`).toBe(first.digest);
    } finally {
      await small.remove();
    }
  });
});
