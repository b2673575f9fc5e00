import { basename } from 'node:path';
import { pathName } from '../config/path-name.ts';
import { isJsonObject, parseJsonObject } from '../lib/json.ts';
import { editYaml, parseYaml } from '../lib/yaml.ts';
import { DOCKER_HUB } from '../oci/reference.ts';
import { parseRegistryUrl, type RegistryUrl } from '../oci/registry-url.ts';

/**
 * Makes the files that point a node at Entrepot, for each kind of node, without any I/O. `entrepot hosts` writes them;
 * config/examples/ has examples.
 */
export type NodeKind = (typeof NODE_KINDS)[number];

/** The supported kinds of nodes. */
export const NODE_KINDS = ['containerd', 'crio', 'docker', 'k3s', 'stargz'] as const;

export interface NodeFilesOptions {
  /** The URL by which nodes reach Entrepot: `http://entrepot.example:5000`. */
  readonly serverUrl: string;
  /** The registries that nodes are to pull through it. */
  readonly upstreams: readonly MirroredHost[];
  /** Whether nodes fall back to the registry itself; default true. */
  readonly fallback?: boolean;
  /** PEM of the CA that signed Entrepot's certificate, if nodes do not trust it already. */
  readonly ca?: string | undefined;
  /** Whether hosts.toml says that a running `entrepot hosts --watch` keeps it, and removes it; default false. */
  readonly kept?: boolean;
  /** Whether `serverUrl` may be in the mirrors of Docker's daemon.json, which are for Docker Hub only; default true. */
  readonly mirrorsHub?: boolean;
}

/** A registry that nodes pull through Entrepot. */
export interface MirroredHost {
  /** As in image names. */
  readonly name: string;
  /** Its aliases in the configuration. */
  readonly aliases: readonly string[];
  /** Its URL in the configuration, which is also the node's fallback, unless it is plain HTTP to another host. */
  readonly url: string;
  /** The URL by which Entrepot means this registry alone, for clients that do not say which one they mean. */
  readonly ownUrl?: string;
}

/** A file for the node. */
export interface NodeFile {
  /** Relative to the folder that the runtime reads: `docker.io/hosts.toml`. */
  readonly path: string;
  /** Where the file belongs on the node. */
  readonly place: string;
  readonly text: string;
  /**
   * For a file that also has other settings: `existing` with ours added, and everything else kept in order. Throws for
   * text that is not such a file. If absent, the whole file is Entrepot's.
   */
  readonly mergeInto?: (existing: string) => string;
}

const WRITERS: Readonly<Record<NodeKind, (options: NodeFilesOptions) => NodeFile[]>> = {
  containerd: containerdFiles,
  crio: crioFiles,
  docker: dockerFiles,
  k3s: k3sFiles,
  stargz: stargzFiles,
};

/** The kinds whose files can exclude a fallback; the others always have one. */
export const KINDS_WITHOUT_FALLBACK: readonly NodeKind[] = ['containerd', 'crio'];

/**
 * How long containerd may take to connect to Entrepot before it asks the registry itself. Its default is 30 s, for each
 * layer, so an unreachable mirror would cost minutes for each pull. Versions that do not know the key ignore it.
 */
const DIAL_TIMEOUT = '500ms';

/** The host of Docker Hub's registry API; docker.io is its website. */
const DOCKER_HUB_HOST = 'registry-1.docker.io';

/** The names of a registry's files for containerd, in its folder. */
export const HOSTS_FILE = 'hosts.toml';

/**
 * Not `.crt`: containerd without a hosts.toml, and Docker in any case, would trust such a file for the registry itself,
 * and containerd pulls nothing if it is removed between its listing and its reading.
 */
export const CA_FILE = 'entrepot-ca.pem';

/** The first line of a CA file whose name does not show that Entrepot wrote it. PEM parsers skip such lines. */
const CA_HEADING = '# The CA of Entrepot, written by entrepot hosts.\n';

/** The first line of every file that Entrepot wrote as a whole, in any version. */
const OWN_HEADING = /^# (?:Images (?:of \S+ )?through|The CA of) Entrepot\b/;

/** The second line of one that is kept up to date, in any version. */
const KEPT_LINE = '# Kept up to date by entrepot hosts --watch: changes are lost.';

