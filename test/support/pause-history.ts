// Random histories of several processes on one store, each of which is stopped again and again in the middle of a step,
// for longer than the living may, while clients go on elsewhere.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { get } from './client.ts';
import { bytesOf, type Content, contentOf, type Image, imageOf, randomBlob } from './content.ts';
import { Entrepot } from './entrepot.ts';
import { FailoverClient, type Node, pick } from './failover-client.ts';
import { FakeUpstream } from './fake-upstream.ts';
import { SERVER_STEPS, type Step, type StepCounter } from './pause-steps.ts';
import { PausedCommands, UPSTREAM } from './paused-commands.ts';
import { SyscallShim } from './syscall-shim.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

const REPOSITORY = 'tools/app';
/** A step that is not met within it is left for another one. */
const UNMET_MS = 4_000;
/** Of calls of one kind: which of them a server is stopped at, at most. */
const LATEST_CALL = 4;
/** Between two stops of a server, so that it gets its uploads back. */
const AWAKE_MS = 1_500;
/** Images that are held before the oldest ones are deleted. */
const HELD = 40;
/** Deleted at a time. */
const DELETED = 6;
/** How often it is asked whether this is over. */
const LOOK_MS = 2_000;
/** Downloads that were begun go on behind the last answer for as long as this. */
const QUIET_WITHIN_MS = 60_000;
const LINK_BYTES_PER_S = 3_000_000;
/** Of mirrored blobs, one in so many is wrong at one of the upstreams. */
const WRONG_EACH = 3;

export interface PauseHistoryOptions {
  readonly processes: number;
  /** Uploads at a time. */
  readonly pushers: number;
  readonly pullers: number;
  readonly minPauseMs: number;
  readonly maxPauseMs: number;
  /** Shared by histories that go on side by side. */
  readonly counter: StepCounter;
}

let histories = 0;

export class PauseHistory {
  /** Blobs. */
  acknowledged = 0;
  readonly #folder: string;
  readonly #options: PauseHistoryOptions;
  readonly #nodes: readonly Node[];
  readonly #upstreams: readonly FakeUpstream[];
  readonly #client: FailoverClient;
  readonly #commands: PausedCommands;
  readonly #held: Image[] = [];
  readonly #id = String((histories += 1));
  #isEnding = false;
  #made = 0;

