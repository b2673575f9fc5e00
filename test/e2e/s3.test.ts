// Blobs in a bucket: an S3 that misbehaves, and the product with its commands.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as nextTick } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Extent, Extents } from '../../src/lib/extents.ts';
import { get } from '../support/client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { FakeS3 } from '../support/fake-s3.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';
import * as pushClient from '../support/push-client.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;

let folder: string;
let s3: FakeS3;
let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeEach(async () => {
  folder = await makeTempFolder('s3');
  s3 = await FakeS3.start();
  upstream = await FakeUpstream.start();
  const { accessKeyId, secretAccessKey } = s3.keys;
  const keys = `[default]\naws_access_key_id = ${accessKeyId}\naws_secret_access_key = ${secretAccessKey}\n`;
  await writeFile(join(folder, 'keys'), keys);
  entrepot = await Entrepot.start(config());
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
  await s3.close();
  await removeFolder(folder);
});

function config(storage: object = {}): EntrepotConfig {
  const { endpoint, region, bucket } = s3;
  return {
    upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    hosted: { prefixes: ['team'], anonymous: 'push' },
    storage: {
      s3: {
        endpoint,
        region,
        bucket,
        prefix: 'entrepot',
        pathStyle: true,
        credentials: 'file',
        credentialsFile: join(folder, 'keys'),
      },
      ...storage,
    },
  };
}

const push = (repository: string, image: Image) =>
  pushClient.pushImage(entrepot.url, repository, 'v1', image);

function pull(repository: string, content: Content, headers: Record<string, string> = {}) {
  const ns = repository.startsWith('team/') ? '' : `?ns=${UPSTREAM}`;
  return get(`${entrepot.url}/v2/${repository}/blobs/${content.digest}${ns}`, { headers });
}

async function expectPulled(repository: string, content: Content): Promise<void> {
  const got = await pull(repository, content);
  expect(got).toMatchObject({ status: 200, complete: true, bytes: content.size });
  expect(`sha256:${got.sha256}`).toBe(content.digest);
}

/** The digests of the blobs that have an object, each as often as it has one. */
const stored = () =>
  s3
    .blobKeys()
    .map(key => key.split('/').slice(1, 3).join(':'))
    .sort();
const digestsOf = (...contents: readonly Content[]) => contents.map(({ digest }) => digest).sort();
const isStored = ({ digest }: Content) => stored().includes(digest);

async function mirrored(name: string, ...layers: readonly Content[]): Promise<Image> {
  const image = imageOf(layers);
  upstream.add(name, image, 'v1');
  const got = await get(`${entrepot.url}/v2/${name}/manifests/v1?ns=${UPSTREAM}`);
  expect(got.status).toBe(200);
  return image;
}

/** Then everything is read from the bucket. What is in it may be about to become a copy, or be read from its Fill. */
async function dropCopies(): Promise<void> {
  await expect.poll(() => entrepot.metrics()).toMatch(/^entrepot_fills_running 0$/m);
  await expect.poll(() => readdirSync(join(entrepot.folder, 'store', 'ingest'))).toEqual([]);
  await removeFolder(join(entrepot.folder, 'store', 'copies'));
}

/**
 * What of an object was asked for, over however many connections. The first request is for all of it, and is left where others
 * begin. Throws if anything else was asked for twice.
 */
function extentsRead({ digest, size }: Content): readonly Extent[] {
  // The mark of the store may be read meanwhile.
  const gets = s3.requests.filter(({ method, key }) => method === 'GET' && key.includes(digest.slice(7)));
  const asked = gets.map(({ range }) => {
    const [, from = '0', to = `${size - 1}`] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
    return { start: Number(from), end: Number(to) + 1 };
  });
  const [first, second = { start: size }] = asked.toSorted((one, other) => one.start - other.start);
  const read = new Extents();
  for (const extent of asked) {
    const part = extent === first ? { start: extent.start, end: Math.min(extent.end, second.start) } : extent;
    expect(read.missing(part)).toEqual([part]);
    read.add(part);
  }
  return [...read];
}

const gc = async () => {
  const { code, stderr } = await entrepot.command('gc', '--grace-period', '0s');
  expect([code, stderr]).toMatchObject([0, expect.any(String)]);
};

