import type { Environment } from './environment.ts';
import type { Address } from './fields.ts';
import type { ParsedFile, ParsedUpstream } from './schema.ts';
import type { Tree } from './tree.ts';

/**
 * The configuration as the code sees it: defaults filled in, durations in milliseconds, passwords read, paths absolute.
 * `compose/` hands each part what it needs of it.
 */
export interface Config extends Omit<ParsedFile, 'upstreams'> {
  /** By name, presets included. */
  readonly upstreams: ReadonlyMap<string, UpstreamConfig>;
  /** From HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in either case of letters. */
  readonly proxy: ProxyConfig;
  /** As the process was started with it: what the programs that it runs inherit. May hold secrets. */
  readonly environment: Environment;
  readonly origin: ConfigOrigin;
}

/** Where a configuration came from: with the environment, another process makes the same of it. */
export interface ConfigOrigin {
  /** Absolute. */
  readonly file: string | undefined;
  /** What relative paths were seen from that stand in no file. */
  readonly folder: string;
  /** What the command line said. */
  readonly overrides: Tree;
  /** Nobody said where the store is. */
  readonly isDefaultPath: boolean;
  /** Nobody said anything but, perhaps, where the store is. */
  readonly isSilent: boolean;
}

export interface UpstreamConfig extends Omit<ParsedUpstream, 'url' | 'mirrors' | 'credentials'> {
  /** As image names spell it: `docker.io`. */
  readonly name: string;
  readonly url: string;
  readonly mirrors: readonly MirrorConfig[];
  readonly credentials: LoginConfig | undefined;
  /** The content of `caFile`. */
  readonly ca: string | undefined;
}

export interface MirrorConfig {
  readonly url: string;
  readonly credentials: LoginConfig | undefined;
}

/** A user name and where its password came from, with the password itself. */
export interface LoginConfig {
  readonly username: string;
  readonly password: string;
  readonly passwordFile?: string | undefined;
  readonly passwordEnv?: string | undefined;
}

export interface ProxyConfig {
  readonly httpProxy: string | undefined;
  readonly httpsProxy: string | undefined;
  readonly noProxy: string | undefined;
}

/** A port and, if it belongs to one, its upstream. */
export interface Listener {
  readonly address: Address;
  readonly upstream?: string | undefined;
}
