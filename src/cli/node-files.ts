import { formatYaml } from '../lib/yaml.ts';

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
}

export interface MirroredHost {
  /** As image names spell it. */
  readonly name: string;
  /** Other names that Entrepot has for it. */
  readonly aliases: readonly string[];
  /** Where the registry itself answers: the node's fallback. */
  readonly url: string;
}

/** One file for the node, with the path at which its runtime looks for it. */
export interface NodeFile {
  /** Relative to the folder that the runtime reads: `docker.io/hosts.toml`. */
  readonly path: string;
  /** Where the file belongs on the node. */
  readonly place: string;
  readonly text: string;
}

const WRITERS: Readonly<Record<NodeKind, (options: NodeFilesOptions) => NodeFile[]>> = {
  containerd: containerdFiles,
  crio: crioFiles,
  docker: dockerFiles,
  k3s: k3sFiles,
};

/** The kinds whose file can say that there is no fallback; the others have it by themselves. */
export const KINDS_WITHOUT_FALLBACK: readonly NodeKind[] = ['containerd', 'crio'];

export function nodeFiles(kind: NodeKind, options: NodeFilesOptions): NodeFile[] {
  return WRITERS[kind](options);
}

export function isNodeKind(text: string): text is NodeKind {
  return Object.hasOwn(WRITERS, text);
}

/**
 * containerd sends `?ns=` with the registry's name, so one URL serves for all. `server` is asked after the hosts, and
 * containerd 1.7 takes no file without a host. Only the two capabilities that every version knows; a mirror is nowhere
 * to push to.
 */
function containerdFiles({ serverUrl, upstreams, fallback = true }: NodeFilesOptions): NodeFile[] {
  return upstreams.map(({ name, url }) => {
    // containerd's folder for host:port is host_port_, as a colon is no good in a path everywhere.
    const path = `${name.replace(/:(\d+)$/, '_$1_')}/hosts.toml`;
    const text = `# Images of ${name} through Entrepot${fallback ? REGISTRY_FALLBACK : NO_FALLBACK}.
server = ${quote(fallback ? url : serverUrl)}

[host.${quote(serverUrl)}]
  capabilities = ["pull", "resolve"]
`;
    return { path, place: `/etc/containerd/certs.d/${path}`, text };
  });
}

/** What a registry is called in a path, which holds no colon (distribution's grammar); undefined: nothing. */
export function pathName({ name, aliases }: MirroredHost): string | undefined {
  return [name, ...aliases].find(each => !each.includes(':'));
}

/**
 * registries.conf v2 (CRI-O, podman, skopeo, buildah): no `ns`, so the registry's name stands in the mirror's path. Each
 * needs a `pathName`.
 */
function crioFiles({ serverUrl, upstreams, fallback = true }: NodeFilesOptions): NodeFile[] {
  const blocks = upstreams.map(upstream => {
    const { name, url } = upstream;
    const mirror = tomlLocation(`${new URL(serverUrl).host}/${pathName(upstream)}`, serverUrl);
    const places = fallback ? `${tomlLocation(name, url)}\n[[registry.mirror]]\n${mirror}` : mirror;
    return `[[registry]]\nprefix = ${quote(name)}\n${places}`;
  });
  const heading = `# Images through Entrepot${fallback ? REGISTRY_FALLBACK : NO_FALLBACK}.\n\n`;
  const place = '/etc/containers/registries.conf.d/50-entrepot.conf';
  return [{ path: 'registries.conf', place, text: heading + blocks.join('\n') }];
}

/** Where a registry or mirror is, which names no scheme: that it is reached by plain HTTP has to be allowed. */
function tomlLocation(location: string, url: string): string {
  return `location = ${quote(location)}\n${url.startsWith('http:') ? 'insecure = true\n' : ''}`;
}

const REGISTRY_FALLBACK = ' first, from the registry itself if Entrepot has no answer';
const NO_FALLBACK = ' and from nowhere else';

/** Docker mirrors Docker Hub only, asks with plain Hub paths, and needs to be told of plain HTTP beyond loopback. */
function dockerFiles({ serverUrl }: NodeFilesOptions): NodeFile[] {
  const { host, hostname, protocol } = new URL(serverUrl);
  const isPlain = protocol === 'http:' && !/^(?:localhost|127\.[\d.]+|\[::1\])$/.test(hostname);
  const lines = [
    `  "registry-mirrors": [${quote(serverUrl)}]`,
    ...(isPlain ? [`  "insecure-registries": [${quote(host)}]`] : []),
  ];
  const text = `{\n${lines.join(',\n')}\n}\n`;
  return [{ path: 'daemon.json', place: '/etc/docker/daemon.json', text }];
}

/** k3s and RKE2 write containerd's hosts.toml from this. */
function k3sFiles({ serverUrl, upstreams }: NodeFilesOptions): NodeFile[] {
  const mirrors = Object.fromEntries(upstreams.map(({ name }) => [name, { endpoint: [serverUrl] }]));
  const heading = `# Images through Entrepot${REGISTRY_FALLBACK}.\n`;
  return [
    {
      path: 'registries.yaml',
      place: '/etc/rancher/k3s/registries.yaml',
      text: heading + formatYaml({ mirrors }),
    },
  ];
}

/** A basic string of TOML; what stands in it (hosts, URLs) has nothing to escape that JSON escapes otherwise. */
function quote(text: string): string {
  return JSON.stringify(text);
}
