import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { OCI_LAYER, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { Entrepot, type EntrepotConfig } from '../support/entrepot.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';
import { load } from './support/load.ts';
import { LOOP_DELAY, LoopWatch, worstDelay } from './support/loop-delay.ts';
import { NotMeasured } from './support/sections.ts';
import { median, table } from './support/table.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { HAS_POSTGRES, inConfig, Postgres } from '../support/postgres.ts';
import { fillPostgres } from '../support/large-postgres.ts';
import { fillSqlite } from '../support/large-sqlite.ts';

/** Rows are made without their files: what is measured is the index, and removing a file that is gone costs the same call. */
const BLOBS = 1_000_000;
const BLOB_BYTES = 1_000_000;
const TAGS = 100_000;
const REPOSITORIES = 10;
const BLOBS_PER_MANIFEST = 9;
/** Blobs that nothing needs: what is left of a million when every manifest has its nine. */
const GARBAGE = BLOBS - TAGS * BLOBS_PER_MANIFEST;
const UPSTREAM = 'up.example';
const LATENCY_SECONDS = 8;
const MAX_WAIT_MS = 15 * 60_000;

/**
 * A store of a million blobs: starting, listing, collecting, evicting, and what clients notice of it. `postgres`: where its
 * index is, if not in the folder.
 */
export async function largeStore(postgres?: PostgresSettings): Promise<string> {
  const folder = await makeTempFolder('large');
  const index = postgres && { postgres: inConfig(postgres) };
  const rows: [what: string, value: string][] = [];
  let running: Entrepot | undefined;
  const started = async (config: EntrepotConfig, what?: string): Promise<Entrepot> => {
    await running?.stop();
    const startedMs = performance.now();
    running = await start(folder, { ...config, ...(index && { index }) });
    if (what !== undefined) rows.push([what, seconds(performance.now() - startedMs)]);
    return running;
  };
  try {
    const manifestBytes = await makeStore(join(folder, 'store'), postgres);
    const quiet = { gcInterval: false, scrubInterval: false };
    const idle = await started({ upkeep: quiet }, 'start, until it is ready');
    rows.push(['tags/list, page of 1,000, first', await pageTime(idle, '')]);
    rows.push(['tags/list, page of 1,000, in the middle', await pageTime(idle, 'v50000')]);
    rows.push(['manifest by tag, idle', await latency(idle, manifestBytes)]);
    rows.push([
      'finding garbage (gc --dry-run)',
      await time(() => command(idle, 'gc', '--dry-run', '--grace-period', '0s')),
    ]);

    const collecting = await started({ upkeep: { ...quiet, gcInterval: '1s', gcGracePeriod: '0s' } });
    const collectingMs = performance.now();
    await until(collecting, rest => rest < BLOBS);
    rows.push(['manifest by tag, while garbage is collected', await latency(collecting, manifestBytes)]);
    await until(collecting, rest => rest <= BLOBS - GARBAGE);
    rows.push([
      `collecting ${GARBAGE.toLocaleString('en')} blobs`,
      seconds(performance.now() - collectingMs),
    ]);

    const maxBytes = (BLOBS - GARBAGE) * BLOB_BYTES - 1;
    const evicting = await started({ upkeep: quiet, storage: { maxBytes: `${maxBytes}B` } });
    const evictingMs = performance.now();
    await until(evicting, rest => rest < BLOBS - GARBAGE);
    rows.push(['manifest by tag, while content is evicted', await latency(evicting, manifestBytes)]);
    const target = (BLOBS - GARBAGE) * 0.9;
    await until(evicting, rest => rest <= target);
    const evicted = Math.round(BLOBS - GARBAGE - target).toLocaleString('en');
    rows.push([`evicting ${evicted} blobs`, seconds(performance.now() - evictingMs)]);
    const where = postgres === undefined ? 'An index' : 'An index in PostgreSQL';
    const heading = `${where} of ${BLOBS.toLocaleString('en')} blobs and ${TAGS.toLocaleString('en')} tags`;
    return table(heading, ['', ''], rows);
  } finally {
    await running?.stop();
    await removeFolder(folder);
  }
}

/** The same with its index in PostgreSQL, which syncs what it commits. */
export async function largePostgresStore(): Promise<string> {
  if (!HAS_POSTGRES) throw new NotMeasured('needs PostgreSQL');
  const postgres = await Postgres.start({ syncs: true });
  try {
    return await largeStore(postgres.settings());
  } finally {
    await postgres.remove();
  }
}

async function start(folder: string, config: EntrepotConfig): Promise<Entrepot> {
  const upstreams = { [UPSTREAM]: { url: 'http://127.0.0.1:9', freshFor: 'forever' } };
  const hosted = { prefixes: ['team'], anonymous: 'pull' };
  return Entrepot.start({ upstreams, hosted, ...config }, { folder });
}

/** The rows of a store that mirrored a lot: every manifest has a tag and nine blobs, and beside them is the garbage. */
async function makeStore(path: string, postgres: PostgresSettings | undefined): Promise<number> {
  // The first one lives here: tags of a mirrored repository are upstream's to list.
  const repositories = Array.from({ length: REPOSITORIES }, (_, number) =>
    number === 0 ? { upstream: '', name: 'team/app0' } : { upstream: UPSTREAM, name: `app${number}` },
  );
  if (postgres !== undefined) {
    await mkdir(path, { recursive: true });
    const [tags, blobsPerManifest, blobBytes, garbage] = [TAGS, BLOBS_PER_MANIFEST, BLOB_BYTES, GARBAGE];
    const manifestType = OCI_MANIFEST;
    return fillPostgres(postgres, {
      path,
      repositories,
      tags,
      blobsPerManifest,
      blobBytes,
      garbage,
      manifestType,
    });
  }
  const layer = (name: string): Descriptor => ({
    mediaType: OCI_LAYER,
    digest: digestOf(Buffer.from(name)),
    size: BLOB_BYTES,
  });
  return fillSqlite(path, {
    repositories,
    images: TAGS,
    blobsOf: image => Array.from({ length: BLOBS_PER_MANIFEST }, (_, at) => layer(`blob ${image} ${at}`)),
    garbage: Array.from({ length: GARBAGE }, (_, at) => layer(`garbage ${at}`)),
  });
}

async function pageTime({ url }: Entrepot, last: string): Promise<string> {
  const times: number[] = [];
  for (let round = 0; round < 15; round += 1) {
    const startedMs = performance.now();
    const response = await fetch(`${url}/v2/team/app0/tags/list?n=1000&last=${last}`);
    const { tags }: { tags: string[] } = JSON.parse(await response.text());
    if (tags.length !== 1000) {
      throw new Error(`a page of ${tags.length} tags`);
    }
    times.push(performance.now() - startedMs);
  }
  return `${median(times).toFixed(1)} ms`;
}

async function latency(entrepot: Entrepot, expectBytes: number): Promise<string> {
  const loop = new LoopWatch(entrepot);
  await loop.read();
  const {
    requests,
    seconds: elapsed,
    p50Ms,
    p99Ms,
  } = await load({
    kind: 'rate',
    port: Number(new URL(entrepot.url).port),
    path: `/v2/app9/manifests/v99999?ns=${UPSTREAM}`,
    headers: `Accept: ${OCI_MANIFEST}\r\n`,
    connections: 4,
    seconds: LATENCY_SECONDS,
    expectBytes,
  });
  const delay = worstDelay([await loop.read()], 1);
  const rate = Math.round(requests / elapsed);
  return `p50 ${p50Ms.toFixed(1)} ms, p99 ${p99Ms.toFixed(1)} ms, ${rate}/s, ${LOOP_DELAY} ${delay}`;
}

/** Waits until the blobs that are held are as few as `isDone` wants. */
async function until(entrepot: Entrepot, isDone: (blobs: number) => boolean): Promise<void> {
  const endMs = performance.now() + MAX_WAIT_MS;
  for (;;) {
    const blobs = Number(/^entrepot_store_held_blobs (\S+)$/m.exec(await entrepot.metrics())?.[1]);
    if (isDone(blobs)) {
      return;
    }
    if (performance.now() > endMs) {
      throw new Error(`${blobs} blobs are left`);
    }
    await sleep(200);
  }
}

async function command(entrepot: Entrepot, ...args: string[]): Promise<void> {
  const { code, stderr } = await entrepot.spawnCommand(...args);
  if (code !== 0) {
    throw new Error(stderr);
  }
}

async function time(work: () => Promise<void>): Promise<string> {
  const startedMs = performance.now();
  await work();
  return seconds(performance.now() - startedMs);
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