  private constructor(
    folder: string,
    options: PauseHistoryOptions,
    nodes: readonly Node[],
    upstreams: readonly [FakeUpstream, FakeUpstream],
  ) {
    this.#folder = folder;
    this.#options = options;
    this.#nodes = nodes;
    this.#upstreams = upstreams;
    this.#client = new FailoverClient(nodes);
    this.#commands = new PausedCommands(this.#id, {
      folder,
      configFile: nodes[0]?.server.configFile ?? '',
      client: this.#client,
      upstream: upstreams[0],
      counter: options.counter,
      pauseMs: () => this.#pauseMs(),
      takeOldest: () => (this.#held.length > HELD - DELETED ? this.#held.shift() : undefined),
      push: image => this.#pushImage(image),
    });
  }

  static async open(options: PauseHistoryOptions): Promise<PauseHistory> {
    const folder = await makeTempFolder('pauses');
    const upstream = { linkBytesPerS: LINK_BYTES_PER_S };
    const upstreams = [await FakeUpstream.start(upstream), await FakeUpstream.start(upstream)] as const;
    const start = async (_: unknown, at: number): Promise<Node> => {
      const shim = await SyscallShim.open(join(folder, `shim-${at}`));
      const config = {
        hosted: { prefixes: ['tools'], anonymous: 'push', delete: true },
        // Some have an upstream that gives wrong bytes now and then.
        upstreams: { [UPSTREAM]: { url: upstreams[at % 2]?.url ?? '', freshFor: 'forever' } },
        storage: { path: join(folder, 'store') },
        upkeep: { gcInterval: false, scrubInterval: false },
        log: { level: 'warn' },
      };
      return { server: await Entrepot.start(config, { env: shim.env }), shim, isPaused: false };
    };
    const nodes = await Promise.all(Array.from({ length: options.processes }, start));
    return new PauseHistory(folder, options, nodes, [...upstreams]);
  }

  /** Leases of a process that stood still which another one took meanwhile, as the first one found when it woke. */
  get takeovers(): number {
    const counts = this.#nodes.flatMap(({ server }) => [...server.logs().matchAll(/"lostLeases":(\d+)/g)]);
    return counts.reduce((sum, [, count]) => sum + Number(count), 0);
  }

  /** Goes on until `isOver` says so, or something has failed. */
  async run(isOver: () => boolean): Promise<void> {
    const { pushers, pullers } = this.#options;
    const many = (count: number, act: () => Promise<void>) =>
      Array.from({ length: count }, () => this.#repeat(act));
    const looking = async () => {
      await sleep(LOOK_MS);
      this.#isEnding ||= isOver();
    };
    await untilAllEnd([
      this.#repeat(looking),
      ...many(pushers, () => this.#pushNew()),
      ...many(pullers, () => this.#pullNew()),
      ...many(2, () => this.#readOne()),
      ...many(1, () => this.#giveUp()),
      // One process stays awake, so that there is somebody who takes over.
      ...this.#nodes.slice(1).map(node => this.#repeat(() => this.#pauseServer(node))),
      ...many(1, () => this.#commands.upkeep()),
      ...many(1, () => this.#commands.others()),
    ]);
  }

  /** Everything that was acknowledged is whole; files equal rows. */
  async expectSound(): Promise<void> {
    await this.#expectAll(0);
    const collected = await this.#client.awake().server.spawnCommand('gc', '--grace-period', '0s');
    if (collected.code !== 0) throw new Error(`the last collection failed: ${collected.stderr}`);
    await this.#expectFilesEqualRows();
    await this.#expectAll(1);
  }

  async #expectFilesEqualRows(): Promise<void> {
    const endMs = performance.now() + QUIET_WITHIN_MS;
    for (;;) {
      const [lost, stray] = await filesAndRows(join(this.#folder, 'store'));
      if (lost.length + stray.length === 0) return;
      if (performance.now() > endMs) {
        throw new Error(`without a file: ${lost.join()}; without a row: ${stray.join()}`);
      }
      await sleep(LOOK_MS);
    }
  }

  async close(): Promise<void> {
    for (const node of this.#nodes) if (node.isPaused) process.kill(node.server.pid, 'SIGCONT');
    await Promise.all(this.#nodes.map(({ server }) => server.remove()));
    await Promise.all(this.#upstreams.map(upstream => upstream.stop()));
    await removeFolder(this.#folder);
  }

  async #repeat(act: () => Promise<void>): Promise<void> {
    try {
      while (!this.#isEnding) await act();
    } finally {
      this.#isEnding = true;
    }
  }

  async #pushNew(): Promise<void> {
    this.#made += 1;
    const size = pick([3_000, 60_000, 700_000]);
    await this.#pushImage(imageOf([randomBlob(size, `pause ${this.#id} ${this.#made}`)]));
    await sleep(Math.random() * 1_000);
  }

  /** Blob by blob, until all is acknowledged. */
  async #pushImage(image: Image): Promise<void> {
    const { manifest, config, layers } = image;
    const home = pick(this.#nodes);
    for (const blob of [config, ...layers]) {
      const options = { repository: REPOSITORY, chunkBytes: Math.ceil(blob.size / 3), pauseMs: 250, home };
      let isAcknowledged = false;
      while (!isAcknowledged) isAcknowledged = await this.#client.pushBlob(blob, options);
      this.acknowledged += 1;
    }
    const put = { method: 'PUT', headers: { 'content-type': manifest.mediaType }, body: bytesOf(manifest) };
    const got = await this.#client.insist(url =>
      get(`${url}/v2/${REPOSITORY}/manifests/${manifest.digest}`, put),
    );
    if (got.status !== 201) {
      throw new Error(`a manifest whose blobs were acknowledged: ${got.status} ${got.text}`);
    }
    this.#held.push(image);
  }

  /** A download that several processes share. */
  async #pullNew(): Promise<void> {
    this.#made += 1;
    const [good, bad] = this.#upstreams;
    const blob = randomBlob(pick([100_000, 500_000, 1_500_000]), `mirrored ${this.#id} ${this.#made}`);
    good?.add('app', blob);
    bad?.add('app', this.#made % WRONG_EACH === 0 ? wrong(blob) : blob);
    const ask = (url: string) => get(`${url}/v2/app/blobs/${blob.digest}?ns=${UPSTREAM}`);
    for (let attempt = 0; attempt < 4; attempt += 1) {
      const answers = await Promise.all([0, 1].map(() => this.#client.ask(ask)));
      for (const got of answers) {
        if (got?.status === 200 && got.complete && `sha256:${got.sha256}` !== blob.digest) {
          throw new Error(`wrong and complete: sha256:${got.sha256} for ${blob.digest}`);
        }
      }
      if (answers.some(got => got?.complete === true && got.status === 200)) break;
    }
    await sleep(500);
  }

  async #giveUp(): Promise<void> {
    const bytes = bytesOf(randomBlob(50_000, `given up ${(this.#made += 1)}`));
    await this.#client.giveUp(REPOSITORY, bytes, pick(['leaving', 'cancelling'] as const));
    await sleep(200);
  }

  /** Of what is not about to be deleted. */
  async #readOne(): Promise<void> {
    await sleep(200);
    if (this.#held.length === 0) return;
    const image = pick(this.#held.slice(-HELD / 2));
    const [layer] = image.layers;
    const got =
      layer && (await this.#client.ask(url => get(`${url}/v2/${REPOSITORY}/blobs/${layer.digest}`)));
    if (got === undefined || got.status >= 500 || got.status === 0 || !got.complete) return;
    if (got.status !== 200 || `sha256:${got.sha256}` !== layer?.digest) {
      throw new Error(`an acknowledged blob: ${got.status}, sha256:${got.sha256} for ${layer?.digest}`);
    }
  }

  async #pauseServer(node: Node): Promise<void> {
    const [kind, step] = this.#options.counter.next(SERVER_STEPS);
    if (!(await this.#stopAt(node, kind, step))) return;
    await sleep(this.#pauseMs());
    process.kill(node.server.pid, 'SIGCONT');
    node.isPaused = false;
    await sleep(AWAKE_MS);
  }

  /** Whether it stands still. */
  async #stopAt(node: Node, kind: string, step: Step): Promise<boolean> {
    const { shim } = node;
    const before = (await shim.met()).length;
    const isMet = async () => {
      const met = (await shim.met())[before];
      if (met === undefined) return false;
      node.isPaused = true;
      this.#options.counter.meet(kind, met);
      return true;
    };
    await shim.set({ ...step, id: 'stop', nth: 1 + Math.floor(Math.random() * LATEST_CALL), action: 'stop' });
    for (let waitedMs = 0; waitedMs < UNMET_MS && !this.#isEnding; waitedMs += 50) {
      await sleep(50);
      if (await isMet()) {
        await shim.set();
        return true;
      }
    }
    await shim.set();
    await sleep(100);
    // It may have been met in the very last moment.
    return isMet();
  }

  #pauseMs(): number {
    const { minPauseMs, maxPauseMs } = this.#options;
    return minPauseMs + Math.random() * (maxPauseMs - minPauseMs);
  }

  /** Each image at one of the processes. */
  async #expectAll(offset: number): Promise<void> {
    const at = (index: number) => this.#nodes[(index + offset) % this.#nodes.length]?.server.url;
    for (const [index, image] of this.#held.entries()) {
      await expectWhole(`${at(index)}/v2/${REPOSITORY}`, image);
    }
    for (const [name, image] of this.#commands.imported) {
      await expectWhole(`${at(0)}/v2/${name}`, image, `?ns=${UPSTREAM}`);
    }
  }
}

/** Throws what failed first when nothing goes on any more. */
export async function untilAllEnd(runs: readonly Promise<void>[]): Promise<void> {
  const failures: unknown[] = [];
  await Promise.all(runs.map(run => run.catch((error: unknown) => failures.push(error))));
  if (failures.length > 0) throw failures[0];
}

/** The same blob, with other bytes in its middle. */
function wrong(blob: Content): Content {
  const bytes = bytesOf(blob);
  bytes.fill('?', blob.size / 2, blob.size / 2 + 100);
  return { ...blob, slice: (from, to) => contentOf(bytes, blob.mediaType).slice(from, to) };
}

async function expectWhole(url: string, { manifest, config, layers }: Image, query = ''): Promise<void> {
  const paths = [manifest, config, ...layers].map(({ digest }, at) => [
    at === 0 ? 'manifests' : 'blobs',
    digest,
  ]);
  for (const [what, digest] of paths) {
    const got = await get(`${url}/${what}/${digest}${query}`);
    if (got.status === 200 && got.complete && `sha256:${got.sha256}` === digest) continue;
    throw new Error(`${what} ${digest} of ${url} is lost or wrong: ${got.status} sha256:${got.sha256}`);
  }
}

/** Of the blobs: rows without a file, and files without a row. */
async function filesAndRows(
  store: string,
): Promise<readonly [lost: readonly string[], stray: readonly string[]]> {
  const names = await readdir(join(store, 'blobs'), { recursive: true, withFileTypes: true });
  const files = names.filter(entry => entry.isFile()).map(({ name }) => `sha256:${name}`);
  const index = new Database(join(store, 'index.db'), { readonly: true });
  const rows = index.prepare<[], { digest: string }>('SELECT digest FROM blobs').all();
  const fault = index.pragma('integrity_check(1)', { simple: true });
  index.close();
  if (fault !== 'ok') throw new Error(`the index is damaged: ${String(fault)}`);
  return difference(
    rows.map(({ digest }) => digest),
    files,
  );
}

function difference(
  one: readonly string[],
  other: readonly string[],
): [onlyOne: readonly string[], onlyOther: readonly string[]] {
  const [ones, others] = [new Set(one), new Set(other)];
  return [one.filter(each => !others.has(each)), other.filter(each => !ones.has(each))];
}
