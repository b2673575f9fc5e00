import { stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { errorCode } from '../lib/error-code.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { readTextFile, UnreadableFile } from '../lib/text-file.ts';
import {
  type DockerConfig,
  InvalidDockerConfig,
  parseDockercfg,
  parseDockerConfigJson,
} from './docker-config.ts';
import { FolderWatch } from './folder-watch.ts';
import { MAX_SECRET_BYTES } from './secret.ts';
import type { SecretState } from './tenant.ts';

export interface NodeConfigOptions {
  /** Files, or folders in which the kubelet would look for them. */
  readonly paths: readonly string[];
  readonly log: Log;
  readonly clock: Clock;
  /** Called when another config counts, or the state of a file has changed. */
  readonly onChange: () => void;
}

interface Candidate {
  readonly path: string;
  readonly parse: (text: string) => DockerConfig;
}

interface Found {
  readonly path: string;
  readonly config: DockerConfig;
  readonly text: string;
  readonly loadedAtMs: number;
}

/**
 * The node's Docker config, which all tenants use after their own Secrets. As in the kubelet, the first valid
 * `config.json` counts and, if there is none, the first valid `.dockercfg`; unlike a Secret, a file that cannot be read
 * is skipped. While the file that counted is malformed, its last good version is kept.
 */
export class NodeConfig {
  readonly #options: NodeConfigOptions;
  readonly #watch: FolderWatch;
  #current: Found | undefined;
  #states: readonly SecretState[] = [];

  constructor(options: NodeConfigOptions) {
    this.#options = options;
    this.#watch = new FolderWatch(() => this.#read(), options.log, options.clock);
  }

  get current(): { readonly path: string; readonly config: DockerConfig } | undefined {
    return this.#current;
  }

  /** Every file that was read. */
  get states(): readonly SecretState[] {
    return this.#states;
  }

  async start(): Promise<void> {
    if (this.#options.paths.length > 0) await this.#watch.start();
  }

  async close(): Promise<void> {
    await this.#watch.close();
  }

  async #read(): Promise<Iterable<string>> {
    const candidates = await findCandidates(this.#options.paths);
    const states: SecretState[] = [];
    let found: Found | undefined;
    for (const candidate of candidates) {
      found ??= await this.#try(candidate, state => states.push(state));
    }
    const isSame = isDeepStrictEqual([states, found], [this.#states, this.#current]);
    this.#report(states);
    this.#current = found;
    if (!isSame) this.#options.onChange();
    return candidates.map(({ path }) => dirname(path));
  }

  /** The content of the file if it is the one that counts; `report` is called with its state. */
  async #try({ path, parse }: Candidate, report: (state: SecretState) => void): Promise<Found | undefined> {
    const known = this.#current?.path === path ? this.#current : undefined;
    const { nowMs } = this.#options.clock;
    try {
      const text = await readTextFile(path, MAX_SECRET_BYTES);
      if (text === undefined) {
        report({ name: path, source: 'node', state: 'missing', reason: 'there is no such file' });
        return undefined;
      }
      const found = known?.text === text ? known : { path, text, config: parse(text), loadedAtMs: nowMs() };
      report({ name: path, source: 'node', state: 'loaded', loadedAtMs: found.loadedAtMs });
      return found;
    } catch (error) {
      const reason = error instanceof InvalidDockerConfig ? error.message : unreadable(error);
      const loadedAt = known === undefined ? {} : { loadedAtMs: known.loadedAtMs };
      report({ name: path, source: 'node', state: 'malformed', reason, ...loadedAt });
      return known;
    }
  }

  #report(states: readonly SecretState[]): void {
    for (const { name, state, reason } of states) {
      const before = this.#states.find(known => known.name === name);
      if (state !== 'loaded' && (before?.state !== state || before.reason !== reason)) {
        this.#options.log.warn({ file: name, state, reason }, "a node's Docker config is ignored");
      }
    }
    this.#states = states;
  }
}

/** All `config.json` before all `.dockercfg`. */
async function findCandidates(paths: readonly string[]): Promise<readonly Candidate[]> {
  const found = await Promise.all(
    paths.map(async path =>
      (await isFolder(path)) ? [join(path, 'config.json'), join(path, '.dockercfg')] : [path],
    ),
  );
  const candidates = found.flat().map(path => {
    const isOld = basename(path) === '.dockercfg';
    return { path, isOld, parse: isOld ? parseDockercfg : parseDockerConfigJson };
  });
  return [...candidates.filter(({ isOld }) => !isOld), ...candidates.filter(({ isOld }) => isOld)];
}

function unreadable(error: unknown): string {
  return error instanceof UnreadableFile
    ? error.message
    : `it cannot be read: ${errorCode(error) ?? String(error)}`;
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (error) {
    if (errorCode(error) === undefined) throw error;
    return false;
  }
}
