// A containerd of the test's own: root, state, socket and hosts folder in one temporary folder, with the CRI plugin
// that a kubelet talks to. Images are unpacked with the `native` snapshotter, which needs nothing of the kernel.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriImageService } from './cri.ts';
import { Daemon, type RunResult, run, tryRun } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export const CONTAINERD_PROGRAMS: readonly string[] = ['containerd', 'ctr', 'runc'];

export interface ContainerdPull {
  /** Of an index; the machine's own if left out. */
  readonly platform?: string;
  /** `user:password` for the registry that the reference names. */
  readonly user?: string;
}

/** A snapshotter that runs as a process of its own. */
export interface ProxySnapshotter {
  readonly name: string;
  readonly socket: string;
}

export class Containerd {
  readonly folder: string;
  /** What `config_path` names: a folder with a `hosts.toml` for each registry, read anew on each pull. */
  readonly hostsFolder: string;
  /** What a kubelet would use. */
  readonly cri: CriImageService;
  readonly #daemon: Daemon;

  private constructor(folder: string, daemon: Daemon) {
    this.folder = folder;
    this.hostsFolder = hostsIn(folder);
    this.#daemon = daemon;
    this.cri = new CriImageService(socketIn(folder));
  }

  static async start(snapshotter?: ProxySnapshotter): Promise<Containerd> {
    const folder = await makeTempFolder('ctd');
    await mkdir(hostsIn(folder));
    const configFile = join(folder, 'config.toml');
    await writeFile(configFile, configOf(folder) + (snapshotter === undefined ? '' : pluginOf(snapshotter)));
    const daemon = await Daemon.start({
      program: 'containerd',
      args: ['--config', configFile],
      isReady: async () => (await tryRun('ctr', ['--address', socketIn(folder), 'version'])).code === 0,
    });
    return new Containerd(folder, daemon);
  }

  /** Writes `hosts.toml` for a registry, by the host name that references carry. */
  async writeHosts(registry: string, toml: string): Promise<void> {
    const folder = join(this.hostsFolder, registry);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, 'hosts.toml'), toml);
  }

  /** `ctr images pull`, whatever comes of it. */
  async tryPull(reference: string, options: ContainerdPull = {}): Promise<RunResult> {
    const platform = options.platform === undefined ? [] : ['--platform', options.platform];
    const user = options.user === undefined ? [] : ['--user', options.user];
    const flags = ['--hosts-dir', this.hostsFolder, '--snapshotter', 'native', ...platform, ...user];
    return tryRun('ctr', ['--address', socketIn(this.folder), 'images', 'pull', ...flags, reference]);
  }

  /** Pulls and unpacks; throws with what containerd says if it does not work. */
  async pull(reference: string, options: ContainerdPull = {}): Promise<void> {
    const result = await this.tryPull(reference, options);
    if (result.code !== 0) throw new Error(`${reference}: ${result.stdout}${result.stderr}`);
  }

  /** Where its API is served. */
  get socket(): string {
    return socketIn(this.folder);
  }

  /** Any other command of ctr. */
  async run(...args: string[]): Promise<string> {
    return run('ctr', ['--address', socketIn(this.folder), ...args]);
  }

  /** The digest that a reference was pulled as; undefined if it is not there. */
  async imageDigest(reference: string): Promise<string | undefined> {
    const list = await this.run('images', 'list', `name==${reference}`);
    return /sha256:[0-9a-f]{64}/.exec(list)?.[0];
  }

  /** What the node holds: digests of manifests, configurations and layers. */
  async contentDigests(): Promise<readonly string[]> {
    return (await this.run('content', 'list', '--quiet')).trim().split('\n').filter(Boolean);
  }

  /** Forgets an image with all its content, so that the next pull fetches everything again. */
  async removeImage(reference: string): Promise<void> {
    await this.run('images', 'remove', '--sync', reference);
  }

  logs(): string {
    return this.#daemon.logs();
  }

  /** Stops it and removes its folder. */
  async remove(): Promise<void> {
    await this.#daemon.stop();
    await removeFolder(this.folder);
  }
}

function socketIn(folder: string): string {
  return join(folder, 'containerd.sock');
}

function hostsIn(folder: string): string {
  return join(folder, 'hosts');
}

function pluginOf({ name, socket }: ProxySnapshotter): string {
  return `[proxy_plugins.${name}]\ntype = "snapshot"\naddress = "${socket}"\n`;
}

function configOf(folder: string): string {
  return `
version = 2
root = "${folder}/root"
state = "${folder}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing"]
[grpc]
address = "${socketIn(folder)}"
[plugins."io.containerd.internal.v1.opt"]
path = "${folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "${folder}/cni/bin"
conf_dir = "${folder}/cni/conf"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "${hostsIn(folder)}"
`;
}
