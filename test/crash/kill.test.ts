// Crashes at random moments under load, with CRASH_LONG=1 many more. What a store may never show is asserted after each,
// and the test fails if the crashes came at moments that prove nothing.
import { createHash } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { type KeptBlob, keptBlobs } from '../support/test-storage.ts';

/** `npm run test:crash:long`. */
const IS_LONG = process.env['CRASH_LONG'] === '1';
const KILLS = IS_LONG ? 200 : 40;
/** Chance decides what a crash meets: more are made until there were enough of each kind. */
const MAX_KILLS = 5 * KILLS;
/** So many crashes of each kind that the moments of a write have been met. */
const LEAST_OF_EACH = IS_LONG ? 50 : 10;
/** How long a process lives at most; longer on a machine that is too slow to commit anything in that time. */
const LIFE_MS = 300;
/** After a life in which nothing was committed, and after one in which something was: two of three come to commit. */
const MORE_LIFE = 1.25;
const LESS_LIFE = 0.9;
/**
 * So many crashes, then what they interrupted is asked for, all at once: what a dead process was writing is claimed until
 * it counts as dead, seconds later, and that wait is what such a question costs.
 */
const ASK_EVERY = 20;
/** Of what was left half-made, so many are finished at the end. */
const FINISHED = 5;
const UPSTREAM = 'up.example';
const MIB = 1024 * 1024;

let upstream: FakeUpstream;
let entrepot: Entrepot;

beforeAll(async () => {
  upstream = await FakeUpstream.start({ linkBytesPerS: 60 * MIB });
  entrepot = await Entrepot.start({ upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } } });
});

afterAll(async () => {
  await entrepot.remove();
  await upstream.stop();
});

/** Half-written content: the length of each ingest that has at least one byte, by the digest it is to have. */
async function halfWrittenIn(store: string): Promise<ReadonlyMap<string, number>> {
  const ingests = await readdir(join(store, 'ingest')).catch(() => []);
  const lengths = await Promise.all(
    ingests.map(async name => {
      const { size } = await stat(join(store, 'ingest', name));
      return [`sha256:${name.replace(/\..*/, '').slice(-64)}`, size] as const;
    }),
  );
  return new Map(lengths.filter(([, length]) => length > 0));
}

interface Rows {
  /** The blobs that the index says are held. */
  readonly blobs: ReadonlyMap<string, { readonly size: number; readonly key: string | null }>;
  readonly manifests: ReadonlyMap<string, Buffer>;
}

function rowsOf(store: string): Rows {
  const index = new Database(join(store, 'index.db'), { readonly: true });
  try {
    expect(index.pragma('integrity_check', { simple: true })).toBe('ok');
    const blobs = index.prepare('SELECT digest, size, key FROM blobs').all() as {
      digest: string;
      size: number;
      key: string | null;
    }[];
    const manifests = index.prepare('SELECT digest, bytes FROM manifests').all() as {
      digest: string;
      bytes: Buffer;
    }[];
    return {
      blobs: new Map(blobs.map(({ digest, ...row }) => [digest, row])),
      manifests: new Map(manifests.map(({ digest, bytes }) => [digest, bytes])),
    };
  } finally {
    index.close();
  }
}

const nameOf = ({ digest, key }: Pick<KeptBlob, 'digest' | 'key'>) => `${digest} ${key}`;
const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const blobUrl = (digest: string) => `${entrepot.url}/v2/app/blobs/${digest}?ns=${UPSTREAM}`;
const manifestUrl = (tag: string) => `${entrepot.url}/v2/app/manifests/${tag}?ns=${UPSTREAM}`;

/** New content each time, of sizes that take from a moment to longer than the process lives. */
function newImage(cycle: number): { tag: string; layers: readonly Content[] } {
  const sizes = [1_000, 40_000, 200_000, 200_000, 600_000, 2 * MIB, 12 * MIB];
  const layers = sizes.map((size, at) => randomBlob(size, `${cycle}/${at}`));
  const tag = `v${cycle}`;
  upstream.add('app', imageOf(layers), tag);
  return { tag, layers };
}

