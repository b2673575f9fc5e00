// A Docker daemon of the test's own, beside any that the machine may run: its data, state, socket, pid file and
// containerd namespaces are all in one temporary folder, and it leaves the machine's firewall alone.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { Daemon, type RunResult, run, tryRun } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export const DOCKER_PROGRAMS: readonly string[] = ['dockerd', 'docker', 'containerd', 'runc'];

/** Building our image compiles SQLite where there is no prebuilt binding. */
const BUILD_TIMEOUT_MS = 900_000;

export interface DockerdOptions {
  /** More of its daemon.json. */
  readonly settings?: object;
}

export class Dockerd {
  readonly folder: string;
  readonly #daemon: Daemon;

  private constructor(folder: string, daemon: Daemon) {
    this.folder = folder;
    this.#daemon = daemon;
  }

  static async start(options: DockerdOptions = {}): Promise<Dockerd> {
    const folder = await makeTempFolder('dkr');
    await mkdir(join(folder, 'client'));
    const configFile = join(folder, 'daemon.json');
    await writeFile(configFile, JSON.stringify(configOf(folder, options)));
    const daemon = await Daemon.start({
      program: 'dockerd',
      args: ['--config-file', configFile],
      isReady: () => pings(folder),
      readyTimeoutMs: 60_000,
      deathSignal: 'TERM',
    });
    return new Dockerd(folder, daemon);
  }

  /** The docker client, whatever comes of it. */
  async tryRun(...args: string[]): Promise<RunResult> {
    return tryRun('docker', args, { env: clientEnv(this.folder), timeoutMs: BUILD_TIMEOUT_MS });
  }

  /** The docker client; standard output, or an error with what it printed. */
  async run(...args: string[]): Promise<string> {
    const result = await this.tryRun(...args);
    if (result.code !== 0) throw new Error(`docker ${args.join(' ')}: ${result.stdout}${result.stderr}`);
    return result.stdout;
  }

  /**
   * Runs an image, and returns what its program printed. By the container's log: the client of one that ends at once may miss
   * it where the machine is busy.
   */
  async outputOf(image: string): Promise<string> {
    const id = (await this.run('run', '--detach', '--network', 'none', image)).trim();
    await this.run('wait', id);
    const said = await this.run('logs', id);
    await this.run('rm', id);
    return said.trim();
  }

  logs(): string {
    return this.#daemon.logs();
  }

  /** Stops it, its containers and its containerd, and removes its folder. */
  async remove(): Promise<void> {
    await this.#daemon.stop(30_000);
    await unmountBelow(this.folder);
    await removeFolder(this.folder);
  }
}

/** https://docs.docker.com/reference/api/engine/#tag/System/operation/SystemPing */
function pings(folder: string): Promise<boolean> {
  return new Promise(resolve => {
    const sent = request({ socketPath: socketIn(folder), path: '/_ping' }, response => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    sent.once('error', () => resolve(false));
    sent.end();
  });
}

/** Detaches what a daemon that was killed, or found its own mount busy, has left mounted. */
async function unmountBelow(folder: string): Promise<void> {
  const mounts = await readFile('/proc/self/mounts', 'utf8');
  const points = mounts.split('\n').map(line => line.split(' ')[1] ?? '');
  for (const point of points.toReversed()) {
    if (point.startsWith(`${folder}/`)) await run('umount', ['--lazy', point]);
  }
}

function socketIn(folder: string): string {
  return join(folder, 'docker.sock');
}

function clientEnv(folder: string): Record<string, string> {
  return { DOCKER_HOST: `unix://${socketIn(folder)}`, DOCKER_CONFIG: join(folder, 'client') };
}

/** https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file */
function configOf(folder: string, options: DockerdOptions): object {
  return {
    hosts: [`unix://${socketIn(folder)}`],
    'data-root': join(folder, 'data'),
    'exec-root': join(folder, 'exec'),
    pidfile: join(folder, 'docker.pid'),
    'containerd-namespace': 'entrepot-test',
    'containerd-plugins-namespace': 'entrepot-test-plugins',
    // A bridge of its own would be another daemon's, too. Networks that a test makes have one each.
    bridge: 'none',
    iptables: false,
    ip6tables: false,
    ...options.settings,
  };
}
