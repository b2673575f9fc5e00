import { access, constants, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Clock, systemClock } from '../lib/clock.ts';
import { FairSlots, SlotsFull } from '../lib/fair-slots.ts';
import type { Log } from '../lib/log.ts';
import { Lru } from '../lib/lru.ts';
import { SingleFlight } from '../lib/single-flight.ts';
import { requireTextFile } from '../lib/text-file.ts';
import { parseYaml } from '../lib/yaml.ts';
import {
  type CredentialProvider,
  cacheKeys,
  cachingOf,
  decodeResponse,
  encodeRequest,
  InvalidCredentialProvider,
  matchesImage,
  parseProviderConfig,
} from './credential-provider.ts';
import type { DockerConfig } from './docker-config.ts';
import type { KeyringConfig } from './keyring.ts';
import { PluginFailed, runPlugin } from './provider-exec.ts';

export interface CredentialPluginsOptions {
  /** A CredentialProviderConfig, or a folder of such files, read in the order of their names. */
  readonly configFile: string;
  /** The folder of the plugins, which are programs named as in the configuration. */
  readonly binDir: string;
  /** The environment that plugins inherit: this process's own, as they inherit the kubelet's. */
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly log: Log;
  /** Default: the system's. */
  readonly clock?: Clock;
}

/**
 * How many responses are remembered: at most one per image, and nobody mirrors more within a plugin's cache duration.
 */
const MAX_ANSWERS = 10_000;

/**
 * How long a plugin that fails is not run again for the same image. The kubelet runs it once per pull, but here a pull
 * is many requests.
 */
const FAILURE_MS = 10_000;

/**
 * Each plugin is a process of some tens of MiB, and requesters choose for how many images it runs: so at most this many
 * at a time, half of them for one tenant. Waiting is cheap, but a tenant with more waiting than this is refused.
 */
const PROCESSES = { max: 8, maxPerAsker: 4, maxWaitingPerAsker: 1_000 } as const;

/** A few providers, each with its images, take a few KiB. */
const MAX_CONFIG_FILE_BYTES = 1 << 20;

const CONFIG_FILE = /\.(?:json|ya?ml)$/;

interface Answer {
  readonly config: DockerConfig;
  readonly fromMs: number;
  readonly untilMs: number;
}

const NO_CREDENTIALS: DockerConfig = new Map();

/**
 * Runs the kubelet's exec plugins for registry credentials (kubelet.config.k8s.io/v1, CredentialProviderConfig), and
 * remembers their responses, as the kubelet does. A plugin that fails provides no credentials; that has no other
 * effect.
 */
export class CredentialPlugins {
  readonly #plugins: readonly Plugin[];
  readonly #end = new AbortController();

  private constructor(options: CredentialPluginsOptions, providers: readonly CredentialProvider[]) {
    const slots = new FairSlots(PROCESSES);
    this.#plugins = providers.map(provider => new Plugin(provider, options, slots, this.#end.signal));
  }

  /** Throws InvalidCredentialProvider if the configuration is invalid or names a plugin that does not exist. */
  static async open(options: CredentialPluginsOptions): Promise<CredentialPlugins> {
    const providers = await readProviders(options.configFile);
    for (const { name } of providers) {
      const program = join(options.binDir, name);
      await access(program, constants.X_OK).catch((cause: unknown) => {
        throw new InvalidCredentialProvider(`${program} is not an executable file`, { cause });
      });
    }
    return new CredentialPlugins(options, providers);
  }

  /**
   * The responses of the plugins for `image`, in order, as parts of a Keyring. Never throws. `asker` is the name of the
   * tenant that asks, '' for none. Askers take turns.
   */
  async configsFor(image: string, asker = ''): Promise<readonly KeyringConfig<string>[]> {
    const asked = this.#plugins.filter(plugin => plugin.isFor(image));
    return Promise.all(
      asked.map(async plugin => ({ source: plugin.name, config: await plugin.configFor(image, asker) })),
    );
  }

  /** Ends the plugins that are running. */
  close(): void {
    this.#end.abort();
  }
}

class Plugin {
  readonly name: string;
  readonly #provider: CredentialProvider;
  readonly #options: CredentialPluginsOptions;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #answers = new Lru<Answer>({ maxEntries: MAX_ANSWERS });
  readonly #slots: FairSlots;
  readonly #signal: AbortSignal;
  /** By asker and image. */
  readonly #questions = new SingleFlight<DockerConfig>();
  /** By image. */
  readonly #runs = new SingleFlight<DockerConfig>();

