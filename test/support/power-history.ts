// Random histories in which the power fails again and again, while images are pushed, deleted, collected and mirrored, and
// while the server stops and starts. What was synced until then is copied aside, and a server on that copy is asked.
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseIngestName } from '../../src/blobs/file-paths.ts';
import { loadConfig } from '../../src/config/load.ts';
import { silentLog } from '../../src/lib/log.ts';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { createMetrics } from '../../src/ops/metrics.ts';
import { startServer } from '../../src/compose/server.ts';
import { get, type GetOptions } from './client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from './content.ts';
import { Entrepot, STARTER } from './entrepot.ts';
import { FakeUpstream } from './fake-upstream.ts';
import { freePort, tryRun } from './programs.ts';
import { SyncedCopy } from './synced-copy.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

const PUSHERS = 4;
/** The power is there for so long at most, and then fails again. */
const MAX_UPTIME_MS = 1_500;
/** Few pushes take as long; what was deleted is collected after it. */
const GRACE_MS = 8_000;
const UPSTREAM = 'up.example';
const REPOSITORY = 'team/app';
const CHUNK_BYTES = 40_000;
/** Images that are held at a time, about. */
const HELD = 40;
/** Of those that were deleted, so many are looked for. */
const DELETED = 30;
/** Until a server that was stopped is there again, about. */
const RETRY_MS = 100;

/** What clients know of an image. */
interface Known {
  readonly image: Image;
  /** Acknowledged as a whole; asked to be deleted, and that acknowledged. */
  state: 'held' | 'deleting' | 'deleted';
}

/** What a tag was pushed to mean, one after the other. It means the last that was acknowledged, or one behind it. */
interface KnownTag {
  readonly digests: (string | undefined)[];
  /** Index of that one. */
  acknowledged: number;
}

/** What has to be there after the power failed. */
interface Expected {
  readonly held: readonly Image[];
  readonly deleted: readonly Image[];
  readonly blobs: readonly Content[];
  /** What each tag may mean. */
  readonly tags: ReadonlyMap<string, readonly (string | undefined)[]>;
  /** The latest epoch of an ingest: its file may have survived, although neither its name nor its Lease was synced. */
  readonly lastEpoch: number;
}

export class PowerHistory {
  /** Images that were acknowledged, and what else has happened. */
  readonly met = {
    losses: 0,
    images: 0,
    deletions: 0,
    collections: 0,
    stops: 0,
    kills: 0,
    /** Ingests that were there when the power failed, and not afterwards: they are not synced before they end. */
    lackedIngests: 0,
  };
  readonly #folder: string;
  readonly #synced: SyncedCopy;
  readonly #upstream: FakeUpstream;
  readonly #images: Known[] = [];
  readonly #tags = new Map<string, KnownTag>();
  /** Acknowledged, while their manifest is not yet; since when that was asked for. */
  readonly #blobs = new Map<Content, number>();
  #entrepot: Entrepot;
  #isOver = false;
  #made = 0;

  private constructor(folder: string, synced: SyncedCopy, upstream: FakeUpstream, entrepot: Entrepot) {
    this.#folder = folder;
    this.#synced = synced;
    this.#upstream = upstream;
    this.#entrepot = entrepot;
  }

  static async open(): Promise<PowerHistory> {
    const folder = await makeTempFolder('power');
    const store = join(folder, 'store');
    const synced = await SyncedCopy.of(store, join(folder, 'synced'));
    const upstream = await FakeUpstream.start();
    const options = { folder: join(folder, 'pot'), env: synced.env };
    const entrepot = await Entrepot.start(configOf(store, upstream), options);
    return new PowerHistory(folder, synced, upstream, entrepot);
  }

