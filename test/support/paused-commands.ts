// Commands on a store that servers have open, each stopped in one of its steps for a while. What they are to find is made
// ready for them, and what they must not harm goes on meanwhile.
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { layoutFiles, tarOf } from '../../src/archive/archive.fixture.ts';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { get, type Got } from './client.ts';
import { type Content, type Image, imageOf, randomBlob } from './content.ts';
import { STARTER } from './entrepot.ts';
import type { FailoverClient } from './failover-client.ts';
import type { FakeUpstream } from './fake-upstream.ts';
import { COMMAND_STEPS, type CommandName, type StepCounter, type Steps } from './pause-steps.ts';
import { Daemon, until } from './programs.ts';
import { SyscallShim } from './syscall-shim.ts';

export const UPSTREAM = 'up.example';
/** Blobs without a manifest stay so long; no push takes as long. What is to go is made older. */
const GRACE_PERIOD = '10m';
/** Of calls of one kind: which of them it is stopped at, at most. */
const LATEST_CALL = 3;
/** It has been stopped, and then waits for others who were stopped too. */
const END_MS = 180_000;

/**
 * Another process was stopped with the lock of the index, or has taken over; or it stood still for longer than upstream is
 * waited for.
 */
const EXCUSES = new RegExp(
  [
    'another process has it locked',
    'suspended for so long that another',
    'considered it dead: try again',
    'removed during the import',
    'not answered in time',
    'no answer in time',
    'cannot connect to',
    'took longer than [0-9]+ ms',
  ].join('|'),
);
/** Which has found what was damaged, and says so with its exit code. */
const SCRUBBED = /^checked \d+ blobs/m;

export interface PausedCommandsParts {
  readonly folder: string;
  readonly configFile: string;
  readonly client: FailoverClient;
  readonly upstream: FakeUpstream;
  readonly counter: StepCounter;
  readonly pauseMs: () => number;
  /** What is acknowledged, and may be deleted. */
  readonly takeOldest: () => Image | undefined;
  /** Pushes the image until it is acknowledged, and keeps it. */
  readonly push: (image: Image) => Promise<void>;
}

export class PausedCommands {
  /** What an import has acknowledged, by the repository's name upstream. */
  readonly imported = new Map<string, Image>();
  readonly #parts: PausedCommandsParts;
  readonly #id: string;
  #made = 0;

  constructor(id: string, parts: PausedCommandsParts) {
    this.#id = id;
    this.#parts = parts;
  }

  /** The next of those that remove what is held: two at once would wait for each other. */
  async upkeep(): Promise<void> {
    await this.#next(['gc', 'eviction', 'scrub', 'discard']);
  }

  async others(): Promise<void> {
    await this.#next(['import', 'pull', 'rm']);
  }

  #next(names: readonly CommandName[]): Promise<void> {
    const acts: Readonly<Record<CommandName, () => Promise<void>>> = {
      gc: () => this.#gc(),
      eviction: () => this.#evict(),
      scrub: () => this.#scrub(),
      discard: () => this.#discard(),
      import: () => this.#import(),
      pull: () => this.#pull(),
      rm: () => this.#rm(),
    };
    return acts[this.#parts.counter.nextOf(names)]();
  }