  constructor(
    provider: CredentialProvider,
    options: CredentialPluginsOptions,
    slots: FairSlots,
    signal: AbortSignal,
  ) {
    this.#slots = slots;
    this.#signal = signal;
    this.name = provider.name;
    this.#provider = provider;
    this.#options = options;
    this.#log = options.log.child({ plugin: provider.name });
    this.#clock = options.clock ?? systemClock;
  }

  isFor(image: string): boolean {
    return matchesImage(this.#provider.matchImages, image);
  }

  async configFor(image: string, asker: string): Promise<DockerConfig> {
    const known = this.#remembered(image);
    return known ?? this.#questions.run(`${asker} ${image}`, () => this.#inTurn(image, asker)).promise;
  }

  /** A response for another image of the registry, or for another asker, may have arrived meanwhile. */
  async #inTurn(image: string, asker: string): Promise<DockerConfig> {
    try {
      return await this.#slots.run(
        asker,
        async () => this.#remembered(image) ?? this.#runs.run(image, () => this.#ask(image)).promise,
      );
    } catch (error) {
      if (!(error instanceof SlotsFull)) throw error;
      this.#log.warn({ image, asker, reason: error.message }, 'a credential provider was not run');
      return NO_CREDENTIALS;
    }
  }

  #remembered(image: string): DockerConfig | undefined {
    const nowMs = this.#clock.nowMs();
    for (const [type, key] of Object.entries(cacheKeys(image))) {
      const answer = this.#answers.get(`${type} ${key}`);
      // Nor if the clock was set back, which would prolong the caching.
      const isValid = answer !== undefined && answer.fromMs <= nowMs && nowMs <= answer.untilMs;
      if (isValid) return answer.config;
    }
    return undefined;
  }

  async #ask(image: string): Promise<DockerConfig> {
    try {
      return await this.#run(image);
    } catch (error) {
      if (!(error instanceof PluginFailed || error instanceof InvalidCredentialProvider)) throw error;
      this.#log.warn({ image, reason: error.message }, 'a credential provider failed');
      this.#remember('Image', image, NO_CREDENTIALS, FAILURE_MS);
      return NO_CREDENTIALS;
    }
  }

  async #run(image: string): Promise<DockerConfig> {
    const { name, apiVersion, args, env, defaultCacheMs } = this.#provider;
    const output = await runPlugin({
      program: join(this.#options.binDir, name),
      args,
      env: { ...this.#options.environment, ...Object.fromEntries(env.map(one => [one.name, one.value])) },
      input: encodeRequest(apiVersion, image),
      clock: this.#clock,
      signal: this.#signal,
    });
    const response = decodeResponse(output);
    if (response.apiVersion !== apiVersion) {
      throw new InvalidCredentialProvider(`the apiVersion of the response is not ${apiVersion}`);
    }
    const caching = cachingOf(response, image, defaultCacheMs);
    if (caching === undefined)
      throw new InvalidCredentialProvider('the response has an unknown cacheKeyType');
    const config = new Map([...response.auth].map(([key, login]) => [key, { ...login, email: '' }]));
    if (caching.key !== undefined) {
      this.#remember(response.cacheKeyType, caching.key, config, caching.cacheMs);
    }
    return config;
  }

  #remember(type: string, key: string, config: DockerConfig, forMs: number): void {
    const fromMs = this.#clock.nowMs();
    this.#answers.set(`${type} ${key}`, { config, fromMs, untilMs: fromMs + forMs });
  }
}

async function readProviders(configFile: string): Promise<readonly CredentialProvider[]> {
  const found = await stat(configFile).catch((cause: unknown) => {
    throw new InvalidCredentialProvider(`${configFile} cannot be read`, { cause });
  });
  const files = found.isDirectory()
    ? (await readdir(configFile))
        .filter(name => CONFIG_FILE.test(name))
        .sort()
        .map(name => join(configFile, name))
    : [configFile];
  const read = await Promise.all(
    files.map(async file => {
      try {
        return parseProviderConfig(parseYaml(await requireTextFile(file, MAX_CONFIG_FILE_BYTES)).value);
      } catch (cause) {
        const why = cause instanceof Error ? cause.message : String(cause);
        throw new InvalidCredentialProvider(`${file}: ${why}`, { cause });
      }
    }),
  );
  const providers = read.flat();
  const names = providers.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) throw new InvalidCredentialProvider(`${configFile}: ${twice} occurs twice`);
  if (providers.length === 0) throw new InvalidCredentialProvider(`${configFile}: it lists no providers`);
  return providers;
}