  /** Goes on until the power has failed so often, or for so long; in either case until everything was met. */
  async run(losses: number, maxMs: number): Promise<void> {
    const acts = [() => this.#deleteOne(), () => this.#collect(), () => this.#restart(), () => this.#pull()];
    const pushers = Array.from({ length: PUSHERS }, (_, pusher) => () => this.#push(`t${pusher}`));
    const losing = this.#losePower(losses, performance.now() + maxMs).finally(() => {
      this.#isOver = true;
    });
    await Promise.all([losing, ...[...acts, ...pushers].map(act => this.#repeat(act))]);
  }

  async close(): Promise<void> {
    await Promise.all([this.#entrepot.stop(), this.#upstream.stop()]);
    await removeFolder(this.#folder);
  }

  async #repeat(act: () => Promise<void>): Promise<void> {
    try {
      while (!this.#isOver) await act();
    } finally {
      this.#isOver = true;
    }
  }

  /** The status, once the server is there; 0 when this is over before. */
  async #ask(path: string, options: GetOptions): Promise<number> {
    for (;;) {
      if (this.#isOver) return 0;
      const { status } = await get(`${this.#entrepot.url}/v2/${REPOSITORY}/${path}`, options);
      if (status !== 0 && status !== 503) return status;
      await sleep(RETRY_MS);
    }
  }

  /** Moves the tag to an image of its own. */
  async #push(name: string): Promise<void> {
    this.#made += 1;
    const beganAtMs = performance.now();
    const image = imageOf([randomBlob(1_000 + ((this.#made * 37_000) % 200_000), `power ${this.#made}`)]);
    const parts = [image.config, ...image.layers];
    for (const blob of parts) {
      let pushedAtMs = performance.now();
      while (!(await this.#pushBlob(blob))) {
        if (this.#isOver) return;
        pushedAtMs = performance.now();
      }
      this.#blobs.set(blob, pushedAtMs);
    }
    const tag = this.#tags.get(name) ?? { digests: [undefined], acknowledged: 0 };
    this.#tags.set(name, tag);
    const { digest, mediaType } = image.manifest;
    const pushed = tag.digests.push(digest) - 1;
    const headers = { 'content-type': mediaType };
    const put = { method: 'PUT', headers, body: bytesOf(image.manifest) };
    const status = await this.#ask(`manifests/${name}`, put);
    if (status === 201) {
      tag.acknowledged = pushed;
      this.#images.push({ image, state: 'held' });
      this.met.images += 1;
    } else if (!this.#isOver && (status !== 404 || performance.now() - beganAtMs < GRACE_MS)) {
      // Later, its blobs may have been collected.
      throw new Error(`a manifest whose blobs were acknowledged: ${status}`);
    }
    for (const blob of parts) this.#blobs.delete(blob);
    await sleep(Math.random() * 500);
  }

  /** In one request, or in chunks. False when it has to begin anew: the server was away. */
  async #pushBlob(blob: Content): Promise<boolean> {
    const { url } = this.#entrepot;
    const begun = await get(`${url}/v2/${REPOSITORY}/blobs/uploads/`, { method: 'POST' });
    const location = new URL(begun.headers.location ?? '', url).href;
    const bytes = bytesOf(blob);
    const chunkBytes = Math.random() < 0.5 ? CHUNK_BYTES : Infinity;
    let start = 0;
    let { status } = begun;
    for (; status === 202 && blob.size - start > chunkBytes; start += chunkBytes) {
      const body = bytes.subarray(start, start + chunkBytes);
      ({ status } = await get(location, { method: 'PATCH', body }));
    }
    if (status === 202) {
      const put = { method: 'PUT', body: bytes.subarray(start) };
      ({ status } = await get(`${location}?digest=${blob.digest}`, put));
    }
    if (status !== 201) await sleep(RETRY_MS);
    return status === 201;
  }

  /** Deletes an image that no tag means. */
  async #deleteOne(): Promise<void> {
    const held = this.#images.filter(({ state }) => state === 'held');
    await sleep(held.length > HELD ? 50 : 500);
    const tags = [...this.#tags.values()];
    const named = new Set(tags.flatMap(({ digests, acknowledged }) => digests.slice(acknowledged)));
    const known = held.find(({ image }) => !named.has(image.manifest.digest));
    if (known === undefined) return;
    known.state = 'deleting';
    for (const path of pathsOf(known.image)) {
      const status = await this.#ask(path, { method: 'DELETE' });
      if (status === 0) return;
      // A stop may have cut off the answer of the time before.
      if (status !== 202 && status !== 404) throw new Error(`a deletion: ${status}`);
    }
    known.state = 'deleted';
    this.met.deletions += 1;
  }

  async #collect(): Promise<void> {
    await sleep(2_000);
    const { configFile } = this.#entrepot;
    const args = [...STARTER, 'gc', '--grace-period', `${GRACE_MS}ms`, '--config', configFile];
    const { code, stdout, stderr } = await tryRun(process.execPath, args, { env: this.#synced.env });
    if (code !== 0) throw new Error(`a collection: ${stderr}`);
    if (!stdout.startsWith('freed 0 B')) this.met.collections += 1;
  }

  async #pull(): Promise<void> {
    this.#made += 1;
    const blob = randomBlob(100_000, `mirrored ${this.#made}`);
    this.#upstream.add('app', blob);
    const got = await get(`${this.#entrepot.url}/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`);
    if (got.status === 200 && got.complete && `sha256:${got.sha256}` !== blob.digest) {
      throw new Error(`wrong and complete: sha256:${got.sha256} for ${blob.digest}`);
    }
    await sleep(300);
  }

  async #restart(): Promise<void> {
    await sleep(3_000 + Math.random() * 4_000);
    if (this.#isOver) return;
    const isKilled = Math.random() < 0.5;
    await (isKilled ? this.#entrepot.kill() : this.#entrepot.stop());
    this.#entrepot = await this.#entrepot.startAgain();
    this.met[isKilled ? 'kills' : 'stops'] += 1;
  }

  /** The next one comes while a server is asked what the one before has left. */
  async #losePower(losses: number, endMs: number): Promise<void> {
    let asking: Promise<void> = Promise.resolve();
    const isEnough = () => this.#hasMetAll && (this.met.losses >= losses || performance.now() > endMs);
    while (!isEnough() && !this.#isOver) {
      await sleep(Math.random() * MAX_UPTIME_MS);
      const pot = await makeTempFolder('loss');
      const expected = await this.#copyTo(join(pot, 'store'));
      this.met.losses += 1;
      await asking;
      asking = this.#expectAll(pot, expected);
      // It is awaited later.
      asking.catch(() => {});
    }
    await asking;
  }

  get #hasMetAll(): boolean {
    const { losses, images, deletions, lackedIngests, stops, kills } = this.met;
    return losses > 0 && images > losses && Math.min(deletions, lackedIngests, stops + kills) > 0;
  }

  /** Copies what is synced at this moment, and says what was acknowledged before it and not undone since. */
  async #copyTo(to: string): Promise<Expected> {
    const states = this.#images.map(({ state }) => state);
    const blobs = [...this.#blobs];
    const tags = [...this.#tags].map(([name, tag]) => ({ name, tag, from: tag.acknowledged }));
    const ingests = await ingestsIn(join(this.#folder, 'store'));
    await this.#synced.copyTo(to);
    const copiedAtMs = performance.now();
    const of = (state: Known['state']) =>
      this.#images.flatMap((known, at) => (known.state === state && states[at] === state ? known.image : []));
    this.met.lackedIngests += await this.#ingestsLackedBy(to);
    // Not of later ones: who has begun them may have started since, and skipped epochs for that.
    const names = [...ingests, ...(await ingestsIn(to))];
    return {
      held: of('held'),
      deleted: of('deleted').slice(-DELETED),
      blobs: blobs.filter(([, atMs]) => copiedAtMs - atMs < GRACE_MS).map(([blob]) => blob),
      tags: new Map(tags.map(({ name, tag, from }) => [name, tag.digests.slice(from)])),
      lastEpoch: Math.max(0, ...names.map(name => parseIngestName(name)?.epoch ?? 0)),
    };
  }

  async #ingestsLackedBy(to: string): Promise<number> {
    const left = new Set(await ingestsIn(to));
    return (await ingestsIn(join(this.#folder, 'store'))).filter(name => !left.has(name)).length;
  }

  /**
   * Asks a server on the copy in `pot`, which is all that there is now. It runs in this process: nothing happens to it, and a
   * process of its own, with one more for the collection, would take most of the time.
   */
  async #expectAll(pot: string, { held, deleted, blobs, tags, lastEpoch }: Expected): Promise<void> {
    const store = join(pot, 'store');
    const server = { listen: `127.0.0.1:${await freePort()}`, opsListen: `127.0.0.1:${await freePort()}` };
    const config = await loadConfig({ env: {}, overrides: { ...configOf(store, this.#upstream), server } });
    const metrics = createMetrics();
    const left = await startServer(config, { log: silentLog, meter: metrics.meter, metrics });
    const url = (path: string) => `http://${server.listen}/v2/${REPOSITORY}/${path}`;
    try {
      const whole = held.flatMap(pathsOf);
      for (const path of [...whole, ...blobs.map(({ digest }) => `blobs/${digest}`)])
        await expectRight(url(path));
      for (const { manifest } of deleted) {
        const { status } = await get(url(`manifests/${manifest.digest}`));
        if (status !== 404) throw new Error(`a manifest that was deleted: ${status}`);
      }
      for (const [name, digests] of tags) {
        const { status, sha256 } = await get(url(`manifests/${name}`));
        const meant = status === 404 ? undefined : `sha256:${sha256}`;
        if (!digests.includes(meant)) throw new Error(`${name} means ${meant}, not one of ${digests.join()}`);
      }
      const lease = await left.parts.metadata.acquireLease('after-power-loss');
      if (lease === undefined || lease.epoch <= lastEpoch) {
        throw new Error(`epoch ${lease?.epoch} may be that of an ingest from before: ${lastEpoch}`);
      }
      await expectFilesOfRows(store);
      // And what is collected is nobody's.
      await left.parts.upkeep.collect({ gracePeriodMs: 0 });
      for (const path of whole) await expectRight(url(path));
    } finally {
      await left.close(0);
      await removeFolder(pot);
    }
  }
}

function configOf(store: string, upstream: FakeUpstream) {
  return {
    hosted: { prefixes: ['team'], anonymous: 'push', delete: true },
    upstreams: { [UPSTREAM]: { url: upstream.url, freshFor: 'forever' } },
    storage: { path: store },
    upkeep: { gcInterval: false, scrubInterval: false },
    log: { level: 'warn' },
  };
}

function ingestsIn(store: string): Promise<readonly string[]> {
  return readdir(join(store, 'ingest')).catch(() => []);
}

function pathsOf({ manifest, config, layers }: Image): readonly string[] {
  return [`manifests/${manifest.digest}`, ...[config, ...layers].map(({ digest }) => `blobs/${digest}`)];
}

/** What is acknowledged under a path that ends with its digest. */
async function expectRight(url: string): Promise<void> {
  const { status, complete, sha256 } = await get(url);
  if (status !== 200 || !complete || !url.endsWith(`sha256:${sha256}`)) {
    throw new Error(`${url} is lost or wrong: ${status} sha256:${sha256}`);
  }
}

async function expectFilesOfRows(store: string): Promise<void> {
  const index = new Database(join(store, 'index.db'), { readonly: true });
  const fault = index.pragma('integrity_check(1)', { simple: true });
  const rows = index.prepare<[], { digest: Digest }>('SELECT digest FROM blobs').all();
  index.close();
  if (fault !== 'ok') throw new Error(`the index is damaged: ${String(fault)}`);
  for (const { digest } of rows) {
    const file = join(store, 'blobs/sha256', digest.slice(7, 9), digest.slice(7));
    if (digestOf(await readFile(file)) !== digest) throw new Error(`the file of ${digest} is damaged`);
  }
}