describe('a store whose process was killed', () => {
  it('opens, serves nothing incomplete, has lost nothing that it had served from the store, and continues', {
    timeout: 1_200_000,
  }, async () => {
    const store = join(entrepot.folder, 'store');
    const verified = new Set<string>();
    const met = { kills: 0, halfWritten: 0, committed: 0 };
    const halfMade: { readonly layer: Content; readonly length: number }[] = [];
    const unasked: Content[] = [];
    let committedBefore = 0;
    let lifeMs = LIFE_MS;
    let rows = rowsOf(store);
    const isEnough = () => Math.min(met.halfWritten, met.committed) >= LEAST_OF_EACH;
    for (let cycle = 0; cycle < KILLS || (!isEnough() && cycle < MAX_KILLS); cycle++) {
      const { tag, layers } = newImage(cycle);
      const load = [get(manifestUrl(tag)), ...layers.map(layer => get(blobUrl(layer.digest)))];
      await sleep(Math.random() * lifeMs);
      await entrepot.kill();
      await Promise.all(load);

      const halfWritten = await halfWrittenIn(store);
      const kept = await keptBlobs(store);
      rows = rowsOf(store);
      met.kills++;
      // Each crash leaves its own: what earlier ones left is still there, and proves nothing about this one.
      const left = layers.flatMap(layer => {
        const length = halfWritten.get(layer.digest);
        return length === undefined ? [] : [{ layer, length }];
      });
      if (left.length > 0) met.halfWritten++;
      halfMade.push(...left);
      if (rows.blobs.size + rows.manifests.size > committedBefore) {
        met.committed++;
        lifeMs = Math.max(LIFE_MS, lifeMs * LESS_LIFE);
      } else {
        lifeMs *= MORE_LIFE;
      }
      committedBefore = rows.blobs.size + rows.manifests.size;
      const sizes = new Map(kept.map(blob => [nameOf(blob), blob.size]));
      for (const [digest, { key, size }] of rows.blobs) {
        expect(sizes.get(nameOf({ digest, key })), `row ${digest} has its file or object`).toBe(size);
      }
      for (const blob of kept.filter(each => !verified.has(nameOf(each)))) {
        expect(sha256(await blob.read())).toBe(blob.digest);
        verified.add(nameOf(blob));
      }
      for (const [digest, bytes] of rows.manifests) expect(sha256(bytes)).toBe(digest);

      entrepot = await entrepot.startAgain();
      unasked.push(...layers);
      if ((cycle + 1) % ASK_EVERY === 0) await expectOnlyHeldIsServed(unasked.splice(0), rows);
    }
    await expectOnlyHeldIsServed(unasked.splice(0), rows);
    console.log(JSON.stringify(met));
    expect(met.halfWritten).toBeGreaterThanOrEqual(LEAST_OF_EACH);
    expect(met.committed).toBeGreaterThanOrEqual(LEAST_OF_EACH);

    // What is new is fetched, and what was half-made is finished when it is asked for, from where it stood: upstream has to
    // show the last 4 KiB again.
    for (const layer of newImage(MAX_KILLS).layers) await expectWhole(layer);
    const unfinished = halfMade.filter(({ layer, length }) => length < layer.size).slice(0, FINISHED);
    expect(unfinished.length).toBe(FINISHED);
    for (const { layer, length } of unfinished) {
      upstream.requests.length = 0;
      await expectWhole(layer);
      const gets = upstream.requests.filter(({ method }) => method === 'GET');
      expect(gets.map(({ headers }) => headers.range)).toEqual([
        length < 4096 ? undefined : `bytes=${length - 4096}-`,
      ]);
    }
  });
});

async function expectWhole(layer: Content): Promise<void> {
  const got = await get(blobUrl(layer.digest));
  expect([got.status, got.complete, `sha256:${got.sha256}`]).toEqual([200, true, layer.digest]);
}

/** With upstream refusing everything, a blob is served if and only if the index says after the crashes that it is held. */
async function expectOnlyHeldIsServed(layers: readonly Content[], rows: Rows): Promise<void> {
  upstream.misbehave({ status: 503 });
  const answers = await Promise.all(layers.map(layer => get(blobUrl(layer.digest))));
  for (const [index, layer] of layers.entries()) {
    const got = answers[index];
    const served = got?.status === 200 && got.complete ? `sha256:${got.sha256}` : undefined;
    expect(served, `blob of ${layer.size} bytes`).toBe(
      rows.blobs.has(layer.digest) ? layer.digest : undefined,
    );
  }
  upstream.behave();
}
