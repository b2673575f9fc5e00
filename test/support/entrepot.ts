// Entrepot under test: the built dist/. Servers are child processes, started as users start them; most commands run in
// the process of the test, which takes a tenth of the time.
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { askServer } from '../../src/cli/running-server.ts';
import { answers, Daemon, freePort, type RunResult, tryRun } from './programs.ts';
import { runCommand } from './run-command.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';
import { indexOf, storageOf } from './test-storage.ts';

export const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
/** As in the starter's first line. */
export const STARTER: readonly string[] = ['--max-semi-space-size=4', join(PROJECT, 'dist', 'entrepot.cjs')];

// The settings of whoever runs the tests are not those of the product under test.
for (const name of Object.keys(process.env)) if (name.startsWith('ENTREPOT_')) delete process.env[name];

/** The configuration file as an object; what is left out is what the product defaults to. */
export type EntrepotConfig = Readonly<Record<string, unknown>> & {
  readonly server?: Readonly<Record<string, unknown>>;
  readonly storage?: Readonly<Record<string, unknown>>;
};

export interface EntrepotOptions {
  /** Keeps its config and, unless the config says otherwise, its store; a new temporary one if left out. */
  readonly folder?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly readyTimeoutMs?: number;
  /** The server's program, its `dist/entrepot.cjs`, if it is that of another version. */
  readonly starter?: string;
  /** A command line that runs the one behind it, and becomes it: what the process sees of the machine. */
  readonly within?: readonly string[];
  /** The same for its commands, where they are not to see what the tests see. */
  readonly commandsWithin?: readonly string[];
}

/**
 * A running Entrepot. It listens on free ports unless `server.listen` and `server.opsListen` say otherwise, keeps
 * its store in its folder, and was ready when `start` returned.
 */
export class Entrepot {
  /** The URL for clients, without a trailing slash: the first listener. */
  readonly url: string;
  /** The URL without its scheme, as in image references. */
  readonly host: string;
  /** The URL of /livez, /readyz and /metrics. */
  readonly ops: string;
  /** Holds `config.yaml` and `store/`. */
  readonly folder: string;
  readonly configFile: string;
  readonly #daemon: Daemon;
  readonly #config: EntrepotConfig;
  readonly #options: EntrepotOptions;

  private constructor(daemon: Daemon, place: Place, config: EntrepotConfig, options: EntrepotOptions) {
    this.#daemon = daemon;
    this.#config = config;
    this.#options = options;
    this.host = place.host;
    this.url = `http://${place.host}`;
    this.ops = `http://${place.opsHost}`;
    this.folder = place.folder;
    this.configFile = place.configFile;
  }

  static async start(config: EntrepotConfig = {}, options: EntrepotOptions = {}): Promise<Entrepot> {
    if (!existsSync(join(PROJECT, 'dist', 'main.cjs'))) {
      throw new Error('the product is not built: npm run build');
    }
    const place = await writeConfig(config, options);
    try {
      return new Entrepot(await startDaemon(place, options), place, config, options);
    } catch (error) {
      // Nobody else knows it.
      if (options.folder === undefined) await removeFolder(place.folder);
      throw error;
    }
  }