/** The files for a kind of node. */
export function nodeFiles(kind: NodeKind, options: NodeFilesOptions): NodeFile[] {
  return WRITERS[kind](options);
}

/** Whether `text` is a supported kind of node. */
export function isNodeKind(text: string): text is NodeKind {
  return Object.hasOwn(WRITERS, text);
}

/** Whether Entrepot wrote the whole file. */
export function isOwn(existing: string): boolean {
  return OWN_HEADING.test(existing);
}

/** Whether it did so for as long as `entrepot hosts --watch` runs. */
export function isKept(existing: string): boolean {
  return isOwn(existing) && existing.split('\n', 2)[1] === KEPT_LINE;
}

/** Whether `existing` may be replaced by `file` as a whole: Entrepot wrote it, or the content is the same. */
export function isReplaceable(existing: string, file: NodeFile): boolean {
  const isSame = existing === file.text || CA_HEADING + existing === file.text;
  return isOwn(existing) || isSame || basename(file.path) === CA_FILE;
}

function containerdFiles(options: NodeFilesOptions): NodeFile[] {
  return hostsFiles(options, name => {
    // containerd's folder for host:port is host_port_, since not every file system allows a colon.
    const folder = name.replace(/:(\d+)$/, '_$1_');
    return [folder, `/etc/containerd/certs.d/${folder}`];
  });
}

/**
 * containerd adds `?ns=` with the registry's name, so one URL serves all registries. `server` is used after the hosts,
 * and containerd 1.7 requires a host. Only the two capabilities that every version knows; a mirror cannot be pushed to.
 * `place` returns the folder of a registry, as written and on the node.
 */
function hostsFiles(
  { serverUrl, upstreams, fallback = true, ca, kept = false }: NodeFilesOptions,
  place: (name: string) => readonly [path: string, place: string],
): NodeFile[] {
  return upstreams.flatMap(upstream => {
    const { name } = upstream;
    const [path, folder] = place(name);
    const server = fallback ? fallbackOf(upstream) : parseRegistryUrl(serverUrl);
    const lines = [
      `# Images of ${name} through Entrepot${fallback ? REGISTRY_FALLBACK : NO_FALLBACK}.`,
      ...(kept ? [KEPT_LINE] : []),
      `server = ${quote(server.text)}`,
      // Otherwise containerd would append another /v2. Before the first table it applies to `server`.
      ...(hasPath(server) ? ['override_path = true'] : []),
      '',
      `[host.${quote(serverUrl)}]`,
      '  capabilities = ["pull", "resolve"]',
      `  dial_timeout = ${quote(DIAL_TIMEOUT)}`,
      // A relative path is relative to the file's own folder.
      ...(ca === undefined ? [] : [`  ca = ${quote(CA_FILE)}`]),
    ];
    const hosts = {
      path: `${path}/${HOSTS_FILE}`,
      place: `${folder}/${HOSTS_FILE}`,
      text: `${lines.join('\n')}\n`,
    };
    // First: containerd pulls nothing if the CA that hosts.toml names is not there.
    return [...caFiles(ca, `${path}/${CA_FILE}`, `${folder}/${CA_FILE}`), hosts];
  });
}

function caFiles(ca: string | undefined, path: string, place: string): NodeFile[] {
  return ca === undefined ? [] : [{ path, place, text: ca }];
}

/** The same for programs that find it by the server's name. A rotated CA replaces it, but never a file that others wrote. */
function namedCaFiles(host: string, folder: string, ca: string | undefined): NodeFile[] {
  const path = `certs.d/${host}/ca.crt`;
  return caFiles(ca && CA_HEADING + ca, path, `${folder}/${path}`);
}

/**
 * The registry's URL for nodes. Entrepot may use plain HTTP to an internal address; a node that did the same, or
 * allowed plain HTTP for the registry's name, would trust whoever answers. So plain HTTP is kept only for a registry
 * whose name is that very address.
 */
function fallbackOf({ name, url }: MirroredHost): RegistryUrl {
  const registry = parseRegistryUrl(url);
  const isSafe = url.startsWith('https:') || registry.host === name;
  return isSafe ? registry : parseRegistryUrl(`https://${name === DOCKER_HUB ? DOCKER_HUB_HOST : name}`);
}

