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
  const isOnly = chosen.length === 1;
  const hosts =
    kind === 'stargz' ? chosen.map(host => withOwnUrl(config, host, { serverUrl, isOnly })) : chosen;
  const hub = kind === 'docker' ? chosen.find(({ name }) => name === DOCKER_HUB) : undefined;
  const namedUrl = serverUrl ?? hosts[0]?.ownUrl ?? ownUrl(config, hub?.name);
  const mirrorsHub = hub !== undefined && isMeantBy(config, namedUrl, { name: hub.name, isOnly: true });
  const omitted: Omission[] = [];
  if (hub !== undefined && !mirrorsHub)
    omitted.push({ names: ['daemon.json'], reason: pathsFault('Docker', [hub.name], namedUrl) });
  omitted.push(...(kind === 'crio' ? crioOmissions(hosts, fallback) : urlOmissions(config, hosts, isOnly)));
  const omittedNames = new Set(omitted.flatMap(({ names: one }) => one));
  const upstreams = hosts.filter(({ name }) => !omittedNames.has(name));
  const notes = omitted.map(({ names: what, reason }) => `not written: ${what.join(', ')}: ${reason}`);
  if (kind === 'docker' && hub === undefined) notes.push(WITHOUT_HUB);
  if (upstreams.length === 0) throw new CommandError(notes.join('\n'), EXIT.usage);
  const isEncrypted = namedUrl.startsWith('https:');
  if (caFile !== undefined && !isEncrypted) {
    throw new CommandError(
      `--ca: nodes reach Entrepot at ${namedUrl}, without TLS, and need no CA`,
      EXIT.usage,
    );
  }
  const ca = isEncrypted ? await nodeCa(config, caFile) : undefined;
  if (kind === 'stargz' && ca !== undefined) notes.push(TRUSTS_ITS_SYSTEM);
  if (resolves && (mirrorsHub || kind === 'stargz') && isAlias(config, namedUrl)) {
    throw new CommandError(
      `--resolve: ${namedUrl} means a registry by its host name, which an address cannot replace`,
      EXIT.usage,
    );
  }
  const url = resolves ? await withAddress(namedUrl) : namedUrl;
  if (url === undefined) return undefined;
  const resolved = upstreams.map(host => withHostOf(host, namedUrl, url));
  const files = nodeFiles(kind, { serverUrl: url, upstreams: resolved, fallback, ca, mirrorsHub, kept });
  for (const upstream of fallback ? upstreams : []) {
    const fallbackUrl = httpsFallback(upstream);
    if (fallbackUrl !== undefined) notes.push(fallbackNote(upstream, fallbackUrl, kind));
  }
  return { files, notes, isPartial: omitted.length > 0 };
}

/** One name server that does not answer costs the resolver 5 s by default; callers that wait ask again later. */
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

/** Files or registries that are left out for one reason. */
interface Omission {
  readonly names: readonly string[];
  readonly reason: string;
}

