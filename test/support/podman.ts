// podman, as root, with storage and settings of the test's own.
import { join } from 'node:path';
import type { RunResult } from './programs.ts';
import { ContainersConfig, type StorageDriver } from './skopeo.ts';

export const PODMAN_PROGRAMS: readonly string[] = ['podman', 'runc'];

export class Podman {
  readonly config: ContainersConfig;

  readonly #driver: StorageDriver;

  private constructor(config: ContainersConfig, driver: StorageDriver) {
    this.config = config;
    this.#driver = driver;
  }

  static async make(registriesConf = '', driver: StorageDriver = 'vfs'): Promise<Podman> {
    return new Podman(await ContainersConfig.make(registriesConf, driver), driver);
  }

  async tryRun(...args: string[]): Promise<RunResult> {
    const { folder } = this.config;
    const storage = ['--root', join(folder, 'root'), '--runroot', join(folder, 'runroot')];
    const engine = [
      '--storage-driver',
      this.#driver,
      '--events-backend',
      'none',
      '--cgroup-manager',
      'cgroupfs',
    ];
    return this.config.tryRun('podman', ...storage, ...engine, '--tmpdir', join(folder, 'tmp'), ...args);
  }

  /** Runs it; standard output, or an error with what it printed. */
  async run(...args: string[]): Promise<string> {
    const result = await this.tryRun(...args);
    if (result.code !== 0) throw new Error(`podman ${args.join(' ')}: ${result.stderr}`);
    return result.stdout;
  }

  /** The digest that an image was pulled as. */
  async imageDigest(reference: string): Promise<string> {
    return (await this.run('image', 'inspect', '--format', '{{.Digest}}', reference)).trim();
  }

  async remove(): Promise<void> {
    await this.tryRun('system', 'prune', '--all', '--force');
    await this.config.remove();
  }
}
