// Debian's docker-registry (distribution 2.8) as a real upstream: open, behind htpasswd, behind a token service,
// or as a pull-through proxy to compare with.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { answers, Daemon, freePort, run, until } from './programs.ts';
import { makeTempFolder, removeFolder } from './temp-folder.ts';
import { TokenServer } from './token-server.ts';

export const REGISTRY_PROGRAMS: readonly string[] = ['docker-registry', 'htpasswd', 'openssl'];

/** The only user of a registry with logins. */
export const REGISTRY_USER = { username: 'ada', password: 'lovelace' } as const;

export type RegistryMode =
  | { readonly kind: 'open' }
  /** Basic, for every request. */
  | { readonly kind: 'htpasswd' }
  /** Bearer; repositories under `public/` may be pulled by anybody. */
  | { readonly kind: 'token' }
  /** Distribution's own pull-through cache in front of `upstream`. */
  | { readonly kind: 'proxy'; readonly upstream: string };

/** One request that reached the registry, from its access log. */
export interface RegistryRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly status: number;
  readonly userAgent: string;
}

export class DockerRegistry {
  readonly url: string;
  /** The URL without its scheme, as in image references. */
  readonly host: string;
  readonly folder: string;
  /** The token service, in token mode. */
  readonly tokenServer: TokenServer | undefined;
  readonly mode: RegistryMode;
  #daemon: Daemon;
  #earlierLogs = '';
  #seenRequests = 0;
  #marks = 0;

  private constructor(place: Place, mode: RegistryMode, daemon: Daemon) {
    this.folder = place.folder;
    this.host = place.host;
    this.url = `http://${place.host}`;
    this.tokenServer = place.tokenServer;
    this.mode = mode;
    this.#daemon = daemon;
  }

  /** On a free port; of the loopback, unless the address of another interface of this machine is given. */
  static async start(mode: RegistryMode = { kind: 'open' }, address = '127.0.0.1'): Promise<DockerRegistry> {
    const folder = await makeTempFolder('reg');
    const host = `${address}:${await freePort()}`;
    const tokenServer = mode.kind === 'token' ? await startTokenServer(folder, host) : undefined;
    const place = { folder, host, tokenServer };
    await mkdir(join(folder, 'data'));
    if (mode.kind === 'htpasswd') {
      const { username, password } = REGISTRY_USER;
      await writeFile(join(folder, 'htpasswd'), await run('htpasswd', ['-nbB', username, password]));
    }
    await writeFile(join(folder, 'config.yml'), stringify(configOf(place, mode)));
    return new DockerRegistry(place, mode, await serve(place));
  }

  /** The credential that it requires, if any, as `user:password`. */
  get credential(): string | undefined {
    const isOpen = this.mode.kind === 'open' || this.mode.kind === 'proxy';
    return isOpen ? undefined : `${REGISTRY_USER.username}:${REGISTRY_USER.password}`;
  }

  get daemon(): Daemon {
    return this.#daemon;
  }

  logs(): string {
    return this.#earlierLogs + this.#daemon.logs();
  }

  /** Every request since the start or the last `forgetRequests`, in the order of their ends. */
  async requests(): Promise<readonly RegistryRequest[]> {
    if (this.#daemon.isRunning) await this.#flushLog();
    return parseAccessLog(this.logs()).slice(this.#seenRequests);
  }

  /** Starts counting anew. */
  async forgetRequests(): Promise<void> {
    if (this.#daemon.isRunning) await this.#flushLog();
    this.#seenRequests = parseAccessLog(this.logs()).length;
  }

  /** Stops it; content stays for `startAgain`. */
  async stop(): Promise<void> {
    await this.#daemon.stop();
  }

  /** The same registry on the same port, with the content it had. */
  async startAgain(): Promise<void> {
    this.#earlierLogs = this.logs();
    this.#daemon = await serve(this);
  }

  /** Stops it and removes its content. */
  async remove(): Promise<void> {
    await this.stop();
    await this.tokenServer?.stop();
    await removeFolder(this.folder);
  }

  /** The log is read through a pipe: a request of ours that shows there has all earlier ones before it. */
  async #flushLog(): Promise<void> {
    const mark = `/v2/?${MARK}=${(this.#marks += 1)}`;
    await fetch(this.url + mark).then(response => response.arrayBuffer());
    await until(`${mark} in the access log`, 60_000, async () => this.#daemon.logs().includes(`${mark} `));
  }
}

/** In the query of requests that are ours and not counted. */
const MARK = 'entrepot-test-mark';

interface Place {
  readonly folder: string;
  readonly host: string;
  readonly tokenServer: TokenServer | undefined;
}

async function serve(place: Pick<Place, 'folder' | 'host'>): Promise<Daemon> {
  return Daemon.start({
    program: 'docker-registry',
    args: ['serve', join(place.folder, 'config.yml')],
    // Go would send telemetry and proxy settings its own way; the registry stays on the loopback.
    env: { OTEL_TRACES_EXPORTER: 'none', no_proxy: '127.0.0.1' },
    isReady: () => answers(`http://${place.host}/v2/?${MARK}=start`),
  });
}

async function startTokenServer(folder: string, host: string): Promise<TokenServer> {
  const users = { [REGISTRY_USER.username]: REGISTRY_USER.password };
  return TokenServer.start({ folder, service: host, users, isPublic: name => name.startsWith('public/') });
}

/** https://distribution.github.io/distribution/about/configuration/ */
function configOf(place: Place, mode: RegistryMode): object {
  const { folder, host, tokenServer } = place;
  return {
    version: '0.1',
    log: { level: 'warn', formatter: 'text' },
    storage: {
      filesystem: { rootdirectory: join(folder, 'data') },
      cache: { blobdescriptor: 'inmemory' },
      delete: { enabled: true },
      maintenance: { uploadpurging: { enabled: false } },
    },
    http: { addr: host, secret: 'test', relativeurls: true },
    ...(mode.kind === 'htpasswd' && {
      auth: { htpasswd: { realm: 'test', path: join(folder, 'htpasswd') } },
    }),
    ...(tokenServer !== undefined && {
      auth: {
        token: {
          realm: tokenServer.realm,
          service: host,
          issuer: tokenServer.issuer,
          rootcertbundle: tokenServer.certificateFile,
        },
      },
    }),
    ...(mode.kind === 'proxy' && { proxy: { remoteurl: mode.upstream } }),
  };
}

/** Apache's combined format, which the registry prints among its other lines. */
function parseAccessLog(log: string): RegistryRequest[] {
  const line = /"([A-Z]+) (\S+) HTTP\/[\d.]+" (\d{3}) \d+ "[^"]*" "([^"]*)"/g;
  return [...log.matchAll(line)]
    .map(([, method = '', path = '', status = '', userAgent = '']) => {
      return { method, path, status: Number(status), userAgent };
    })
    .filter(request => !request.path.includes(MARK));
}
