// The programs of the containers project (skopeo, podman, buildah) read the same files: a registries.conf that may
// name mirrors, a policy, and a file with log-ins. Here each test has its own.
import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type RunResult, tryRun } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';

export type StorageDriver = 'vfs' | 'overlay';

/** A folder with what these programs read, and the environment that points them to it. */
export class ContainersConfig {
  readonly folder: string;
  readonly env: Readonly<Record<string, string>>;

  private constructor(folder: string) {
    this.folder = folder;
    this.env = {
      CONTAINERS_REGISTRIES_CONF: join(folder, 'registries.conf'),
      CONTAINERS_STORAGE_CONF: join(folder, 'storage.conf'),
      REGISTRY_AUTH_FILE: join(folder, 'auth.json'),
      TMPDIR: folder,
      HOME: folder,
    };
  }

  /**
   * `registriesConf` is the whole file (version 2); with none, no registry is special. `driver` is that of the storage;
   * `overlay` pulls only the parts of a zstd:chunked layer that it lacks.
   */
  static async make(registriesConf = '', driver: StorageDriver = 'vfs'): Promise<ContainersConfig> {
    const folder = await makeTempFolder('cts');
    const config = new ContainersConfig(folder);
    await config.writeRegistriesConf(registriesConf);
    const storage = [
      '[storage]',
      `driver = "${driver}"`,
      `graphroot = "${folder}/graph"`,
      `runroot = "${folder}/run"`,
      '[storage.options.pull_options]',
      'enable_partial_images = "true"',
    ];
    await writeFile(join(folder, 'storage.conf'), `${storage.join('\n')}\n`);
    // buildah wants the file that the variable names to be there.
    await writeFile(join(folder, 'auth.json'), '{}');
    return config;
  }

  async writeRegistriesConf(registriesConf: string): Promise<void> {
    await writeFile(join(this.folder, 'registries.conf'), registriesConf);
  }

  /** Runs one of the programs, whatever comes of it. */
  async tryRun(program: 'skopeo' | 'podman' | 'buildah', ...args: string[]): Promise<RunResult> {
    return tryRun(program, args, { env: this.env });
  }

  async remove(): Promise<void> {
    await removeFolder(this.folder);
  }
}

/** skopeo without any configuration of the machine. */
export class Skopeo {
  readonly config: ContainersConfig;

  private constructor(config: ContainersConfig) {
    this.config = config;
  }

  static async make(registriesConf = ''): Promise<Skopeo> {
    return new Skopeo(await ContainersConfig.make(registriesConf));
  }

  /** Runs it; standard output, or an error with what it printed. */
  async run(...args: string[]): Promise<string> {
    // It alone of these programs does not read the variable.
    const registriesConf = this.config.env['CONTAINERS_REGISTRIES_CONF'] ?? '';
    const result = await this.config.tryRun('skopeo', '--registries-conf', registriesConf, ...args);
    if (result.code !== 0) throw new Error(`skopeo ${args.join(' ')}: ${result.stderr}`);
    return result.stdout;
  }

  /** Copies an image into a new folder and answers that folder: every byte is checked on the way. */
  async copyOut(reference: string, ...flags: string[]): Promise<string> {
    const folder = join(this.config.folder, `copy-${(this.#copies += 1)}`);
    await this.run(
      'copy',
      '--quiet',
      '--src-tls-verify=false',
      ...flags,
      `docker://${reference}`,
      `dir:${folder}`,
    );
    return folder;
  }

  #copies = 0;

  async remove(): Promise<void> {
    await this.config.remove();
  }
}

/** The blobs of busybox: of three platforms a configuration and a layer each, and the layer that they share. */
export const BUSYBOX_BLOBS = 7;

/** How many blobs of a `dir:` copy are what their names say: it names each after its hash. */
export async function countIntact(folder: string): Promise<number> {
  let count = 0;
  for (const name of await readdir(folder)) {
    const hash = createHash('sha256').update(await readFile(join(folder, name)));
    if (hash.digest('hex') === name) count += 1;
  }
  return count;
}
