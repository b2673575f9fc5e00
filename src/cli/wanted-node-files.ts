import { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import type { Config, ListenerConfig } from '../config/config.ts';
import { formatAddress } from '../config/fields.ts';
import { pathName } from '../config/path-name.ts';
import { readTextFile } from '../lib/text-file.ts';
import { LATE, within } from '../lib/within.ts';
import { DOCKER_HUB } from '../oci/reference.ts';
import { CommandError, EXIT } from './command.ts';
import {
  fallbackLocation,
  httpsFallback,
  KINDS_WITHOUT_FALLBACK,
  type MirroredHost,
  type NodeFile,
  type NodeKind,
  nodeFiles,
} from './node-files.ts';

/** Which files a node is to have, as the command line says. */
export interface NodeChoice {
  readonly kind: NodeKind;
  /** Names of upstreams; all if it is empty. */
  readonly upstreams: readonly string[];
  /** How nodes reach Entrepot; what the configuration says if it is `undefined`. */
  readonly serverUrl: string | undefined;
  /** Whether nodes are told the address of the server's name. */
  readonly resolves: boolean;
  readonly fallback: boolean;
  /** The file of the CA that nodes have to trust. */
  readonly caFile: string | undefined;
  /** Whether a running command keeps them up to date. */
  readonly kept: boolean;
}

/** The files, and what is to be said about them. */
export interface WantedNodeFiles {
  readonly files: readonly NodeFile[];
  /** What is left out and why, and where nodes fall back to another URL than the configured one. */
  readonly notes: readonly string[];
  /** Whether a registry was left out. */
  readonly isPartial: boolean;
}

/**
 * The files of a node, by the configuration and the command line. `undefined` if the server's name cannot be resolved now.
 * Throws CommandError if there is nothing to write, or the choice does not fit the configuration.
 */
export async function wantedNodeFiles(
  config: Config,
  { kind, upstreams: names, serverUrl, resolves, fallback, caFile, kept }: NodeChoice,
): Promise<WantedNodeFiles | undefined> {
  const chosen = chosenUpstreams(config, names);
  const hub = kind === 'docker' ? chosen.find(({ name }) => name === DOCKER_HUB) : undefined;
  const namedUrl = serverUrl ?? ownUrl(config, hub !== undefined);
  const unserved = hub && hubPathsFault(config, namedUrl);
  const omitted = new Map<string, string>();
  if (unserved !== undefined) omitted.set('daemon.json', unserved);
  for (const upstream of kind === 'crio' ? chosen : []) {
    const reason = crioFault(upstream, fallback);
    if (reason !== undefined) omitted.set(upstream.name, reason);
  }
  const upstreams = chosen.filter(({ name }) => !omitted.has(name));
  const notes = [...omitted].map(([what, reason]) => `not written: ${what}: ${reason}`);
  if (kind === 'docker' && hub === undefined) notes.push(WITHOUT_HUB);
  if (upstreams.length === 0) throw new CommandError(notes.join('\n'), EXIT.usage);
  const ca = namedUrl.startsWith('https:') ? await nodeCa(config, caFile) : undefined;
  const url = resolves ? await withAddress(namedUrl) : namedUrl;
  if (url === undefined) return undefined;
  const mirrorsHub = hub !== undefined && unserved === undefined;
  const files = nodeFiles(kind, { serverUrl: url, upstreams, fallback, ca, mirrorsHub, kept });
  for (const upstream of fallback ? upstreams : []) {
    const fallbackUrl = httpsFallback(upstream);
    if (fallbackUrl !== undefined) notes.push(fallbackNote(upstream, fallbackUrl, kind));
  }
  return { files, notes, isPartial: omitted.size > 0 };
}

/** One server of names that does not answer costs the resolver 5 s by default; whoever waits asks again later. */
const LOOKUP_MS = 8_000;

/**
 * The URL with the address that its name has now: of several the same one each time, IPv4 before IPv6. `undefined` if it
 * has none, or nobody answers.
 */
async function withAddress(text: string): Promise<string | undefined> {
  const url = new URL(text);
  const name = url.hostname.replace(/^\[|\]$/g, '');
  const found = await within(
    lookup(name, { all: true }).catch(() => []),
    LOOKUP_MS,
  );
  const [first] = (found === LATE ? [] : found).toSorted(
    (one, other) => one.family - other.family || one.address.localeCompare(other.address, 'en'),
  );
  if (first === undefined) return undefined;
  url.hostname = first.family === 6 ? `[${first.address}]` : first.address;
  return url.origin;
}

/** Why CRI-O and podman cannot mirror the registry; `undefined` if they can. */
function crioFault(upstream: MirroredHost, fallback: boolean): string | undefined {
  if (pathName(upstream) === undefined) return NEEDS_ALIAS;
  const isReachable = !fallback || fallbackLocation(upstream) !== undefined;
  return isReachable ? undefined : `${upstream.url}: ${HAS_NO_LOCATION}`;
}

const WITHOUT_HUB =
  'no daemon.json, whose mirrors are for Docker Hub only: Docker before 29, or without the containerd image store, does ' +
  'not read hosts.toml, and pulls from these registries directly';

const NEEDS_ALIAS =
  'CRI-O and podman send this name in the path, where a port is not allowed: give it an alias without one (upstreams.….aliases)';

const HAS_NO_LOCATION =
  'CRI-O and podman only support an API at /v2 of a host, so they cannot fall back to it: use --no-fallback';

function fallbackNote({ name, url }: MirroredHost, fallbackUrl: string, kind: NodeKind): string {
  const wayOut = KINDS_WITHOUT_FALLBACK.includes(kind) ? '. With --no-fallback they ask Entrepot only' : '';
  return (
    `${name}: if Entrepot is out of reach, nodes ask ${fallbackUrl}, not ${url} as Entrepot does: plain HTTP is only ` +
    `set up for a registry of that very name${wayOut}`
  );
}

/**
 * The URL of this server according to the configuration, with a name rather than an address, since that is what its
 * certificate has; `isForHub`: that of a port for docker.io, if there is one.
 */
function ownUrl({ server, upstreams }: Config, isForHub: boolean): string {
  const scheme = server.tls === undefined ? 'http' : 'https';
  const hub = isForHub ? server.listen.find(({ upstream }) => upstream === DOCKER_HUB) : undefined;
  if (hub === undefined && server.externalUrl !== undefined) {
    const url = new URL(server.externalUrl);
    const [alias] = isForHub ? (upstreams.get(DOCKER_HUB)?.hostAliases ?? []) : [];
    return alias === undefined ? url.origin : `${url.protocol}//${alias}`;
  }
  const port = hub ?? server.listen.find(({ upstream }) => upstream === undefined);
  const named = port && hostNamed(server.serverNames, port, DEFAULT_PORTS[scheme]);
  if (named !== undefined) return new URL(`${scheme}://${named}`).origin;
  if (port === undefined || WILDCARDS.has(port.address.host)) {
    throw new CommandError(
      'the configuration does not say how nodes reach Entrepot: use --server URL',
      EXIT.usage,
    );
  }
  return `${scheme}://${formatAddress(port.address)}`;
}

const DEFAULT_PORTS = { http: 80, https: 443 } as const;

/**
 * The host and port of a listener by one of `serverNames`: the one with its port, or else the first. The port of a name,
 * which may be forwarded to ours, is that of the listener without an upstream; for another, its own port is used, as
 * for a name without one.
 */
function hostNamed(
  serverNames: readonly string[],
  { address, upstream }: ListenerConfig,
  defaultPort: number,
): string | undefined {
  const names = serverNames.map(name => /^(?<host>.*?)(?::(?<port>\d+))?$/.exec(name)?.groups ?? {});
  const chosen = names.find(({ port = defaultPort }) => Number(port) === address.port) ?? names[0];
  if (chosen === undefined) return undefined;
  const port = upstream === undefined ? (chosen['port'] ?? address.port) : address.port;
  return `${chosen['host']}:${port}`;
}

/** Why Docker's mirrors cannot be at `serverUrl`: it is known not to map Docker Hub's paths to Docker Hub. */
function hubPathsFault(
  { server, upstreams, defaultUpstream }: Config,
  serverUrl: string,
): string | undefined {
  const { host, hostname, port, protocol } = new URL(serverUrl);
  const aliases = upstreams.get(DOCKER_HUB)?.hostAliases ?? [];
  if (defaultUpstream === DOCKER_HUB || aliases.includes(host) || aliases.includes(hostname))
    return undefined;
  const number = Number(port || DEFAULT_PORTS[protocol === 'https:' ? 'https' : 'http']);
  const listener = server.listen.find(({ address }) => address.port === number);
  // An unknown port may be that of a proxy in front, which may map it to anything.
  if (listener === undefined || listener.upstream === DOCKER_HUB) return undefined;
  return (
    `Docker uses Docker Hub's own paths, which ${serverUrl} does not map to Docker Hub: add a port ` +
    '(server.listen: [{address: …, upstream: docker.io}]) or a host name (upstreams.docker.io.hostAlias) for it, or ' +
    'set defaultUpstream: docker.io'
  );
}

/** A chain of certificates has a few kilobytes. */
const MAX_CA_BYTES = 1024 * 1024;

const CERTIFICATES = /^-----BEGIN CERTIFICATE-----\r?\n[^-]*-----END CERTIFICATE-----\r?(?:\n|$)/gm;

/**
 * The CA that nodes have to trust in addition to the usual ones: `file`, or our own certificate if it is self-signed.
 */
async function nodeCa({ server }: Config, file: string | undefined): Promise<string | undefined> {
  const path = file ?? server.tls?.certFile;
  if (path === undefined) return undefined;
  const pem = await readTextFile(path, MAX_CA_BYTES);
  if (pem === undefined) throw new CommandError(`${path}: no such file`, EXIT.usage);
  try {
    const { issuer, subject } = new X509Certificate(pem);
    // Only the certificates: the server's file may contain its private key, too.
    return file !== undefined || issuer === subject ? (pem.match(CERTIFICATES) ?? []).join('') : undefined;
  } catch (cause) {
    throw new CommandError(`${path}: not a PEM certificate`, EXIT.usage, { cause });
  }
}

/** All addresses of this machine, which are no use to nodes. */
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::']);

function chosenUpstreams({ upstreams }: Config, names: readonly string[]): MirroredHost[] {
  const unknown = names.find(name => !upstreams.has(name));
  if (unknown !== undefined) {
    const known = [...upstreams.keys()].join(', ');
    throw new CommandError(`--upstream: ${unknown} is not configured; configured are ${known}`, EXIT.usage);
  }
  return [...upstreams.values()].filter(({ name }) => names.length === 0 || names.includes(name));
}