  /** What it was started with. */
  get given(): EntrepotOptions & { readonly config: EntrepotConfig } {
    return { ...this.#options, config: this.#config };
  }

  get pid(): number {
    return this.#daemon.pid;
  }

  get isRunning(): boolean {
    return this.#daemon.isRunning;
  }

  get exitCode(): number | undefined {
    return this.#daemon.exitCode;
  }

  logs(): string {
    return this.#daemon.logs();
  }

  rss(): number {
    return this.#daemon.rssBytes();
  }

  peakRss(): number {
    return this.#daemon.peakRssBytes();
  }

  cpuSeconds(): number {
    return this.#daemon.cpuSeconds();
  }

  /** The text of /metrics. */
  async metrics(): Promise<string> {
    return (await fetch(`${this.ops}/metrics`)).text();
  }

  /** A graceful stop; the folder stays. */
  async stop(): Promise<void> {
    await this.#daemon.stop();
  }

  /** SIGKILL; the folder stays. */
  async kill(): Promise<void> {
    await this.#daemon.kill();
  }

  /** A new process on the same folder, configuration and ports. The old one must have been stopped or killed. */
  async startAgain(config: EntrepotConfig = this.#config): Promise<Entrepot> {
    const server = { listen: this.host, opsListen: this.ops.replace('http://', ''), ...config.server };
    return Entrepot.start({ ...config, server }, { ...this.#options, folder: this.folder });
  }

  /**
   * Runs one of its commands (`refresh`, `rm`, `images` …) against its configuration, in this process. Paths in `args`
   * are absolute: the current folder is that of the tests.
   */
  async command(...args: string[]): Promise<RunResult> {
    if (this.#options.commandsWithin !== undefined) throw new Error('its commands are to be spawned');
    return runCommand(...args, '--config', this.configFile);
  }

  /**
   * The same as a process of its own, for tests of what only that shows: its standard output as a pipe, its user, its
   * environment, or what one process does to another.
   */
  async spawnCommand(...args: string[]): Promise<RunResult> {
    const own = [process.execPath, ...STARTER, ...args, '--config', this.configFile];
    const [program = '', ...rest] = [...(this.#options.commandsWithin ?? []), ...own];
    return tryRun(program, rest, { cwd: this.folder });
  }

  /** The response for a path on its socket, as commands request it. */
  async ask<Answer>(path: string): Promise<Answer> {
    const answer = await askServer<Answer>(this.#storePath, path);
    if (answer === undefined) throw new Error('it does not answer on its socket');
    return answer;
  }

  get #storePath(): string {
    const { path } = this.#config.storage ?? {};
    return typeof path === 'string' ? path : join(this.folder, 'store');
  }

  /** Starts a command that runs until it is stopped, or takes a while; the caller stops it. */
  async begin(...args: string[]): Promise<Daemon> {
    return Daemon.start({
      program: process.execPath,
      args: [...STARTER, ...args, '--config', this.configFile],
      cwd: this.folder,
      isReady: async () => true,
    });
  }

  /** Stops it and removes its folder. */
  async remove(): Promise<void> {
    await this.stop();
    await removeFolder(this.folder);
  }
}

interface Place {
  readonly folder: string;
  readonly configFile: string;
  readonly host: string;
  readonly opsHost: string;
}

function startDaemon(place: Place, options: EntrepotOptions): Promise<Daemon> {
  const [flags = '', starter = ''] = STARTER;
  const own = [process.execPath, flags, options.starter ?? starter, 'serve', '--config', place.configFile];
  const [program = '', ...args] = [...(options.within ?? []), ...own];
  return Daemon.start({
    program,
    args,
    cwd: place.folder,
    env: { ...options.env },
    isReady: () => answers(`http://${place.opsHost}/readyz`, 200),
    readyTimeoutMs: options.readyTimeoutMs ?? 60_000,
  });
}

async function writeConfig(config: EntrepotConfig, options: EntrepotOptions): Promise<Place> {
  const folder = options.folder ?? (await makeTempFolder('pot'));
  await mkdir(folder, { recursive: true });
  const server = {
    listen: `127.0.0.1:${await freePort()}`,
    opsListen: `127.0.0.1:${await freePort()}`,
    ...config.server,
  };
  const { path = join(folder, 'store') } = config.storage ?? {};
  const storage = { path, ...(await storageOf(String(path), folder)), ...config.storage };
  const full = { index: indexOf(String(path)), ...config, server, storage };
  const configFile = join(folder, 'config.yaml');
  await writeFile(configFile, stringify(full));
  return { folder, configFile, host: firstAddress(server.listen), opsHost: firstAddress(server.opsListen) };
}

/** The first of what `listen` may be: an address, `{address, upstream}`, or a list of these. */
function firstAddress(listen: unknown): string {
  if (typeof listen === 'string') return listen;
  if (Array.isArray(listen)) return firstAddress(listen[0]);
  if (typeof listen === 'object' && listen !== null && 'address' in listen)
    return firstAddress(listen.address);
  throw new Error(`no address: ${JSON.stringify(listen)}`);
}
