import type { Environment, ProxyConfig } from './environment.ts';
import type { Address } from './fields.ts';
import type { ParsedEndpoint, ParsedFile, ParsedUpstream } from './schema.ts';
import type { Tree } from './tree.ts';

/**
 * The configuration as the code uses it: with defaults, durations in milliseconds, passwords read, and absolute paths.
 * `compose/` passes each part what it needs of it.
 */
export interface Config extends Omit<ParsedFile, 'upstreams' | 'notifications'> {
  /** By name, including presets. */
  readonly upstreams: ReadonlyMap<string, UpstreamConfig>;
  readonly notifications: { readonly endpoints: readonly EndpointConfig[] };
  /** Those of `server.admins`, with their passwords. */
  readonly admins: readonly AdminLogin[];
  /** From HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in upper or lower case. */
  readonly proxy: ProxyConfig;
  /** The environment of this process, which programs that it runs inherit. May contain secrets. */
  readonly environment: Environment;
  readonly origin: ConfigOrigin;
}

/** Where a configuration came from. With these and the environment, another process loads the same one. */
export interface ConfigOrigin {
  /** Absolute. */
  readonly file: string | undefined;
  /** The base of relative paths that are not in a file. */
  readonly folder: string;
  /** From the command line. */
  readonly overrides: Tree;
  /** Whether the path of the store is the default. */
  readonly isDefaultPath: boolean;
  /** Whether everything but perhaps the path of the store is the default. */
  readonly isSilent: boolean;
  /**
   * Where messages say that a key was set: `entrepot.yaml:12` (the line of the nearest map if the key is missing), or
   * the environment variable.
   */
  readonly sourceOf: (path: readonly PropertyKey[]) => string;
}

/** An upstream, with everything that its options name. */
export interface UpstreamConfig extends Omit<ParsedUpstream, 'url' | 'mirrors' | 'credentials'> {
  /** As in image names: `docker.io`. */
  readonly name: string;
  readonly url: string;
  readonly mirrors: readonly MirrorConfig[];
  readonly credentials: LoginConfig | undefined;
  /** The content of `caFile`. */
  readonly ca: string | undefined;
}

/** An endpoint of notifications, with the contents of the files that it names. */
export interface EndpointConfig extends ParsedEndpoint {
  /** By name in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly signingKey: string | undefined;
  readonly ca: string | undefined;
}

/** A mirror of an upstream. */
export interface MirrorConfig {
  readonly url: string;
  readonly credentials: LoginConfig | undefined;
}

/** A user name, the source of its password, and the password itself. */
export interface LoginConfig {
  readonly username: string;
  readonly password: string;
  readonly passwordFile?: string | undefined;
  readonly passwordEnv?: string | undefined;
}

/** A login for the administration API. */
export interface AdminLogin {
  readonly name: string;
  readonly password: string;
  readonly rights: 'read' | 'full';
}

/** A port and, if it belongs to one, its upstream. */
export interface ListenerConfig {
  readonly address: Address;
  readonly upstream?: string | undefined;
}