  /** Images that were deleted long ago are collected; one of them is pushed again while that stands still. */
  async #gc(): Promise<void> {
    const { client, takeOldest, push } = this.#parts;
    const deleted: Image[] = [];
    for (let image = takeOldest(); image !== undefined; image = takeOldest()) deleted.push(image);
    for (const image of deleted) await deleteImage(client, image);
    const digests = deleted.flatMap(({ manifest, config, layers }) => [manifest, config, ...layers]);
    await this.#age(
      [
        'UPDATE blobs SET used_at_ms = 1 WHERE digest = ?',
        'UPDATE manifests SET used_at_ms = 1 WHERE digest = ?',
      ],
      digests.map(({ digest }) => digest),
    );
    await this.#run('gc', ['gc', '--grace-period', GRACE_PERIOD], async () => {
      if (deleted[0] !== undefined) await push(deleted[0]);
    });
  }

  /** Uploads that were begun long ago, and not ended. */
  async #discard(): Promise<void> {
    const { client } = this.#parts;
    const uploads = Array.from({ length: 3 }, async () => {
      const begun = await client.insist(url =>
        get(`${url}/v2/tools/idle/blobs/uploads/`, { method: 'POST' }),
      );
      const path = begun.headers.location ?? '';
      await client.insist(url => get(`${url}${path}`, { method: 'PATCH', body: 'idle' }));
      return path.slice(path.lastIndexOf('/') + 1);
    });
    await this.#age(['UPDATE uploads SET touched_at_ms = 1 WHERE id = ?'], await Promise.all(uploads));
    // It rests when no request has come for a second.
    await sleep(1_500);
    await this.#run('discard', ['gc', '--grace-period', GRACE_PERIOD]);
  }

  /** Mirrored blobs go, and one of them is asked for again meanwhile. */
  async #evict(): Promise<void> {
    const blobs = await Promise.all([0, 1, 2].map(() => this.#mirrored()));
    await this.#run(
      'eviction',
      ['gc', '--grace-period', '24h'],
      async () => {
        if (blobs[0] !== undefined) await this.#pullWhole(blobs[0]);
      },
      { ENTREPOT_STORAGE__MAX_BYTES: '1KiB' },
    );
  }

  /** Mirrored blobs that nobody reads are damaged, and are whole again when they are asked for behind it. */
  async #scrub(): Promise<void> {
    const blobs = await Promise.all([0, 1, 2].map(() => this.#mirrored()));
    await Promise.all(blobs.map(blob => this.#damage(blob)));
    let said = '';
    while (!SCRUBBED.test(said)) said = await this.#run('scrub', ['scrub', '--rate', '1GiB']);
    for (const blob of blobs) await this.#pullWhole(blob);
  }

  async #import(): Promise<void> {
    const name = this.#newName('imported');
    const image = imageOf([0, 1, 2].map(at => randomBlob(50_000 + at, `${name} ${at}`)));
    const file = join(this.#parts.folder, `${name}.tar`);
    await writeFile(file, await tarOf(layoutFiles(image, `${UPSTREAM}/${name}:1`)));
    let said = await this.#run('import', ['import', file]);
    while (EXCUSES.test(said)) said = await this.#run('import', ['import', file]);
    this.imported.set(name, image);
  }

  /** The same blob is asked for at a server meanwhile, which takes the download over. */
  async #pull(): Promise<void> {
    const name = this.#newName('pulled');
    const layer = randomBlob(300_000, name);
    this.#parts.upstream.add(name, imageOf([layer]), '1');
    const pull = () =>
      this.#run('pull', ['pull', `${UPSTREAM}/${name}:1`], async () => {
        await sleep(1_000);
        await this.#pullWhole(layer, name);
      });
    let said = await pull();
    while (EXCUSES.test(said)) said = await pull();
  }

  async #rm(): Promise<void> {
    const name = this.#newName('removed');
    const blob = await this.#mirrored(name);
    await this.#run('rm', ['rm', `${UPSTREAM}/${name}`], () => this.#pullWhole(blob, name));
  }

  /** What it said; it has failed for an excuse only. `meanwhile` runs while it stands still, or behind it when it was not stopped. */
  async #run(
    name: CommandName,
    args: readonly string[],
    meanwhile: () => Promise<unknown> = async () => {},
    env: Readonly<Record<string, string>> = {},
  ): Promise<string> {
    const { folder, configFile, counter, pauseMs } = this.#parts;
    const steps: Steps = COMMAND_STEPS[name];
    const [kind, step] = counter.next(steps);
    const shim = await SyscallShim.open(join(folder, this.#newName('shim')));
    await shim.set({ ...step, id: 'stop', nth: 1 + Math.floor(Math.random() * LATEST_CALL), action: 'stop' });
    const command = await Daemon.start({
      program: process.execPath,
      args: [...STARTER, ...args, '--config', configFile],
      env: { ...env, ...shim.env },
      isReady: async () => true,
    });
    try {
      const hasStopped = async () => (await shim.met()).length > 0 || !command.isRunning;
      await until(`${name} to stop or end`, END_MS, hasStopped);
      const going = meanwhile();
      const [met] = await shim.met();
      if (met !== undefined) {
        counter.meet(kind, met);
        await Promise.race([sleep(pauseMs()), going.then(() => new Promise(() => {}))]);
        process.kill(command.pid, 'SIGCONT');
      }
      await until(`${name} to end`, END_MS, async () => !command.isRunning);
      await command.closed;
      await going;
      const text = command.logs();
      const isExcused = SCRUBBED.test(text) || EXCUSES.test(text);
      if (command.exitCode !== 0 && !isExcused) throw new Error(`${name} failed: ${text}`);
      return text;
    } finally {
      await command.kill();
    }
  }

  /** Brings a new mirrored blob, until it is held. */
  async #mirrored(name = 'app'): Promise<Content> {
    const blob = randomBlob(40_000, this.#newName('mirrored'));
    this.#parts.upstream.add(name, blob);
    let isHeld = false;
    while (!isHeld) {
      const { headers } = await this.#pullWhole(blob, name);
      isHeld = headers['cache-status'] === 'entrepot; hit';
    }
    return blob;
  }

  /** Until it comes as a whole, which must be the right one. */
  async #pullWhole({ digest }: Content, name = 'app'): Promise<Got> {
    const ask = (url: string) => get(`${url}/v2/${name}/blobs/${digest}?ns=${UPSTREAM}`);
    let got: Got | undefined;
    while (got === undefined || got.status !== 200 || !got.complete) {
      got = await this.#parts.client.ask(ask);
      if (got?.status !== 200) await sleep(200);
    }
    if (`sha256:${got.sha256}` !== digest) throw new Error(`wrong and complete: ${got.sha256} for ${digest}`);
    return got;
  }

  /** Its bytes on disk. */
  async #damage({ digest, size }: Content): Promise<void> {
    const path = join(this.#parts.folder, 'store/blobs/sha256', digest.slice(7, 9), digest.slice(7));
    await chmod(path, 0o644);
    await writeFile(path, Buffer.alloc(size, '?'), { flag: 'r+' });
  }

  /** Runs the statements with each of the keys: so these were used last long ago. */
  async #age(statements: readonly string[], keys: readonly string[]): Promise<void> {
    const index = new Database(join(this.#parts.folder, 'store', 'index.db'), { timeout: 0 });
    const updates = statements.map(statement => index.prepare<[string]>(statement));
    try {
      // Another process may stand still with the lock, and nothing here may wait for it within SQLite.
      await until('the lock of the index', END_MS, async () => {
        try {
          index.exec('BEGIN IMMEDIATE');
        } catch {
          return false;
        }
        for (const key of keys) for (const update of updates) update.run(key);
        index.exec('COMMIT');
        return true;
      });
    } finally {
      index.close();
    }
  }

  #newName(what: string): string {
    this.#made += 1;
    return `${what}-${this.#id}-${this.#made}`;
  }
}

async function deleteImage(client: FailoverClient, { manifest, config, layers }: Image): Promise<void> {
  const paths = [
    `manifests/${manifest.digest}`,
    ...[config, ...layers].map(({ digest }) => `blobs/${digest}`),
  ];
  for (const path of paths) {
    // One that is asked elsewhere too would still delete what is pushed again, when its process wakes.
    await client.settle(url => get(`${url}/v2/tools/app/${path}`, { method: 'DELETE' }));
  }
}
