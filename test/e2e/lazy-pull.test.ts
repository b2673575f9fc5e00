// What lazily pulling clients request of a layer that is not stored: pieces of it, near and far. Upstream is slow, so that
// it shows in what it has sent when an answer is there whether that waited for more than was requested.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FileSavedParts } from '../../src/blobs/file-parts.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { get, type Got, many } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { until } from '../support/programs.ts';

const MIB = 1024 * 1024;
const UPSTREAM = 'up.example';
const LAYER_BYTES = 24 * MIB;
/** As stargz requests them, beside a HEAD: the first two bytes, the end, and pieces in multiples of 50,000. */
const STARGZ_RANGES = [
  [0, 2],
  [25_100_000, LAYER_BYTES],
  [24_950_000, 25_100_000],
  [0, 350_000],
  [12_500_000, 12_600_000],
  [12_600_000, 12_700_000],
  [3_000_000, 3_050_000],
] as const;
/** The first two bytes are requested twice. */
const STARGZ_BYTES = STARGZ_RANGES.slice(1).reduce((sum, [start, end]) => sum + end - start, 0);

let upstream: FakeUpstream;
let entrepot: Entrepot;
let layer: Content;

beforeEach(async () => {
  upstream = await FakeUpstream.start({ linkBytesPerS: 10 * MIB });
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url } } });
  layer = randomBlob(LAYER_BYTES, 'lazy');
  upstream.add('app', imageOf([layer]), '1');
  upstream.add('bare', layer);
  await get(`${entrepot.url}/v2/app/manifests/1?ns=${UPSTREAM}`);
});

afterEach(async () => {
  await entrepot.remove();
  await upstream.stop();
});

describe('pieces of a layer that is not stored', () => {
  it('cost what they are, wherever they are', async () => {
    await readAsStargz();
    expect(upstream.bytesSent).toBeLessThan(STARGZ_BYTES * 1.3);
  });

  it('are the same for the next client, who costs nothing', async () => {
    await readAsStargz();
    upstream.requests.length = 0;
    await readAsStargz();
    expect(upstream.requests).toEqual([]);
  });

  it('cost once what several clients request at the same time', async () => {
    await many(10, () => readAsStargz());
    expect(upstream.bytesSent).toBeLessThan(STARGZ_BYTES * 1.3);
  });

  it('cost what they are when many are requested at once', async () => {
    const ranges = Array.from({ length: 200 }, (_, at) => [at * 120_000, at * 120_000 + 12_000] as const);
    const got = await ask(ranges);
    expect(got.status).toBe(206);
    expect(got.headers['content-type']).toMatch(/^multipart\/byteranges/);
    expect(got.complete).toBe(true);
    expect(got.bytes).toBeGreaterThan(200 * 12_000);
    expect(upstream.bytesSent).toBeLessThan(200 * 12_000 * 1.3);
  });

  it('are all that upstream sends when the client leaves', async () => {
    await get(urlOf(), { headers: { range: `bytes=${10 * MIB}-${10 * MIB + 99}` }, leaveAtByte: 10 });
    await expectPiece(20 * MIB, 20 * MIB + 100);
    expect(upstream.bytesSent).toBeLessThan(100_000);
  });

  it('are none of them the end of a layer that is wrong, if it is read to its end', async () => {
    upstream.misbehave({ kind: 'blob', method: 'GET', corruptByte: 5 });
    const tail = await get(urlOf(), { headers: { range: `bytes=${LAYER_BYTES - 1_000}-` } }).catch(
      () => undefined,
    );
    expect(tail?.status === 206 && tail.complete).toBe(false);
    upstream.behave();
    expect((await get(urlOf(), { headers: { range: `bytes=${LAYER_BYTES - 1_000}-` } })).bytes).toBe(1_000);
  });

  it('leave the rest to a whole pull, during which others are answered at once', async () => {
    await readAsStargz();
    const whole = get(urlOf());
    await expect.poll(() => upstream.bytesSent).toBeGreaterThan(2 * MIB);
    await expectPiece(20 * MIB, 20 * MIB + 100_000);
    expect(upstream.bytesSent).toBeLessThan(LAYER_BYTES / 2);
    expect(`sha256:${(await whole).sha256}`).toBe(layer.digest);
    expect(upstream.bytesSent).toBeLessThan(LAYER_BYTES * 1.01);
  });

  it('cost no more for a client that has the manifest from elsewhere', async () => {
    upstream.requests.length = 0;
    for (let clients = 0; clients < 2; clients += 1) {
      // As stargz begins.
      await expectPiece(0, 2, 'bare');
      await readAsStargz('bare');
    }
    expect(upstream.requests.map(({ method, kind }) => `${method} ${kind}`)).toEqual(
      STARGZ_RANGES.map(() => 'GET blob'),
    );
    expect(`sha256:${(await get(urlOf('bare'))).sha256}`).toBe(layer.digest);
    expect(upstream.bytesSent).toBeLessThan(LAYER_BYTES * 1.01);
  });

  it.each(['stop', 'kill'] as const)('are kept over a %s of the server', async end => {
    await readAsStargz();
    if (end === 'kill')
      await until('they are saved', 60_000, async () => (await savedBytes()) === STARGZ_BYTES);
    await entrepot[end]();
    entrepot = await entrepot.startAgain();
    expect(`sha256:${(await get(urlOf())).sha256}`).toBe(layer.digest);
    expect(upstream.bytesSent).toBeLessThan(LAYER_BYTES * 1.01);
  });
});

/** How many bytes of layers would be there after a crash. */
async function savedBytes(): Promise<number> {
  const ingests = join(entrepot.folder, 'store', 'ingest');
  let bytes = 0;
  for (const name of (await readdir(ingests)).filter(one => one.endsWith('.parts'))) {
    const saved = await FileSavedParts.open(join(ingests, name), 0);
    bytes += saved?.extents.bytes ?? 0;
    await saved?.close();
  }
  return bytes;
}

async function readAsStargz(repository = 'app'): Promise<void> {
  const head = await get(urlOf(repository), { method: 'HEAD' });
  expect([head.status, head.headers['content-length']]).toEqual([200, String(LAYER_BYTES)]);
  for (const [start, end] of STARGZ_RANGES) await expectPiece(start, end, repository);
}

function urlOf(repository = 'app'): string {
  return `${entrepot.url}/v2/${repository}/blobs/${layer.digest}?ns=${UPSTREAM}`;
}

function ask(ranges: readonly (readonly [start: number, end: number])[], repository?: string): Promise<Got> {
  return get(urlOf(repository), {
    headers: { range: `bytes=${ranges.map(([start, end]) => `${start}-${end - 1}`).join(',')}` },
  });
}

/** Requests bytes `start` up to but not including `end`, and compares them. */
async function expectPiece(start: number, end: number, repository?: string): Promise<void> {
  const { status, headers, sha256 } = await ask([[start, end]], repository);
  const piece = Buffer.concat(Array.from(layer.slice(start, end)));
  expect({ status, range: headers['content-range'], sha256 }).toEqual({
    status: 206,
    range: `bytes ${start}-${end - 1}/${LAYER_BYTES}`,
    sha256: digestOf(piece).slice('sha256:'.length),
  });
}