/** The URL to which nodes fall back by https although Entrepot uses plain HTTP; `undefined` if they do not. */
export function httpsFallback(upstream: MirroredHost): string | undefined {
  const { text } = fallbackOf(upstream);
  return upstream.url.startsWith('http:') && text.startsWith('https:') ? text : undefined;
}

function hasPath({ text, api }: RegistryUrl): boolean {
  return text === api;
}

/**
 * The name by which CRI-O and podman reach a registry as a fallback: they expect the API at `/v2`, and a path is part
 * of the name, which cannot contain a colon. `undefined` if there is no such name.
 */
export function fallbackLocation(upstream: MirroredHost): string | undefined {
  const registry = fallbackOf(upstream);
  if (!hasPath(registry)) return upstream.name;
  const isName = registry.root === '' && !registry.prefix.includes(':');
  return isName ? `${registry.host}/${registry.prefix.slice(0, -1)}` : undefined;
}

/**
 * registries.conf v2 (CRI-O, podman, skopeo, buildah). These programs send no `ns`, so the registry's name is part of
 * the mirror's path, and every registry needs a `pathName` and, with a fallback, a `fallbackLocation`. They find the CA
 * by the server's name, so the file does not mention it.
 */
function crioFiles({ serverUrl, upstreams, fallback = true, ca }: NodeFilesOptions): NodeFile[] {
  const { host } = new URL(serverUrl);
  const blocks = upstreams.map(upstream => {
    const { name } = upstream;
    const mirror = tomlLocation(`${host}/${pathName(upstream)}`, serverUrl);
    const places = fallback
      ? `${tomlLocation(fallbackLocation(upstream) ?? name, fallbackOf(upstream).text)}\n[[registry.mirror]]\n${mirror}`
      : mirror;
    return `[[registry]]\nprefix = ${quote(name)}\n${places}`;
  });
  const heading = `# Images through Entrepot${fallback ? REGISTRY_FALLBACK : NO_FALLBACK}.\n\n`;
  const place = '/etc/containers/registries.conf.d/50-entrepot.conf';
  return [
    { path: 'registries.conf', place, text: heading + blocks.join('\n') },
    ...namedCaFiles(host, '/etc/containers', ca),
  ];
}

/** The location of a registry or mirror, without a scheme: plain HTTP has to be allowed explicitly. */
function tomlLocation(location: string, url: string): string {
  return `location = ${quote(location)}\n${url.startsWith('http:') ? 'insecure = true\n' : ''}`;
}

const REGISTRY_FALLBACK = ' first, from the registry itself if Entrepot has no answer';
const NO_FALLBACK = ' and from nowhere else';

/**
 * daemon.json for every version of Docker, which mirrors only Docker Hub, by its own paths; and hosts.toml for each
 * registry, which Docker 29 and later with the containerd image store reads.
 */
function dockerFiles(options: NodeFilesOptions): NodeFile[] {
  const { serverUrl, ca, mirrorsHub = true } = options;
  const { host } = new URL(serverUrl);
  return [
    ...(mirrorsHub ? [daemonFile(serverUrl)] : []),
    ...hostsFiles(options, name => [`certs.d/${name}`, `/etc/docker/certs.d/${name}`]),
    ...namedCaFiles(host, '/etc/docker', ca),
  ];
}

/** With permission for plain HTTP, which Docker needs beyond loopback. */
function daemonFile(serverUrl: string): NodeFile {
  const { host, hostname, protocol } = new URL(serverUrl);
  const isPlain = protocol === 'http:' && !/^(?:localhost|127\.[\d.]+|\[::1\])$/.test(hostname);
  const settings = {
    'registry-mirrors': [serverUrl],
    ...(isPlain ? { 'insecure-registries': [host] } : {}),
  };
  return {
    path: 'daemon.json',
    place: '/etc/docker/daemon.json',
    text: jsonText(settings, '  '),
    mergeInto: existing => mergeDaemon(existing, settings),
  };
}

