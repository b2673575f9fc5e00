// A node that pulls lazily: Debian's containerd and ctr-remote, and the snapshotter that `stargz/main.go` makes of Debian's
// stargz library. It mounts layers without their content (FUSE), and fetches the pieces that are read.
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CONTAINERD_PROGRAMS, Containerd } from './containerd.ts';
import { Daemon, hasPrograms, run } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

/** The path of what `stargz/build.sh` builds. */
const SNAPSHOTTER = process.env['STARGZ_SNAPSHOTTER'];

const BUILD = fileURLToPath(new URL('stargz/build.sh', import.meta.url));

/** Tests of such nodes are skipped where one cannot be. */
export const canPullLazily =
  SNAPSHOTTER !== undefined &&
  existsSync(SNAPSHOTTER) &&
  existsSync('/dev/fuse') &&
  hasPrograms(...CONTAINERD_PROGRAMS, 'ctr-remote');

/** Builds the snapshotter unless it is there, or none is named. It takes a minute of a core. */
export async function buildSnapshotter(): Promise<void> {
  if (SNAPSHOTTER !== undefined && !existsSync(SNAPSHOTTER)) await run(BUILD, [SNAPSHOTTER]);
}

/** It fetches only what is read, nothing in advance, and serves no metrics. */
const CONFIG = 'noprefetch = true\nno_background_fetch = true\nno_prometheus = true\n';

export interface LazyNodeOptions {
  /** Changes the snapshotter's configuration: `config.toml` in the folder that is passed. */
  readonly configure?: (folder: string) => Promise<void>;
  /** Of the snapshotter. */
  readonly env?: Readonly<Record<string, string>>;
}

export class LazyNode {
  readonly #folder: string;
  readonly #snapshotter: Daemon;
  readonly #containerd: Containerd;
  readonly #mounts: string[] = [];

  private constructor(folder: string, snapshotter: Daemon, containerd: Containerd) {
    this.#folder = folder;
    this.#snapshotter = snapshotter;
    this.#containerd = containerd;
  }

  static async start({ configure, env = {} }: LazyNodeOptions = {}): Promise<LazyNode> {
    if (SNAPSHOTTER === undefined) throw new Error('STARGZ_SNAPSHOTTER names no program');
    const folder = await makeTempFolder('sgz');
    const socket = join(folder, 'snapshotter.sock');
    const configFile = join(folder, 'config.toml');
    await writeFile(configFile, CONFIG);
    await configure?.(folder);
    const snapshotter = await Daemon.start({
      program: SNAPSHOTTER,
      args: [join(folder, 'root'), socket, configFile],
      env,
      // Only it can unmount what it serves.
      deathSignal: 'TERM',
      isReady: async () => existsSync(socket),
    });
    return new LazyNode(folder, snapshotter, await Containerd.start({ name: 'stargz', socket }));
  }

  /** The folder of its containerd with a `hosts.toml` for each registry. */
  get hostsFolder(): string {
    return this.#containerd.hostsFolder;
  }

  /**
   * Pulls without the content of layers, and mounts the image's root file system; the path of that. `user`: `name:password`
   * with which containerd pulls.
   */
  async mount(reference: string, user?: string): Promise<string> {
    const flags = ['--hosts-dir', this.hostsFolder, ...(user === undefined ? [] : ['--user', user])];
    await run('ctr-remote', ['--address', this.#containerd.socket, 'images', 'rpull', ...flags, reference]);
    const target = join(this.#folder, `mount-${this.#mounts.length}`);
    await mkdir(target);
    await this.#containerd.run('images', 'mount', '--snapshotter', 'stargz', reference, target);
    this.#mounts.push(target);
    return target;
  }

  /** Unmounts everything, stops both and removes their folders. */
  async remove(): Promise<void> {
    for (const target of this.#mounts) await run('umount', [target]);
    await this.#containerd.remove();
    await this.#snapshotter.stop();
    await removeFolder(this.#folder);
  }
}
