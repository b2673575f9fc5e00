// Random histories of several processes on one store, each of which is stopped again and again in the middle of a step,
// for longer than the living may, while clients go on elsewhere.
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { get, type Got } from './client.ts';
import { bytesOf, type Content, type Image, imageOf, randomBlob } from './content.ts';
import { Entrepot, STARTER } from './entrepot.ts';
import { Daemon, until } from './programs.ts';
import { type Fault, SyscallShim } from './syscall-shim.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

const REPOSITORY = 'tools/app';
const CHUNK_BYTES = 100_000;
/** No request of a client goes on longer: the process that has it stands still. */
const PATIENCE_MS = 4_000;
/** An acknowledged blob without a manifest stays so long, and what was deleted may go after it. */
const GRACE_MS = 20_000;

type Step = Pick<Fault, 'call' | 'path' | 'phase'>;

/** The steps of a server in which it is stopped. */
const SERVER_STEPS: Readonly<Record<string, Step>> = {
  'in mid-write': { call: 'write', path: '/ingest/upload-' },
  'behind a write': { call: 'write', path: '/ingest/upload-', phase: 'after' },
  'before a sync': { call: 'sync', path: '/ingest/upload-' },
  'before a rename': { call: 'rename', path: '/blobs/sha256/' },
  'behind a rename, before the row': { call: 'rename', path: '/blobs/sha256/', phase: 'after' },
  'before a transaction': { call: 'lock', path: 'index.db-shm' },
  'within a transaction': { call: 'write', path: 'index.db-wal' },
};
/** And those of a command that collects. */
const GC_STEPS: Readonly<Record<string, Step>> = {
  'gc before a transaction': { call: 'lock', path: 'index.db-shm' },
  'gc between row and file': { call: 'rename', path: '/ingest/gone-' },
  'gc before an unlink': { call: 'unlink', path: '/ingest/gone-' },
};

export interface PauseHistoryOptions {
  readonly processes: number;
  readonly pushers: number;
  readonly minPauseMs: number;
  readonly maxPauseMs: number;
}

interface Node {
  readonly server: Entrepot;
  readonly shim: SyscallShim;
  isPaused: boolean;
}

export class PauseHistory {
  /** How often each kind of step was met by a stop. */
  readonly met = new Map<string, number>();
  acknowledged = 0;
  /** Uploads that one process began and another finished. */
  takeovers = 0;
  readonly #folder: string;
  readonly #options: PauseHistoryOptions;
  readonly #nodes: readonly Node[];
  readonly #held: Image[] = [];
  #isEnding = false;
  #made = 0;

  private constructor(folder: string, options: PauseHistoryOptions, nodes: readonly Node[]) {
    this.#folder = folder;
    this.#options = options;
    this.#nodes = nodes;
  }

  static async open(options: PauseHistoryOptions): Promise<PauseHistory> {
    const folder = await makeTempFolder('pauses');
    const config = {
      hosted: { prefixes: ['tools'], anonymous: 'push', delete: true },
      storage: { path: join(folder, 'store') },
      upkeep: { gcInterval: false },
    };
    const start = async (_: unknown, at: number): Promise<Node> => {
      const shim = await SyscallShim.open(join(folder, `shim-${at}`));
      return { server: await Entrepot.start(config, { env: shim.env }), shim, isPaused: false };
    };
    const nodes = await Promise.all(Array.from({ length: options.processes }, start));
    return new PauseHistory(folder, options, nodes);
  }