/** Ours come first in the lists, since Docker tries mirrors in order. */
function mergeDaemon(existing: string, settings: Readonly<Record<string, readonly string[]>>): string {
  const found = existing.trim() === '' ? {} : parseJsonObject(existing);
  if (found === undefined) throw new Error('not a JSON object');
  const merged = Object.entries(settings).map(([key, ours]) => [key, first(ours, found[key], key)] as const);
  return jsonText(
    { ...found, ...Object.fromEntries(merged) },
    /^\{\r?\n([ \t]+)/.exec(existing)?.[1] ?? '  ',
  );
}

function jsonText(value: unknown, indent: string): string {
  return `${JSON.stringify(value, undefined, indent)}\n`;
}

/** `ours`, followed by the rest of the list under `key`. */
function first(ours: readonly string[], list: unknown, key: string): readonly unknown[] {
  if (list === undefined || list === null) return ours;
  if (!Array.isArray(list)) throw new Error(`${key} is not a list`);
  return [...ours, ...list.filter((each: unknown) => !ours.some(our => our === each))];
}

/**
 * k3s and RKE2 make containerd's hosts.toml of this. They fall back to the registry of that name by themselves; a
 * registry with a path has to be listed explicitly, and its path is used as it is.
 */
function k3sFiles({ serverUrl, upstreams, ca }: NodeFilesOptions): NodeFile[] {
  const { host } = new URL(serverUrl);
  const caPlace = `/etc/rancher/k3s/${CA_FILE}`;
  const tls = ca === undefined ? [] : [{ path: ['configs', host, 'tls', 'ca_file'], value: caPlace }];
  const endpoints = (found: unknown) =>
    upstreams.map(upstream => {
      const path = ['mirrors', upstream.name, 'endpoint'];
      const registry = fallbackOf(upstream);
      const ours = hasPath(registry) ? [serverUrl, registry.text] : [serverUrl];
      return { path, value: first(ours, valueAt(found, path), path.join('.')) };
    });
  const heading = `# Images through Entrepot${REGISTRY_FALLBACK}.\n`;
  return [
    {
      path: 'registries.yaml',
      place: '/etc/rancher/k3s/registries.yaml',
      text: heading + editYaml('', [...endpoints({}), ...tls]),
      mergeInto: existing => editYaml(existing, [...endpoints(parseYaml(existing).value), ...tls]),
    },
    ...caFiles(ca, CA_FILE, caPlace),
  ];
}

/** The last line of what is ours in the file of stargz-snapshotter, in any version. */
const STARGZ_END = '# End of what entrepot hosts has written.';

/** All of that, from the first line on. */
const STARGZ_OURS = new RegExp(`^# Images through Entrepot\\b[^]*?^${STARGZ_END}\n`, 'm');

/** It trusts the CAs of its system only, so the file does not mention Entrepot's. */
function stargzFiles({ upstreams, serverUrl }: NodeFilesOptions): NodeFile[] {
  const tables = upstreams.map(({ name, ownUrl = serverUrl }) => {
    const { host, protocol } = new URL(ownUrl);
    const insecure = protocol === 'http:' ? 'insecure = true\n' : '';
    return `[[resolver.host.${quote(name)}.mirrors]]\nhost = ${quote(host)}\n${insecure}`;
  });
  const heading = `# Images through Entrepot${REGISTRY_FALLBACK}.\n`;
  const text = [heading, ...tables, `${STARGZ_END}\n`].join('\n');
  return [
    {
      path: 'config.toml',
      place: '/etc/containerd-stargz-grpc/config.toml',
      text,
      mergeInto: existing => mergeStargz(existing, text),
    },
  ];
}

/** Replaces what is ours, or adds it at the end, where tables may follow any others. */
function mergeStargz(existing: string, ours: string): string {
  if (/^[^#\n]*\bresolver\b/m.test(existing.replace(STARGZ_OURS, ''))) {
    throw new Error('it has mirrors already (resolver): print ours without --out, and add them by hand');
  }
  if (STARGZ_OURS.test(existing)) return existing.replace(STARGZ_OURS, () => ours);
  return existing.trim() === '' ? ours : `${existing.trimEnd()}\n\n${ours}`;
}

function valueAt(value: unknown, path: readonly string[]): unknown {
  return path.reduce((node, key) => (isJsonObject(node) ? node[key] : undefined), value);
}

/** A basic string of TOML. Hosts and URLs contain nothing that JSON escapes differently. */
function quote(text: string): string {
  return JSON.stringify(text);
}