function crioOmissions(hosts: readonly MirroredHost[], fallback: boolean): readonly Omission[] {
  return hosts.flatMap(host => {
    const reason = crioFault(host, fallback);
    return reason === undefined ? [] : [{ names: [host.name], reason }];
  });
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

const TRUSTS_ITS_SYSTEM =
  "stargz-snapshotter trusts the CAs of its system only: add that of Entrepot's certificate there";

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
 * certificate has; with `upstream`: that of a port for it, if there is one.
 */
function ownUrl({ server, upstreams }: Config, upstream: string | undefined): string {
  const scheme = server.tls === undefined ? 'http' : 'https';
  const own = upstream === undefined ? undefined : server.listen.find(each => each.upstream === upstream);
  if (own === undefined && server.externalUrl !== undefined) {
    const url = new URL(server.externalUrl);
    const [alias] = upstreams.get(upstream ?? '')?.hostAliases ?? [];
    return alias === undefined ? url.origin : `${url.protocol}//${alias}`;
  }
  const port = own ?? server.listen.find(each => each.upstream === undefined);
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

/** The registry that a client means if it does not name one: by the URL alone. */
interface MeantByUrl {
  readonly name: string;
  /** Whether clients mean no other one. */
  readonly isOnly: boolean;
}

/** Whether `serverUrl` means this registry, as far as the configuration tells. */
function isMeantBy(
  { server, upstreams, defaultUpstream }: Config,
  serverUrl: string,
  { name, isOnly }: MeantByUrl,
): boolean {
  const { host, hostname } = new URL(serverUrl);
  const aliases = upstreams.get(name)?.hostAliases ?? [];
  if (defaultUpstream === name || aliases.includes(host) || aliases.includes(hostname)) return true;
  const listener = server.listen.find(({ address }) => address.port === portOf(serverUrl));
  // An unknown port may be that of a proxy in front, which may map it to anything.
  return listener === undefined ? isOnly : listener.upstream === name;
}

/** Whether the host of `serverUrl` belongs to an upstream. */
function isAlias({ upstreams }: Config, serverUrl: string): boolean {
  const { host, hostname } = new URL(serverUrl);
  const aliases = [...upstreams.values()].flatMap(({ hostAliases }) => hostAliases);
  return aliases.includes(host) || aliases.includes(hostname);
}

function portOf(serverUrl: string): number {
  const { port, protocol } = new URL(serverUrl);
  return Number(port || DEFAULT_PORTS[protocol === 'https:' ? 'https' : 'http']);
}

/**
 * With the URL that means it on the server that nodes reach at `serverUrl`: of a port or host name that belongs to it, or
 * else that URL itself. Without one, what the configuration says.
 */
function withOwnUrl(
  config: Config,
  host: MirroredHost,
  { serverUrl, isOnly }: { readonly serverUrl: string | undefined; readonly isOnly: boolean },
): MirroredHost {
  const { name } = host;
  const named = serverUrl ?? ownUrl(config, name);
  const url = new URL(named);
  if (isMeantBy(config, named, { name, isOnly })) return { ...host, ownUrl: named };
  const { listen } = config.server;
  const own = listen.find(({ upstream }) => upstream === name);
  const [alias] = config.upstreams.get(name)?.hostAliases ?? [];
  // Our ports say nothing about those of a proxy in front.
  const isOurs = listen.some(({ address }) => address.port === portOf(named));
  if (own !== undefined && isOurs) url.port = String(own.address.port);
  else if (alias !== undefined) url.host = alias;
  return { ...host, ownUrl: url.origin };
}

/**
 * The registries whose `ownUrl`, if they have one, does not lead to them, for clients that do not name the registry. Those
 * with the same URL are reported together: without configured ports, that is all of them.
 */
function urlOmissions(config: Config, hosts: readonly MirroredHost[], isOnly: boolean): readonly Omission[] {
  const byUrl = new Map<string, string[]>();
  for (const { name, ownUrl: own } of hosts) {
    if (own === undefined || isMeantBy(config, own, { name, isOnly })) continue;
    byUrl.set(own, [...(byUrl.get(own) ?? []), name]);
  }
  return [...byUrl].map(([url, names]) => ({ names, reason: pathsFault('stargz-snapshotter', names, url) }));
}

/** With the host of `to` in its `ownUrl` in place of that of `from`. */
function withHostOf(host: MirroredHost, from: string, to: string): MirroredHost {
  if (host.ownUrl === undefined) return host;
  const url = new URL(host.ownUrl);
  if (url.hostname === new URL(from).hostname) url.hostname = new URL(to).hostname;
  return { ...host, ownUrl: url.origin };
}

/** Why `client`, which does not name the registry in its requests, cannot use `serverUrl` for these. */
function pathsFault(client: string, names: readonly string[], serverUrl: string): string {
  const [name = '', ...others] = names;
  const registry = name === DOCKER_HUB ? 'Docker Hub' : name;
  const isOne = others.length === 0;
  const paths = isOne
    ? `${registry}'s own paths, which ${serverUrl} does not map to ${registry}`
    : `each registry's own paths, which ${serverUrl} does not map to these registries`;
  return (
    `${client} uses ${paths}: add a port (server.listen: [{address: …, upstream: ${name}}]) or a host name ` +
    `(upstreams.${name}.hostAlias) for ${isOne ? 'it' : 'each'}, or set defaultUpstream${isOne ? `: ${name}` : ' for one'}`
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

/** They stand for all addresses of this machine, which is of no use to nodes. */
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::']);

function chosenUpstreams({ upstreams }: Config, names: readonly string[]): MirroredHost[] {
  const unknown = names.find(name => !upstreams.has(name));
  if (unknown !== undefined) {
    const known = [...upstreams.keys()].join(', ');
    throw new CommandError(`--upstream: ${unknown} is not configured; configured are ${known}`, EXIT.usage);
  }
  return [...upstreams.values()].filter(({ name }) => names.length === 0 || names.includes(name));
}
