import { basename } from 'node:path';
import { pathName } from '../config/path-name.ts';
import { isJsonObject, parseJsonObject } from '../lib/json.ts';
import { editYaml, parseYaml } from '../lib/yaml.ts';
import { parseRegistryUrl, type RegistryUrl } from '../oci/registry-url.ts';

/**
 * The files that point a node at Entrepot, for each kind of node; pure. `entrepot hosts` writes them, and the ones in
 * config/examples/ are made by it.
 */
export type NodeKind = (typeof NODE_KINDS)[number];

export const NODE_KINDS = ['containerd', 'crio', 'docker', 'k3s'] as const;

export interface NodeFilesOptions {
  /** How nodes reach Entrepot: `http://entrepot.example:5000`. */
  readonly serverUrl: string;
  /** The registries that nodes shall pull through it. */
  readonly upstreams: readonly MirroredHost[];
  /** Whether nodes go to the registry itself where Entrepot has no answer; true if left out. */
  readonly fallback?: boolean;
  /** PEM of the CA that signed Entrepot's certificate, where nodes do not trust it already. */
  readonly ca?: string | undefined;
}

export interface MirroredHost {
  /** As image names spell it. */
  readonly name: string;
  /** Other names that Entrepot has for it. */
  readonly aliases: readonly string[];
  /** Where Entrepot asks it: the node's fallback too, unless that is plain HTTP to another host. */
  readonly url: string;
}

/** One file for the node, with the path at which its runtime looks for it. */
export interface NodeFile {
  /** Relative to the folder that the runtime reads: `docker.io/hosts.toml`. */
  readonly path: string;
  /** Where the file belongs on the node. */
  readonly place: string;
  readonly text: string;
  /**
   * Of a file that also holds settings of others: `existing` with ours added, everything else kept in its order. Throws
   * for text that is not such a file. Where it is missing, the whole file is Entrepot's.
   */
  readonly mergeInto?: (existing: string) => string;
}

const WRITERS: Readonly<Record<NodeKind, (options: NodeFilesOptions) => NodeFile[]>> = {
  containerd: containerdFiles,
  crio: crioFiles,
  docker: dockerFiles,
  k3s: k3sFiles,
};

/** The kinds whose file can say that there is no fallback; the others have it by themselves. */
export const KINDS_WITHOUT_FALLBACK: readonly NodeKind[] = ['containerd', 'crio'];

/**
 * How long containerd may take to connect to Entrepot before it asks the registry itself. Its own default is 30 s, and it
 * connects anew for each layer, so a dead mirror would cost minutes a pull. Versions that do not know the key ignore it.
 */
const DIAL_TIMEOUT = '500ms';

/** The CA's file, in the folder of each registry's files. */
const CA_FILE = 'entrepot-ca.crt';

/** How a file that is Entrepot's as a whole begins, whichever version wrote it. */
const OWN_HEADING = /^# Images (?:of \S+ )?through Entrepot\b/;

export function nodeFiles(kind: NodeKind, options: NodeFilesOptions): NodeFile[] {
  return WRITERS[kind](options);
}

export function isNodeKind(text: string): text is NodeKind {
  return Object.hasOwn(WRITERS, text);
}

/** Whether `existing` may be replaced by `file` as a whole: Entrepot wrote it, or it says the same. */
export function isReplaceable(existing: string, file: NodeFile): boolean {
  return OWN_HEADING.test(existing) || existing === file.text || basename(file.path) === CA_FILE;
}

function containerdFiles(options: NodeFilesOptions): NodeFile[] {
  return hostsFiles(options, name => {
    // containerd's folder for host:port is host_port_, as a colon is not allowed in every file system.
    const folder = name.replace(/:(\d+)$/, '_$1_');
    return [folder, `/etc/containerd/certs.d/${folder}`];
  });
}

/**
 * containerd sends `?ns=` with the registry's name, so one URL serves for all. `server` is asked after the hosts, and
 * containerd 1.7 takes no file without a host. Only the two capabilities that every version knows; a mirror is nowhere
 * to push to. `place` gives the folder of a registry, as written and on the node.
 */
function hostsFiles(
  { serverUrl, upstreams, fallback = true, ca }: NodeFilesOptions,
  place: (name: string) => readonly [path: string, place: string],
): NodeFile[] {
  return upstreams.flatMap(upstream => {
    const { name } = upstream;
    const [path, folder] = place(name);
    const server = fallback ? fallbackOf(upstream) : parseRegistryUrl(serverUrl);
    const lines = [
      `# Images of ${name} through Entrepot${fallback ? REGISTRY_FALLBACK : NO_FALLBACK}.`,
      `server = ${quote(server.text)}`,
      // Else containerd would append a /v2 of its own. Before the first table it is about `server`.
      ...(hasPath(server) ? ['override_path = true'] : []),
      '',
      `[host.${quote(serverUrl)}]`,
      '  capabilities = ["pull", "resolve"]',
      `  dial_timeout = ${quote(DIAL_TIMEOUT)}`,
      // A relative path is looked up in the file's own folder.
      ...(ca === undefined ? [] : [`  ca = ${quote(CA_FILE)}`]),
    ];
    const hosts = {
      path: `${path}/hosts.toml`,
      place: `${folder}/hosts.toml`,
      text: `${lines.join('\n')}\n`,
    };
    return [hosts, ...caFiles(ca, `${path}/${CA_FILE}`, `${folder}/${CA_FILE}`)];
  });
}

