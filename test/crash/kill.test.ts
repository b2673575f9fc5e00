// 200 crashes at random moments under load. What a store may never show afterwards is asserted after each of them, and
// the test fails if the crashes came at moments that prove nothing.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { get } from '../support/client.ts';
import { type Content, imageOf, randomBlob } from '../support/content.ts';
import { Entrepot } from '../support/entrepot.ts';
import { FakeUpstream } from '../support/fake-upstream.ts';
import { Database } from '../../src/metadata/sqlite/driver.ts';

const KILLS = 200;
/** Enough crashes of each kind that all the moments of a write have been met. */
const LEAST_OF_EACH = 50;
/** How long a process lives at most; longer on a machine that is too slow to commit anything in that time. */
const LIFE_MS = 300;
const MORE_LIFE_MS = 30;
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

interface Files {
  readonly blobs: ReadonlySet<string>;
  /** Ingests with at least one byte: half-written content. */
  readonly halfWritten: number;
}

async function filesOf(store: string): Promise<Files> {
  const blobs = await readdir(join(store, 'blobs'), { recursive: true, withFileTypes: true }).catch(() => []);
  const ingests = await readdir(join(store, 'ingest')).catch(() => []);
  const sizes = await Promise.all(ingests.map(async name => (await stat(join(store, 'ingest', name))).size));
  return {
    blobs: new Set(blobs.filter(entry => entry.isFile()).map(entry => join(entry.parentPath, entry.name))),
    halfWritten: sizes.filter(size => size > 0).length,
  };
}

interface Rows {
  /** Sizes of the blobs that the index says are held. */
  readonly blobs: ReadonlyMap<string, number>;
  readonly manifests: ReadonlyMap<string, Buffer>;
}

function rowsOf(store: string): Rows {
  const index = new Database(join(store, 'index.db'), { readonly: true });
  try {
    expect(index.pragma('integrity_check', { simple: true })).toBe('ok');
    const blobs = index.prepare('SELECT digest, size FROM blobs').all() as { digest: string; size: number }[];
    const manifests = index.prepare('SELECT digest, bytes FROM manifests').all() as {
      digest: string;
      bytes: Buffer;
    }[];
    return {
      blobs: new Map(blobs.map(({ digest, size }) => [digest, size])),
      manifests: new Map(manifests.map(({ digest, bytes }) => [digest, bytes])),
    };
  } finally {
    index.close();
  }
}

async function digestOfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return `sha256:${hash.digest('hex')}`;
}

const blobPath = (store: string, digest: string) =>
  join(store, 'blobs', 'sha256', digest.slice(7, 9), digest.slice(7));
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
  it('opens, serves nothing half-made, has lost nothing that it served as held, and goes on', {
    timeout: 1_200_000,
  }, async () => {
    const store = join(entrepot.folder, 'store');
    const verified = new Set<string>();
    const met = { halfWritten: 0, committed: 0 };
    let committedBefore = 0;
    let lifeMs = LIFE_MS;
    for (let cycle = 0; cycle < KILLS; cycle++) {
      const { tag, layers } = newImage(cycle);
      const load = [get(manifestUrl(tag)), ...layers.map(layer => get(blobUrl(layer.digest)))];
      await sleep(Math.random() * lifeMs);
      await entrepot.kill();
      await Promise.all(load);

      const files = await filesOf(store);
      const rows = rowsOf(store);
      if (files.halfWritten > 0) met.halfWritten++;
      if (rows.blobs.size + rows.manifests.size > committedBefore) {
        met.committed++;
        lifeMs = Math.max(LIFE_MS, lifeMs - MORE_LIFE_MS);
      } else {
        lifeMs += MORE_LIFE_MS;
      }
      committedBefore = rows.blobs.size + rows.manifests.size;
      for (const digest of rows.blobs.keys()) {
        expect(files.blobs.has(blobPath(store, digest)), `row ${digest} has its file`).toBe(true);
      }
      const unseen = [...files.blobs].filter(path => !verified.has(path));
      for (const path of unseen) {
        const digest = `sha256:${path.slice(-64)}`;
        expect(await digestOfFile(path)).toBe(digest);
        expect(rows.blobs.get(digest) ?? (await stat(path)).size).toBe((await stat(path)).size);
        verified.add(path);
      }
      for (const [digest, bytes] of rows.manifests) {
        expect(`sha256:${createHash('sha256').update(bytes).digest('hex')}`).toBe(digest);
      }

      entrepot = await entrepot.startAgain();
      if (cycle % 10 === 0) await expectOnlyHeldIsServed(layers, rows);
    }
    expect(met.halfWritten).toBeGreaterThanOrEqual(LEAST_OF_EACH);
    expect(met.committed).toBeGreaterThanOrEqual(LEAST_OF_EACH);

    // What was half-made is finished when it is asked for, from where it stood.
    const { layers } = newImage(KILLS);
    for (const layer of layers) {
      const got = await get(blobUrl(layer.digest));
      expect([got.complete, `sha256:${got.sha256}`]).toEqual([true, layer.digest]);
    }
  });
});

/**
 * With upstream refusing everything, a blob is served if and only if the index said after the crash that it is held. All
 * are asked for at once: what the dead process was writing is claimed until it counts as dead, seconds later.
 */
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
