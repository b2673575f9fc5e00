// Real file systems that others fill to the last byte, under a server of an ordinary user. Making them needs root.
import { readdir, stat, truncate } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { codeOf, get } from '../support/client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { AS_NOBODY, canMount, type FileSystem, SmallDisk } from '../support/small-disk.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;
const ROUNDS = 20;
/** Of the index; completed each second while there is space. */
const RESERVE_BYTES = 4 * MIB;

/** What others may have left of the reserve: too little for SQLite's shared memory, just enough, and for its log, too. */
const RESERVES = [
  ...[0, 20, 28, 40, 64, 72, 96, 256].map(kibibytes => kibibytes * 1024),
  ...[764, 780, 796, 812, 814, 816, 820, 900].map(kibibytes => 2 * MIB + kibibytes * 1024),
];

type Command = readonly [args: readonly string[], says: RegExp];

describe.skipIf(!canMount).each<FileSystem>(['ext4', 'tmpfs'])('a disk of 64 MiB (%s)', fileSystem => {
  const mirrored = imageOf([randomBlob(MIB, 'mirrored')]);
  /** Pushed, acknowledged and not deleted since; by tag. */
  const acknowledged = new Map<string, Image>();
  let disk: SmallDisk;
  let upstream: FakeUpstream;
  let entrepot: Entrepot;

  beforeAll(async () => {
    disk = await SmallDisk.mount(fileSystem, 64);
    upstream = await FakeUpstream.start();
    upstream.add('app', mirrored, 'v1');
    entrepot = await Entrepot.start(
      {
        // Everything is on this disk.
        index: {},
        storage: { path: join(disk.path, 'store'), s3: undefined },
        hosted: { prefixes: ['team'], anonymous: 'push' },
        upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
      },
      { folder: disk.folder, within: AS_NOBODY, commandsWithin: AS_NOBODY },
    );
  });

  afterAll(async () => {
    await entrepot?.stop();
    await upstream?.stop();
    await disk?.unmount();
  });

  function pushBlob(blob: Content) {
    const url = `${entrepot.url}/v2/team/app/blobs/uploads/?digest=${blob.digest}`;
    return get(url, { method: 'POST', body: bytesOf(blob) });
  }

  function putManifest(tag: string, { manifest }: Image) {
    const headers = { 'content-type': manifest.mediaType };
    const url = `${entrepot.url}/v2/team/app/manifests/${tag}`;
    return get(url, { method: 'PUT', headers, body: bytesOf(manifest) });
  }

  /** The status of what was answered last. */
  async function push(tag: string, image: Image): Promise<number> {
    for (const blob of [image.config, ...image.layers]) {
      const { status } = await pushBlob(blob);
      if (status !== 201) return status;
    }
    const { status } = await putManifest(tag, image);
    if (status === 201) acknowledged.set(tag, image);
    return status;
  }

  /** Returns the name of the file of its layer, which nothing needs any more. */
  async function remove(tag: string): Promise<string | undefined> {
    const image = acknowledged.get(tag);
    acknowledged.delete(tag);
    const url = `${entrepot.url}/v2/team/app/manifests/${image?.manifest.digest}`;
    expect((await get(url, { method: 'DELETE' })).status).toBe(202);
    return image?.layers[0]?.digest.split(':')[1];
  }

  async function blobFiles(): Promise<readonly string[]> {
    const paths = await readdir(join(disk.path, 'store', 'blobs'), { recursive: true });
    return paths.map(path => basename(path));
  }

  async function requireAllServed(): Promise<void> {
    for (const [tag, image] of acknowledged) {
      const manifest = await get(`${entrepot.url}/v2/team/app/manifests/${tag}`);
      expect([tag, manifest.status, `sha256:${manifest.sha256}`]).toEqual([tag, 200, image.manifest.digest]);
      for (const { digest } of [image.config, ...image.layers]) {
        const blob = await get(`${entrepot.url}/v2/team/app/blobs/${digest}`);
        expect([blob.status, blob.complete, `sha256:${blob.sha256}`]).toEqual([200, true, digest]);
      }
    }
  }

  /** Each succeeds, and says so. */
  async function runAll(round: number, commands: readonly Command[]): Promise<void> {
    for (const [command, says] of commands) {
      const { code, stdout, stderr } = await entrepot.spawnCommand(...command);
      const told = [expect.stringMatching(says), expect.not.stringContaining('Error')];
      expect([round, code, stdout, stderr]).toEqual([round, 0, ...told]);
    }
  }

  const pull = ({ digest }: Content) => get(`${entrepot.url}/v2/app/blobs/${digest}?ns=${UPSTREAM}`);

  const reserve = () => join(disk.path, 'store', 'reserve');
  const reservedBytes = async () => (await stat(reserve())).size;

  const metric = async (name: string): Promise<number> =>
    Number((await entrepot.metrics()).split(`\nentrepot_${name} `)[1]?.split('\n')[0]);

  const readiness = async () => {
    const answer = await fetch(`${entrepot.ops}/readyz`);
    return { status: answer.status, text: await answer.text() };
  };

  test('is not filled beyond storage.minFree, and is evicted first', async () => {
    await get(`${entrepot.url}/v2/app/manifests/v1?ns=${UPSTREAM}`);
    for (const blob of [mirrored.config, ...mirrored.layers]) expect((await pull(blob)).status).toBe(200);
    const statuses: number[] = [];
    const blobs: Content[] = [];
    for (let count = 0; statuses.at(-1) !== 507; count += 1) {
      const blob = randomBlob(4 * MIB, `filling ${count}`);
      blobs.push(blob);
      statuses.push((await pushBlob(blob)).status);
    }
    expect(new Set(statuses)).toEqual(new Set([201, 507]));
    const minFree = await disk.percentBytes(5);
    expect(await metric('store_min_free_bytes')).toBeCloseTo(minFree, -3);
    const free = await disk.freeBytes();
    expect(free).toBeGreaterThan(minFree - 256 * 1024);
    expect(free).toBeLessThan(minFree + 5 * MIB);
    expect(Math.abs((await metric('store_free_bytes')) - free)).toBeLessThan(MIB);
    expect(await metric('upkeep_freed_bytes_total{by="eviction"}')).toBeGreaterThan(MIB);
    // The mirrored image has made room for pushes, and is streamed from now on.
    const streamed = await pull(mirrored.layers[0] ?? mirrored.config);
    expect([streamed.status, streamed.complete]).toEqual([200, true]);
    // The client has its last byte a moment before the Fill that could not keep it is gone.
    const unfinished = () => readdir(join(disk.path, 'store', 'ingest'));
    await expect.poll(unfinished, { timeout: 30_000 }).toEqual([]);
    // Nobody names them.
    expect((await entrepot.spawnCommand('gc', '--grace-period', '0s')).code).toBe(0);
    expect(await disk.freeBytes()).toBeGreaterThan(30 * MIB);
  });

  test('is filled to the last byte, and the server is killed and started again and again', async () => {
    for (let round = 0; round < ROUNDS; round += 1) {
      const image = imageOf([randomBlob(300_000, `layer ${round}`)]);
      expect([round, await push(`v${round}`, image)]).toEqual([round, 201]);
      const removed = round % 3 === 2 ? await remove(`v${round - 1}`) : 'nothing';
      expect((await get(`${entrepot.url}/v2/app/manifests/v1?ns=${UPSTREAM}`)).status).toBe(200);
      await disk.fill();
      if (round % 5 === 4) await entrepot.stop();
      else await entrepot.kill();
      await disk.fill();
      await runAll(round, round % 3 === 1 ? [[['images'], new RegExp(`team/app:v${round}`)]] : []);
      // A few bytes may be worse than none: SQLite begins what it cannot end.
      await disk.fill((round % 4) * 12 * 1024);
      entrepot = await entrepot.startAgain();
      const { status, text } = await readiness();
      expect([status, text]).toEqual([200, expect.stringMatching(/^ok\n.*disk/)]);
      await disk.fill();
      await requireAllServed();
      const refused = await pushBlob(randomBlob(100_000, `refused ${round}`));
      expect([round, refused.status, codeOf(refused)]).toEqual([round, 507, 'INSUFFICIENT_STORAGE']);
      expect(await readdir(join(disk.path, 'store', 'ingest'))).toEqual([]);
      const streamed = await pull(mirrored.config);
      expect([streamed.status, `sha256:${streamed.sha256}`]).toEqual([200, mirrored.config.digest]);
      const commands: readonly (readonly Command[])[] = [
        [
          [['check', `team/app:v${round}`], /^$/],
          [['rm', `${UPSTREAM}/app:v1`], /: forgotten(?:;|\n$)/],
        ],
        [[['images'], new RegExp(`team/app:v${round}`)]],
        // The server may have freed it already, to make room.
        [[['gc', '--grace-period', '0s'], /^freed \d/]],
      ];
      await runAll(round, commands[round % 3] ?? []);
      expect(await blobFiles()).not.toContain(removed);
      await disk.empty();
      // Twice in the same second is too much for it.
      await expect.poll(reservedBytes, { timeout: 60_000 }).toBe(RESERVE_BYTES);
    }
    await requireAllServed();
  }, 1_200_000);

  test('accepts pushes again when it has space, and has lost nothing', async () => {
    // A download that has met the full disk is a problem for a minute.
    await expect.poll(async () => (await readiness()).text, { timeout: 90_000 }).toBe('ok\n');
    expect(await push('last', imageOf([randomBlob(4 * MIB, 'last')]))).toBe(201);
    await requireAllServed();
    const { code, stdout } = await entrepot.spawnCommand('scrub', '--rate', '1GiB');
    expect([code, stdout]).toEqual([0, expect.stringContaining('0 damaged')]);
  }, 240_000);

  test('whatever is left of the reserve, a command works or says that the disk is full', async () => {
    await entrepot.stop();
    for (const bytes of RESERVES) {
      // With space it completes the reserve.
      expect((await entrepot.spawnCommand('images')).code).toBe(0);
      await truncate(reserve(), bytes);
      await disk.fill();
      const { code, stderr } = await entrepot.spawnCommand('images');
      expect([bytes, stderr, code]).toEqual([bytes, stderr, bytes < 64 * 1024 ? 1 : 0]);
      expect(stderr).toMatch(code === 0 ? /^$/ : /index\.db: the disk is full/);
      await disk.empty();
    }
    entrepot = await entrepot.startAgain();
    await requireAllServed();
  });
});