function caFiles(ca: string | undefined, path: string, place: string): NodeFile[] {
  return ca === undefined ? [] : [{ path, place, text: ca }];
}

/**
 * Where a node asks the registry itself. Entrepot may reach it by plain HTTP at an internal address; a node that falls
 * back there, or allows plain HTTP for the registry's own name, would trust whoever answers. Plain HTTP is kept only for
 * a registry that is named by that very address.
 */
function fallbackOf({ name, url }: MirroredHost): RegistryUrl {
  const registry = parseRegistryUrl(url);
  const isSafe = url.startsWith('https:') || registry.host === name;
  return isSafe ? registry : parseRegistryUrl(`https://${name}`);
}

/** Whether nodes fall back to it by https though Entrepot reaches it by plain HTTP. */
export function fallsBackToHttps(upstream: MirroredHost): boolean {
  return upstream.url.startsWith('http:') && !fallbackOf(upstream).text.startsWith('http:');
}

function hasPath({ text, api }: RegistryUrl): boolean {
  return text === api;
}

/**
 * What CRI-O and podman call the registry that they fall back to: they look for an API nowhere but at `/v2`, and a path
 * is a part of names, which hold no colon. undefined: it cannot be said.
 */
export function fallbackLocation(upstream: MirroredHost): string | undefined {
  const registry = fallbackOf(upstream);
  if (!hasPath(registry)) return upstream.name;
  const isName = registry.root === '' && !registry.prefix.includes(':');
  return isName ? `${registry.host}/${registry.prefix.slice(0, -1)}` : undefined;
}

/**
 * registries.conf v2 (CRI-O, podman, skopeo, buildah): no `ns`, so the registry's name is part of the mirror's path. Each
 * needs a `pathName`, and with a fallback a `fallbackLocation`. The CA is not named in it: these programs look for it under the server's name.
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
    ...caFiles(ca, `certs.d/${host}/ca.crt`, `/etc/containers/certs.d/${host}/ca.crt`),
  ];
}

/** Where a registry or mirror is, which names no scheme: that it is reached by plain HTTP has to be allowed. */
function tomlLocation(location: string, url: string): string {
  return `location = ${quote(location)}\n${url.startsWith('http:') ? 'insecure = true\n' : ''}`;
}

const REGISTRY_FALLBACK = ' first, from the registry itself if Entrepot has no answer';
const NO_FALLBACK = ' and from nowhere else';

/**
 * daemon.json for every version, which mirrors Docker Hub only, by plain Hub paths, and has to allow plain HTTP beyond
 * loopback; and for Docker from 29 on with the containerd image store, which reads hosts.toml too, one for each registry.
 */
function dockerFiles(options: NodeFilesOptions): NodeFile[] {
  const { serverUrl, ca } = options;
  const { host, hostname, protocol } = new URL(serverUrl);
  const isPlain = protocol === 'http:' && !/^(?:localhost|127\.[\d.]+|\[::1\])$/.test(hostname);
  const settings = {
    'registry-mirrors': [serverUrl],
    ...(isPlain ? { 'insecure-registries': [host] } : {}),
  };
  return [
    {
      path: 'daemon.json',
      place: '/etc/docker/daemon.json',
      text: jsonText(settings, '  '),
      mergeInto: existing => mergeDaemon(existing, settings),
    },
    ...hostsFiles(options, name => [`certs.d/${name}`, `/etc/docker/certs.d/${name}`]),
    ...caFiles(ca, `certs.d/${host}/ca.crt`, `/etc/docker/certs.d/${host}/ca.crt`),
  ];
}

/** Ours come first in the lists: Docker asks mirrors in their order. */
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

/** `ours`, then what else the list under `key` holds. */
function first(ours: readonly string[], list: unknown, key: string): readonly unknown[] {
  if (list === undefined || list === null) return ours;
  if (!Array.isArray(list)) throw new Error(`${key} is not a list`);
  return [...ours, ...list.filter((each: unknown) => !ours.some(our => our === each))];
}

/**
 * k3s and RKE2 write containerd's hosts.toml from this. They fall back to the registry of that name by themselves; one that
 * is behind a path they have to be told of, and take its path as it is.
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

function valueAt(value: unknown, path: readonly string[]): unknown {
  return path.reduce((node, key) => (isJsonObject(node) ? node[key] : undefined), value);
}

/** A basic string of TOML; what it holds (hosts, URLs) has nothing to escape that JSON escapes otherwise. */
function quote(text: string): string {
  return JSON.stringify(text);
}