describe('with blobs in a bucket', () => {
  it('a blob is fetched once, is then in the bucket, and is served from the folder or from the bucket', async () => {
    const layer = randomBlob(40 * MIB, 'layer');
    await mirrored('library/app', layer);
    await expectPulled('library/app', layer);
    await until('the blob is stored', 10_000, async () => isStored(layer));
    expect(readdirSync(join(entrepot.folder, 'store', 'blobs'))).toEqual([]);
    await expect.poll(() => readdirSync(join(entrepot.folder, 'store', 'ingest'))).toEqual([]);
    await entrepot.stop();
    await upstream.stop();
    entrepot = await entrepot.startAgain();
    s3.requests.length = 0;
    await expectPulled('library/app', layer);
    expect(s3.count('GET')).toBe(0);
    await dropCopies();
    await expectPulled('library/app', layer);
    expect(extentsRead(layer)).toEqual([{ start: 0, end: layer.size }]);
    const part = await pull('library/app', layer, { Range: `bytes=${20 * MIB}-${20 * MIB + 99}` });
    expect([part.status, part.bytes]).toEqual([206, 100]);
    expect(upstream.count('blob', { method: 'GET', reference: layer.digest })).toBe(1);
  });

  it('what is pushed is in the bucket when the push is answered, and gc leaves exactly what is needed', async () => {
    const shared = randomBlob(100_000, 'shared');
    const [kept, gone] = [
      imageOf([shared, randomBlob(20 * MIB, 'kept')]),
      imageOf([shared, randomBlob(9, 'gone')]),
    ];
    await push('team/kept', kept);
    await push('team/gone', gone);
    const all = [...kept.layers, kept.config, gone.config, gone.layers[1]!];
    // The shared one was sent twice.
    expect([...new Set(stored())]).toEqual(digestsOf(...all));
    expect((await entrepot.command('rm', '--purge', 'team/gone:v1')).code).toBe(0);
    await gc();
    expect(stored()).toEqual(digestsOf(...kept.layers, kept.config));
    for (const blob of [...kept.layers, kept.config]) await expectPulled('team/kept', blob);
    expect(s3.uploads.size).toBe(0);
  });

  it('an object outlives its row for those who read it, and goes with a later collection', async () => {
    const layer = randomBlob(MIB, 'layer');
    await mirrored('library/app', layer);
    await expectPulled('library/app', layer);
    await until('the blob is stored', 10_000, async () => isStored(layer));
    const { code } = await entrepot.command('rm', '--purge', `${UPSTREAM}/library/app:v1`);
    expect([code, isStored(layer)]).toEqual([0, true]);
    expect((await entrepot.command('gc')).code).toBe(0);
    expect(isStored(layer)).toBe(true);
    await gc();
    expect(isStored(layer)).toBe(false);
  });

  it('an object that S3 refuses to delete keeps no other in the bucket, and is removed when S3 allows it', async () => {
    const [locked, free] = [imageOf([randomBlob(9, 'locked')]), imageOf([randomBlob(9, 'free')])];
    await push('team/app', locked);
    await push('team/other', free);
    for (const image of ['team/app:v1', 'team/other:v1'])
      expect((await entrepot.command('rm', '--purge', image)).code).toBe(0);
    const [held] = locked.layers;
    s3.fault = ({ method, key }) =>
      method === 'DELETE' && key.includes(held!.digest.slice(7))
        ? { status: 403, code: 'AccessDenied' }
        : undefined;
    for (let time = 0; time < 2; time += 1) {
      await gc();
      expect(stored()).toEqual([held!.digest]);
    }
    s3.fault = () => undefined;
    await gc();
    expect(stored()).toEqual([]);
  });

  it('an S3 that cannot be reached is 503, never a miss, and everything goes on when it is back', async () => {
    const [warm, cold] = [randomBlob(MIB, 'warm'), randomBlob(MIB, 'cold')];
    await mirrored('library/app', warm, cold);
    await expectPulled('library/app', warm);
    await until('the blob is stored', 10_000, async () => isStored(warm));
    s3.fault = () => ({ status: 403, code: 'AccessDenied' });
    await expectPulled('library/app', warm);
    await dropCopies();
    const refused = await pull('library/app', warm);
    expect([refused.status, refused.headers['retry-after']]).toEqual([503, '5']);
    // The cache loses an entry, and the client nothing.
    await expectPulled('library/app', cold);
    const pushed = pushClient.pushBlob(entrepot.url, 'team/app', randomBlob(1_000, 'pushed'));
    await expect(pushed).rejects.toThrow('503');
    const bucketNow = async () => {
      const { problems, store } = JSON.parse((await entrepot.command('status', '--json')).stdout);
      return [problems.join().includes('S3 refuses the credentials'), store.bucket.trouble?.kind];
    };
    await expect.poll(bucketNow).toEqual([true, 'refused']);
    const collected = await entrepot.command('gc');
    expect([collected.code, collected.stderr.trimEnd().split('\n').at(-1)]).toEqual([
      1,
      expect.stringMatching(
        /^entrepot: UNAVAILABLE: the storage of blobs cannot be reached \(.* answers 403\)$/,
      ),
    ]);
    s3.fault = () => undefined;
    // It finds out by itself.
    await expect.poll(bucketNow, { timeout: 10_000 }).toEqual([false, undefined]);
    await expectPulled('library/app', warm);
    await expectPulled('library/app', cold);
    await until('the blob is stored', 10_000, async () => isStored(cold));
    expect(upstream.count('blob', { method: 'GET', reference: warm.digest })).toBe(1);
  });

  it('a blob comes from the bucket once for all clients of all processes', async () => {
    const layer = randomBlob(20 * MIB, 'layer');
    await push('team/app', imageOf([layer]));
    await entrepot.stop();
    entrepot = await entrepot.startAgain({ ...config(), server: { processes: 2 } });
    await dropCopies();
    s3.requests.length = 0;
    await Promise.all(Array.from({ length: 12 }, () => expectPulled('team/app', layer)));
    expect(extentsRead(layer)).toEqual([{ start: 0, end: layer.size }]);
  });

  it('what is also in the folder goes first when the disk is short of room, beyond its limit, and is shown', async () => {
    const image = imageOf([randomBlob(3 * MIB, 'one'), randomBlob(3 * MIB, 'two')]);
    await push('team/app', image);
    const local = async () => JSON.parse((await entrepot.command('status', '--json')).stdout).store.local;
    expect(await local()).toMatchObject({ copies: 3 });
    const copied = () => readdirSync(join(entrepot.folder, 'store', 'copies', 'sha256'), { recursive: true });
    await entrepot.stop();
    entrepot = await entrepot.startAgain(config({ minFree: '99%' }));
    expect((await entrepot.command('gc')).code).toBe(0);
    expect(copied().filter(name => name.length > 64)).toEqual([]);
    expect(stored()).toHaveLength(3);
    await entrepot.stop();
    entrepot = await entrepot.startAgain(config({ maxLocalBytes: '4MiB' }));
    for (const blob of image.layers) await expectPulled('team/app', blob);
    await expect.poll(() => copied().filter(name => name.length > 64)).toHaveLength(1);
  });

  it('an object with wrong bytes ends with the connection, not as a complete blob, and is not kept', async () => {
    const layer = randomBlob(20 * MIB, 'layer');
    await push('team/app', imageOf([layer]));
    await dropCopies();
    s3.fault = ({ method, key }) =>
      method === 'GET' && key.includes(layer.digest.slice(7)) ? { wrongBytes: true } : undefined;
    const wrong = await Promise.all(Array.from({ length: 3 }, () => pull('team/app', layer)));
    for (const got of wrong) {
      expect([got.status, got.complete]).toEqual([200, false]);
      expect(got.bytes).toBeLessThan(layer.size);
    }
    s3.fault = () => undefined;
    await expectPulled('team/app', layer);
  });

  it('a push whose end meets an outage of S3 gets 503, and goes on when its client repeats that request', async () => {
    const blob = randomBlob(40 * MIB, 'pushed');
    const uploads = `${entrepot.url}/v2/team/app/blobs/uploads/`;
    for (const first of [40 * MIB, 0]) {
      const bytes = Buffer.from(bytesOf(blob));
      const { headers } = await fetch(uploads, { method: 'POST' });
      const place = new URL(headers.get('location') ?? '', entrepot.url);
      if (first > 0) await fetch(place, { method: 'PATCH', body: bytes.subarray(0, first) });
      place.searchParams.set('digest', blob.digest);
      const end = () => fetch(place, { method: 'PUT', body: bytes.subarray(first) });
      s3.fault = ({ method }) => (method === 'POST' ? { status: 403, code: 'AccessDenied' } : undefined);
      const refused = await end();
      expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '5']);
      expect((await get(`${entrepot.url}/v2/team/app/blobs/${blob.digest}`)).status).toBe(404);
      s3.fault = () => undefined;
      expect((await end()).status).toBe(201);
      await expectPulled('team/app', blob);
      await gc();
      expect(stored()).toEqual([]);
      expect(s3.uploads.size).toBe(0);
    }
  });

  it('above maxBytes blobs leave the bucket', async () => {
    await entrepot.stop();
    entrepot = await entrepot.startAgain(config({ maxBytes: '3MiB' }));
    const layers = ['a', 'b', 'c', 'd'].map(name => randomBlob(MIB, name));
    await mirrored('library/app', ...layers);
    for (const layer of layers) {
      await expectPulled('library/app', layer);
      await until('the blob is stored', 10_000, async () => isStored(layer));
    }
    const { stdout } = await entrepot.command('gc', '--json');
    expect(JSON.parse(stdout)).toMatchObject({ evicted: { items: expect.any(Number) } });
    await gc();
    expect(stored().length).toBeLessThanOrEqual(2);
    for (const layer of layers) await expectPulled('library/app', layer);
  });

  it('a scrub finds objects that are wrong or missing: mirrored ones are fetched again', async () => {
    const [wrong, missing, pushed] = ['wrong', 'missing', 'pushed'].map(name => randomBlob(100_000, name));
    if (!wrong || !missing || !pushed) throw new Error('three blobs');
    await mirrored('library/app', wrong, missing);
    await push('team/app', imageOf([pushed]));
    for (const blob of [wrong, missing]) {
      await expectPulled('library/app', blob);
      await until('the blob is stored', 10_000, async () => isStored(blob));
    }
    const keyOf = ({ digest }: Content) =>
      `entrepot/${s3.blobKeys().find(key => key.includes(digest.slice(7))) ?? ''}`;
    for (const blob of [wrong, pushed]) {
      s3.objects.set(keyOf(blob), { bytes: Buffer.alloc(blob.size, 'x'), modifiedAtMs: Date.now() });
    }
    s3.objects.delete(keyOf(missing));
    expect((await entrepot.command('scrub')).code).toBe(1);
    for (const blob of [wrong, missing]) await expectPulled('library/app', blob);
    expect((await pull('team/app', pushed)).status).toBe(404);
    // The wrong bytes of the pushed one may be rescued.
    await gc();
    expect(isStored(pushed)).toBe(true);
    await push('team/app', imageOf([pushed]));
    await expectPulled('team/app', pushed);
    await gc();
    expect(stored().filter(digest => digest === pushed.digest)).toHaveLength(1);
  });

  it.each([
    { name: 'between two parts', matches: (number: string | null) => number === '2' },
    { name: 'at its end', matches: (number: string | null) => number === null },
  ])('what a server leaves that was killed in an upload, $name, is collected', async ({ matches }) => {
    const layer = randomBlob(50 * MIB, 'layer');
    await mirrored('library/app', layer);
    s3.fault = ({ method, query }) => {
      const isMatching = method !== 'DELETE' && query.has('uploadId') && matches(query.get('partNumber'));
      return isMatching ? { silent: true } : undefined;
    };
    await expectPulled('library/app', layer);
    await until('a request hangs', 10_000, async () =>
      s3.requests.some(({ query }) => query.has('uploadId') && matches(query.get('partNumber'))),
    );
    await entrepot.kill();
    expect(s3.uploads.size).toBe(1);
    s3.fault = () => undefined;
    entrepot = await entrepot.startAgain();
    await gc();
    expect([s3.uploads.size, stored()]).toEqual([0, []]);
    await expectPulled('library/app', layer);
  });

  it('what a server leaves that was killed in a push is collected, and the push goes on', async () => {
    const blob = randomBlob(50 * MIB, 'pushed');
    const location = await pushClient.beginUpload(entrepot.url, 'team/app');
    const url = () => `${entrepot.url}${location}`;
    const held = { start: 0, end: blob.size, holdAtByte: blob.size - 1 };
    const interrupted = pushClient.sendBytes('PATCH', url(), blob, held);
    const parts = () => [...s3.uploads.values()].flatMap(upload => [...upload.parts]);
    await until('parts of it to be in the bucket', 60_000, async () => parts().length === 3);
    expect(stored()).toEqual([]);
    await entrepot.kill();
    expect(await interrupted).toBe(0);
    entrepot = await entrepot.startAgain();
    await gc();
    expect([s3.uploads.size, stored()]).toEqual([0, []]);
    const start = await pushClient.offsetOf(url());
    expect(await pushClient.sendBytes('PUT', `${url()}?digest=${blob.digest}`, blob, { start })).toBe(201);
    await expectPulled('team/app', blob);
    expect(stored()).toEqual([blob.digest]);
  });

  it('an object that was put just before a kill is collected, or has its row', async () => {
    const layer = randomBlob(MIB, 'layer');
    await mirrored('library/app', layer);
    s3.fault = ({ method, key }) => (method === 'PUT' && key.includes('blobs/') ? { lost: true } : undefined);
    await expectPulled('library/app', layer);
    await until('the object is there', 10_000, async () => isStored(layer));
    await entrepot.kill();
    s3.fault = () => undefined;
    entrepot = await entrepot.startAgain();
    await gc();
    expect(stored()).toEqual([]);
    await expectPulled('library/app', layer);
  });

  it('an index that is lost is rebuilt from the bucket', async () => {
    const image = imageOf([randomBlob(MIB, 'layer')]);
    await push('team/app', image);
    await entrepot.stop();
    const store = join(entrepot.folder, 'store');
    await rm(store, { recursive: true });
    await mkdir(store);
    await expect(entrepot.startAgain()).rejects.toThrow('belongs to another store');
    const { code, stdout } = await entrepot.command('rebuild');
    expect([code, stdout]).toEqual([0, expect.stringContaining('2 blobs added')]);
    entrepot = await entrepot.startAgain();
    const objects = stored();
    await push('team/app', image);
    await expectPulled('team/app', image.layers[0]!);
    expect([...new Set(stored())]).toEqual(objects);
  });

  it('a rebuild does not take over the bucket of another store for one that has its own', async () => {
    await push('team/app', imageOf([randomBlob(MIB, 'layer')]));
    await entrepot.stop();
    // As with a prefix that is that of another store by mistake.
    const own = [...s3.objects.keys()].find(key => key.startsWith('entrepot/stores/'))!;
    s3.objects.set('entrepot/stores/another', s3.objects.get(own)!);
    s3.objects.delete(own);
    const { code, stderr } = await entrepot.command('rebuild');
    expect([code, stderr]).toEqual([1, expect.stringContaining('does not have the blobs of this store')]);
    expect(s3.objects.has('entrepot/stores/another')).toBe(true);
  });

  it('several serving processes share the bucket', async () => {
    await entrepot.stop();
    entrepot = await entrepot.startAgain({ ...config(), server: { processes: 2 } });
    const [layer, pushed] = [randomBlob(20 * MIB, 'layer'), imageOf([randomBlob(MIB, 'pushed')])];
    await mirrored('library/app', layer);
    await Promise.all(Array.from({ length: 8 }, () => expectPulled('library/app', layer)));
    await push('team/app', pushed);
    await until('the blob is stored', 10_000, async () => isStored(layer));
    await Promise.all(Array.from({ length: 8 }, () => expectPulled('team/app', pushed.layers[0]!)));
    expect(upstream.downloads()).toHaveLength(1);
    expect(stored()).toEqual(digestsOf(layer, ...pushed.layers, pushed.config));
    await gc();
    expect(stored()).toEqual(digestsOf(layer, ...pushed.layers, pushed.config));
  });

  it('fifty readers of a blob share what is read of its object, and leave no connection open', async () => {
    const layer = randomBlob(20 * MIB, 'layer');
    await mirrored('library/app', layer);
    await expectPulled('library/app', layer);
    await until('the blob is stored', 10_000, async () => isStored(layer));
    s3.requests.length = 0;
    await Promise.all(Array.from({ length: 50 }, () => expectPulled('library/app', layer)));
    expect(s3.requests.length).toBeLessThan(50);
    await entrepot.stop();
    while (s3.openSockets > 0) await nextTick();
    entrepot = await entrepot.startAgain();
  });

  it('sends clients with a right to a blob to the bucket, if it is told to', async () => {
    const { s3: section } = config().storage as { readonly s3: object };
    await entrepot.stop();
    entrepot = await entrepot.startAgain(config({ s3: { ...section, redirect: true } }));
    const layer = randomBlob(100_000, 'layer');
    await mirrored('library/app', layer);
    const url = `${entrepot.url}/v2/library/app/blobs/${layer.digest}?ns=${UPSTREAM}`;
    // It is being downloaded.
    await expectPulled('library/app', layer);
    const ask = (headers: Record<string, string> = {}, method = 'GET') =>
      fetch(url, { method, headers, redirect: 'manual' });
    await until('the blob is stored', 10_000, async () => (await ask()).status === 307);
    const sent = await ask();
    expect([sent.status, await sent.text()]).toEqual([307, '']);
    const location = sent.headers.get('location') ?? '';
    expect(location).toContain(`${s3.endpoint}/${s3.bucket}/entrepot/blobs/sha256/`);
    // Whoever has the URL can read the blob, even if the right has ended.
    expect(new URL(location).searchParams.get('X-Amz-Expires')).toBe('300');
    const got = await get(location);
    expect([got.status, `sha256:${got.sha256}`]).toEqual([200, layer.digest]);
    const ranged = await fetch(url, { headers: { Range: 'bytes=5-14' } });
    expect([ranged.status, (await ranged.arrayBuffer()).byteLength]).toEqual([206, 10]);
    expect((await ask({ Range: 'bytes=0-1,50-60' })).status).toBe(206);
    expect((await ask({ Range: 'bytes=100000-' })).status).toBe(416);
    expect((await ask({}, 'HEAD')).status).toBe(200);
    expect((await ask({ 'If-None-Match': `"${layer.digest}"` })).status).toBe(304);
    const elsewhere = await fetch(url.replace('library/app', 'library/other'), { redirect: 'manual' });
    expect([elsewhere.status, elsewhere.headers.get('location')]).toEqual([404, null]);
  });

  it('blobs are never looked for in the wrong place', async () => {
    await push('team/app', imageOf([randomBlob(1_000, 'layer')]));
    await entrepot.stop();
    const { storage: _, ...inFolder } = config();
    await expect(entrepot.startAgain(inFolder)).rejects.toThrow('are in a bucket');
    const { s3: section } = config().storage as { readonly s3: object };
    const elsewhere = config({ s3: { ...section, prefix: 'elsewhere' } });
    await expect(entrepot.startAgain(elsewhere)).rejects.toThrow('does not have the blobs of this store');
    const second = Entrepot.start(config());
    await expect(second).rejects.toThrow('belongs to another store');
    entrepot = await entrepot.startAgain(config());
  });

  it('the first start of a store says what its bucket lacks, and does not speak of a running registry', async () => {
    const { s3: section } = config().storage as { readonly s3: object };
    const failureOf = async (changes: object): Promise<string> =>
      Entrepot.start(config({ s3: { ...section, ...changes } })).then(
        () => 'it has started',
        (error: unknown) => String(error),
      );
    const without = await failureOf({ bucket: 'absent' });
    expect(without).toMatch(/answers 404 NoSuchBucket.*: create the bucket first/);
    expect(without).not.toContain('has lost the bucket');
    await writeFile(join(folder, 'wrong'), '[default]\naws_access_key_id = a\naws_secret_access_key = b\n');
    const refused = await failureOf({ credentialsFile: join(folder, 'wrong') });
    expect(refused).toMatch(/answers 403 \w+.*: check storage\.s3\.credentials and their permissions/);
    expect(refused).not.toContain('are answered with 503');
  });

  it('an S3 whose certificate is of a private CA is used only if caFile names that CA', async () => {
    const file = (name: string) => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url));
    const [key, cert] = [readFileSync(file('server.key'), 'utf8'), readFileSync(file('server.pem'), 'utf8')];
    const secured = await FakeS3.start({ tls: { key, cert } });
    try {
      const { s3: section } = config().storage as { readonly s3: object };
      const at = { ...section, endpoint: secured.endpoint };
      await expect(Entrepot.start(config({ s3: at }))).rejects.toThrow(/storage\.s3: .*certificate/);
      const trusting = await Entrepot.start(config({ s3: { ...at, caFile: file('ca.pem') } }));
      await pushClient.pushImage(trusting.url, 'team/app', 'v1', imageOf([randomBlob(1_000, 'layer')]));
      await trusting.remove();
      expect(secured.blobKeys()).toHaveLength(2);
    } finally {
      await secured.close();
    }
  });

  it('config check warns of a credentials file without keys', async () => {
    expect(await entrepot.command('config', 'check')).toMatchObject({ code: 0, stderr: '' });
    await rm(join(folder, 'keys'));
    const { code, stderr } = await entrepot.command('config', 'check');
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(
        /warning: .*storage\.s3\.credentials: .*keys.* cannot be read: it does not exist/,
      ),
    ]);
  });

  it('a backup has the index, which a restore compares with the bucket', async () => {
    const [kept, lost] = [imageOf([randomBlob(MIB, 'kept')]), imageOf([randomBlob(MIB, 'lost')])];
    await push('team/kept', kept);
    await push('team/lost', lost);
    const file = join(folder, 'backup.tar');
    expect(await entrepot.command('backup', file)).toMatchObject({ code: 0 });
    expect((await stat(file)).size).toBeLessThan(MIB);
    await push('team/later', imageOf([randomBlob(MIB, 'later')]));
    await entrepot.stop();
    const [layer] = lost.layers;
    for (const key of s3.blobKeys()) {
      if (layer !== undefined && key.includes(layer.digest.slice(7))) s3.objects.delete(`entrepot/${key}`);
    }
    await rm(join(entrepot.folder, 'store'), { recursive: true });
    s3.hasBucket = false;
    expect(await entrepot.command('restore', file)).toMatchObject({ code: 1 });
    expect(existsSync(join(entrepot.folder, 'store'))).toBe(false);
    s3.hasBucket = true;
    const restored = await entrepot.command('restore', '--json', file);
    expect(restored.code).toBe(0);
    expect(JSON.parse(restored.stdout).lacking).toMatchObject([{ kind: 'blob', digest: layer?.digest }]);
    entrepot = await entrepot.startAgain();
    for (const blob of [...kept.layers, kept.config]) await expectPulled('team/kept', blob);
    expect((await get(`${entrepot.url}/v2/team/lost/blobs/${layer?.digest}`)).status).toBe(404);
    expect(JSON.parse((await entrepot.command('status', '--json')).stdout).store.damaged).toBe(1);
    await push('team/lost', lost);
    for (const blob of [...lost.layers, lost.config]) await expectPulled('team/lost', blob);
  });

  it('a backup is restored only to what it was made of', async () => {
    const file = join(folder, 'backup.tar');
    expect(await entrepot.command('backup', file)).toMatchObject({ code: 0 });
    await entrepot.stop();
    const { storage: _, ...inFolder } = config();
    const other = await Entrepot.start(inFolder);
    const ofFolder = join(folder, 'folder.tar');
    expect(await other.command('backup', ofFolder)).toMatchObject({ code: 0 });
    await other.stop();
    await rm(join(other.folder, 'store'), { recursive: true });
    await rm(join(entrepot.folder, 'store'), { recursive: true });
    const intoFolder = await other.command('restore', file);
    expect([intoFolder.code, intoFolder.stderr]).toEqual([
      1,
      expect.stringContaining('configure that bucket'),
    ]);
    const intoBucket = await entrepot.command('restore', ofFolder);
    expect([intoBucket.code, intoBucket.stderr]).toEqual([1, expect.stringContaining('remove storage.s3')]);
    await other.remove();
  });
});