  /** Goes on until `isEnough` says so. */
  async run(isEnough: () => boolean): Promise<void> {
    const others = [
      ...Array.from({ length: this.#options.pushers }, () => this.#repeat(() => this.#push())),
      // One process stays awake, so that there is somebody who takes over.
      ...this.#nodes.slice(1).map(node => this.#repeat(() => this.#pauseServer(node))),
      this.#repeat(() => this.#pauseGc()),
      this.#repeat(() => this.#readOne()),
    ];
    const failed = Promise.all(others);
    const ended = (async () => {
      while (!isEnough() && !this.#isEnding) await sleep(200);
    })();
    await Promise.race([failed, ended]).finally(() => {
      this.#isEnding = true;
    });
    await failed;
  }

  /** Everything that was acknowledged is whole, everywhere; files equal rows. */
  async expectSound(): Promise<void> {
    for (const { server } of this.#nodes) for (const image of this.#held) await expectWhole(server, image);
    const collected = await this.#awake().server.command('gc', '--grace-period', '0s');
    if (collected.code !== 0) throw new Error(`the last collection failed: ${collected.stderr}`);
    const store = join(this.#folder, 'store');
    const names = await readdir(join(store, 'blobs'), { recursive: true, withFileTypes: true });
    const files = names.filter(entry => entry.isFile()).map(({ name }) => `sha256:${name}`);
    const index = new Database(join(store, 'index.db'), { readonly: true });
    const rows = index.prepare<[], { digest: string }>('SELECT digest FROM blobs').all();
    index.close();
    const [lost, stray] = difference(
      rows.map(({ digest }) => digest),
      files,
    );
    if (lost.length + stray.length > 0)
      throw new Error(`without a file: ${lost.join()}; without a row: ${stray.join()}`);
    for (const { server } of this.#nodes) for (const image of this.#held) await expectWhole(server, image);
  }

  async close(): Promise<void> {
    for (const node of this.#nodes) if (node.isPaused) process.kill(node.server.pid, 'SIGCONT');
    await Promise.all(this.#nodes.map(({ server }) => server.remove()));
    await removeFolder(this.#folder);
  }

  async #repeat(act: () => Promise<void>): Promise<void> {
    try {
      while (!this.#isEnding) await act();
    } finally {
      this.#isEnding = true;
    }
  }

  #awake(): Node {
    return pick(this.#nodes.filter(({ isPaused }) => !isPaused));
  }

  /** An image, blob by blob in chunks, each at whatever process answers; again if it took longer than the grace period. */
  async #push(): Promise<void> {
    this.#made += 1;
    const image = imageOf([randomBlob(CHUNK_BYTES * 3 + this.#made, `pause ${this.#made}`)]);
    for (;;) {
      const beganMs = performance.now();
      for (const blob of [image.config, ...image.layers]) await this.#pushBlob(blob);
      const got = await this.#insist(url =>
        get(`${url}/v2/${REPOSITORY}/manifests/${image.manifest.digest}`, {
          method: 'PUT',
          headers: { 'content-type': image.manifest.mediaType },
          body: bytesOf(image.manifest),
        }),
      );
      if (got.status === 201) break;
      if (performance.now() - beganMs < GRACE_MS) {
        throw new Error(`a manifest whose blobs were acknowledged: ${got.status} ${got.text}`);
      }
    }
    this.#held.push(image);
  }

  async #pushBlob(blob: Content): Promise<void> {
    while (!(await this.#tryPushBlob(blob))) {
      // It was never acknowledged.
    }
    this.acknowledged += 1;
  }

  /** False when the upload is no more, and another has to be begun. */
  async #tryPushBlob(blob: Content): Promise<boolean> {
    const begun = await this.#insist(url =>
      get(`${url}/v2/${REPOSITORY}/blobs/uploads/`, { method: 'POST' }),
    );
    const path = begun.headers.location;
    if (begun.status !== 202 || path === undefined)
      throw new Error(`no upload: ${begun.status} ${begun.text}`);
    const users = new Set<string>();
    for (;;) {
      const state = await this.#insist(url => get(`${url}${path}`));
      if (state.status === 404) return this.#isHeld(blob);
      const offset =
        Number(state.headers['range']?.replace('0-', '') ?? -1) + (state.headers['range'] === '0-0' ? 0 : 1);
      const end = Math.min(blob.size, offset + CHUNK_BYTES);
      const isLast = end === blob.size;
      const server = this.#awake().server.url;
      const got = await patiently(
        get(isLast ? `${server}${path}?digest=${blob.digest}` : `${server}${path}`, {
          method: isLast ? 'PUT' : 'PATCH',
          headers: offset < end ? { 'content-range': `${offset}-${end - 1}` } : {},
          body: bytesOf(blob).subarray(offset, end),
        }),
      );
      if (got === undefined) continue;
      if (got.status === 201 || got.status === 202) users.add(server);
      if (got.status === 201) {
        if (users.size > 1) this.takeovers += 1;
        return true;
      }
      if (got.status === 404) return this.#isHeld(blob);
      if (got.status !== 202) await sleep(200);
    }
  }

  /** An upload that is gone may have been finished by an answer that never came. */
  async #isHeld(blob: Content): Promise<boolean> {
    const got = await this.#insist(url =>
      get(`${url}/v2/${REPOSITORY}/blobs/${blob.digest}`, { method: 'HEAD' }),
    );
    return got.status === 200;
  }

  /** The answer of some process that is not 429 or 5xx. */
  async #insist(ask: (url: string) => Promise<Got>): Promise<Got> {
    for (;;) {
      const got = await patiently(ask(this.#awake().server.url));
      if (got !== undefined && got.status !== 0 && got.status !== 429 && got.status < 500) return got;
      await sleep(100);
    }
  }

  async #readOne(): Promise<void> {
    await sleep(100);
    if (this.#held.length === 0) return;
    const [layer] = pick(this.#held).layers;
    if (layer === undefined) return;
    const got = await patiently(get(`${this.#awake().server.url}/v2/${REPOSITORY}/blobs/${layer.digest}`));
    if (got === undefined || got.status >= 500 || got.status === 0 || !got.complete) return;
    if (got.status !== 200 || `sha256:${got.sha256}` !== layer.digest) {
      throw new Error(`an acknowledged blob: ${got.status}, sha256:${got.sha256} for ${layer.digest}`);
    }
  }

  async #pauseServer(node: Node): Promise<void> {
    const [kind, step] = pick(Object.entries(SERVER_STEPS));
    const isMet = await this.#stopAt(node.shim, kind, step, () => this.#isEnding);
    if (!isMet) return;
    node.isPaused = true;
    // Nobody gets anywhere while it holds the write lock.
    await sleep(kind === 'within a transaction' ? 2_000 : this.#pauseMs());
    process.kill(node.server.pid, 'SIGCONT');
    node.isPaused = false;
    await sleep(1_500);
  }

  /** A collection of what somebody has deleted, stopped in the middle. */
  async #pauseGc(): Promise<void> {
    await sleep(1_000);
    this.#made += 1;
    const strays = [0, 1, 2].map(at => randomBlob(1_000, `stray ${this.#made} ${at}`));
    for (const stray of strays) {
      await this.#insist(url =>
        get(`${url}/v2/${REPOSITORY}/blobs/uploads/?digest=${stray.digest}`, {
          method: 'POST',
          body: bytesOf(stray),
        }),
      );
      await this.#insist(url => get(`${url}/v2/${REPOSITORY}/blobs/${stray.digest}`, { method: 'DELETE' }));
    }
    const shim = await SyscallShim.open(join(this.#folder, `shim-gc-${this.#made}`));
    const [kind, step] = pick(Object.entries(GC_STEPS));
    const config = this.#nodes[0]?.server.configFile ?? '';
    const args = [...STARTER, 'gc', '--grace-period', `${GRACE_MS / 1000}s`, '--config', config];
    await sleep(GRACE_MS + 500);
    if (this.#isEnding) return;
    await shim.set({ ...step, id: 'gc', nth: 1 + Math.floor(Math.random() * 3), action: 'stop' });
    const gc = await Daemon.start({
      program: process.execPath,
      args,
      env: shim.env,
      isReady: async () => true,
    });
    const isMet = async () => (await shim.met()).length > 0 || !gc.isRunning;
    await until('a collection to stop or end', 120_000, isMet);
    if (gc.isRunning) {
      this.#meet(kind);
      await sleep(this.#pauseMs());
      process.kill(gc.pid, 'SIGCONT');
    }
    await until('a collection to end', 120_000, async () => !gc.isRunning);
  }

  async #stopAt(shim: SyscallShim, kind: string, step: Step, isOver: () => boolean): Promise<boolean> {
    const before = (await shim.met()).length;
    await shim.set({ ...step, id: 'stop', nth: 1 + Math.floor(Math.random() * 4), action: 'stop' });
    for (let waitedMs = 0; waitedMs < 5_000 && !isOver(); waitedMs += 50) {
      await sleep(50);
      if ((await shim.met()).length > before) {
        this.#meet(kind);
        await shim.set();
        return true;
      }
    }
    await shim.set();
    await sleep(100);
    // It may have been met in the very last moment.
    if ((await shim.met()).length === before) return false;
    this.#meet(kind);
    return true;
  }

  #meet(kind: string): void {
    this.met.set(kind, (this.met.get(kind) ?? 0) + 1);
  }

  #pauseMs(): number {
    const { minPauseMs, maxPauseMs } = this.#options;
    return minPauseMs + Math.random() * (maxPauseMs - minPauseMs);
  }
}

/** The names of all steps. */
export const PAUSED_STEPS: readonly string[] = [...Object.keys(SERVER_STEPS), ...Object.keys(GC_STEPS)];

/** `undefined` when it takes too long: its process stands still. */
async function patiently(asking: Promise<Got>): Promise<Got | undefined> {
  return Promise.race([asking, sleep(PATIENCE_MS).then(() => undefined)]);
}

async function expectWhole({ url }: Entrepot, { manifest, config, layers }: Image): Promise<void> {
  const got = await get(`${url}/v2/${REPOSITORY}/manifests/${manifest.digest}`);
  if (`sha256:${got.sha256}` !== manifest.digest)
    throw new Error(`a manifest is lost or wrong: ${got.status}`);
  for (const { digest } of [config, ...layers]) {
    const blob = await get(`${url}/v2/${REPOSITORY}/blobs/${digest}`);
    if (blob.status !== 200 || !blob.complete || `sha256:${blob.sha256}` !== digest) {
      throw new Error(`a blob is lost or wrong: ${blob.status} ${blob.sha256} for ${digest}`);
    }
  }
}

function difference(
  one: readonly string[],
  other: readonly string[],
): [onlyOne: readonly string[], onlyOther: readonly string[]] {
  const [ones, others] = [new Set(one), new Set(other)];
  return [one.filter(each => !others.has(each)), other.filter(each => !ones.has(each))];
}

function pick<T>(from: readonly T[]): T {
  const picked = from[Math.floor(Math.random() * from.length)];
  if (picked === undefined) throw new Error('nothing to pick from');
  return picked;
}
