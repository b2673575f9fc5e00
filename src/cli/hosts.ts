import { X509Certificate } from 'node:crypto';
import type { Config, ListenerConfig } from '../config/config.ts';
import { formatAddress } from '../config/fields.ts';
import { pathName } from '../config/path-name.ts';
import { readTextFile } from '../lib/text-file.ts';
import { DOCKER_HUB } from '../oci/reference.ts';
import {
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type Input,
  type Io,
  jsonOption,
  listOption,
  wantsJson,
  textOption,
} from './command.ts';
import {
  fallbackLocation,
  httpsFallback,
  isNodeKind,
  KINDS_WITHOUT_FALLBACK,
  type MirroredHost,
  NODE_KINDS,
  type NodeFile,
  type NodeKind,
  nodeFiles,
} from './node-files.ts';
import { writeNodeFiles } from './node-folder.ts';
import { configInForce } from './store-config.ts';

/** `entrepot hosts`: writes the files that a node needs to pull through Entrepot. */
export const hosts: Command = {
  name: 'hosts',
  summary: 'print or write the files that point a node at Entrepot',
  description:
    'Prints, or writes to a folder, the files that make a node pull through Entrepot: hosts.toml for containerd, ' +
    'registries.conf for CRI-O and podman, daemon.json and hosts.toml for Docker, registries.yaml for k3s and RKE2. ' +
    "The mirrors of Docker's daemon.json are for Docker Hub only and need a port that belongs to it (server.listen: " +
    '[{address: …, upstream: docker.io}]), a host name for it (upstreams.docker.io.hostAlias), or ' +
    'defaultUpstream: docker.io; Docker 29 and later with the containerd image store also read hosts.toml, for every ' +
    'registry. With --out, other settings in daemon.json and registries.yaml are kept, with a copy of the original ' +
    'file beside it, and other files that Entrepot did not write are left alone. Registries that this kind of node ' +
    'cannot mirror are reported and left out; the exit code is then 1, or 2 if no file is left. Without --config and ' +
    '$ENTREPOT_CONFIG the configuration is that of the server that the same user runs on this machine, if there is one.',
  arguments: [{ name: '<kind>', description: 'kind of node', choices: NODE_KINDS }],
  options: [
    { flags: '--upstream <host...>', description: 'registries to mirror (default: all configured ones)' },
    {
      flags: '--server <url>',
      description:
        'how nodes reach Entrepot (default: from externalUrl, serverNames or listen of the configuration)',
    },
    {
      flags: '--no-fallback',
      description: 'never contact the registries themselves (containerd and crio)',
    },
    {
      flags: '--credential-provider',
      description:
        "like --no-fallback, for nodes that use this registry's credentials (entrepot credential-provider): " +
        'the runtime would otherwise send them to every server in the file',
    },
    {
      flags: '--ca <file>',
      description:
        "PEM file of the CA that nodes have to trust for Entrepot's certificate (default: server.tls.certFile, if it " +
        'is self-signed)',
    },
    { flags: '--out <folder>', description: 'write the files there instead of printing them' },
    {
      flags: '--force',
      description: 'also replace files that Entrepot did not write; a copy of each is kept beside it',
    },
    jsonOption(
      "a line for each file, with path (relative to the runtime's folder) and text; with --out: path, changed, " +
        'backup (the copy of the original file, or null)',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    [
      'entrepot hosts containerd --server http://10.0.0.5:5000 --out /etc/containerd/certs.d',
      'one hosts.toml per registry',
    ],
    [
      'entrepot hosts containerd --server http://10.0.0.5:5000 --no-fallback --out /etc/containerd/certs.d',
      'nodes that contact only Entrepot',
    ],
    [
      'entrepot hosts containerd --server https://entrepot.example:30500 --credential-provider --out /etc/containerd/certs.d',
      'nodes that log in to Entrepot with pod tokens',
    ],
    ['entrepot hosts crio --upstream docker.io quay.io', 'registries.conf for two registries'],
    [
      'entrepot hosts docker --server http://10.0.0.5:5002',
      'daemon.json, for a port that belongs to docker.io',
    ],
    ['entrepot hosts k3s --out /etc/rancher/k3s', 'all configured registries, merged into registries.yaml'],
  ],
  run: async (input, io) => {
    const kind = chosenKind(input);
    const fallback = hasFallback(input, kind);
    const config = await configInForce(input, io, { keepsUser: true });
    const chosen = chosenUpstreams(config, input);
    const hub = kind === 'docker' ? chosen.find(({ name }) => name === DOCKER_HUB) : undefined;
    const serverUrl = parseServer(textOption(input, 'server')) ?? ownUrl(config, hub !== undefined);
    const unserved = hub && hubPathsFault(config, serverUrl);
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
    const ca = serverUrl.startsWith('https:') ? await nodeCa(config, textOption(input, 'ca')) : undefined;
    const mirrorsHub = hub !== undefined && unserved === undefined;
    const files = nodeFiles(kind, { serverUrl, upstreams, fallback, ca, mirrorsHub });
    for (const upstream of fallback ? upstreams : []) {
      const url = httpsFallback(upstream);
      if (url !== undefined) notes.push(fallbackNote(upstream, url, kind));
    }
    try {
      await present(files, input, io);
    } finally {
      for (const note of notes) io.err(`${note}\n`);
    }
    return omitted.size > 0 ? EXIT.failed : EXIT.done;
  },
};

function chosenKind(input: Input): NodeKind {
  const [kind = ''] = input.arguments;
  if (!isNodeKind(kind)) throw new CommandError(`expected one of ${NODE_KINDS.join(', ')}`, EXIT.usage);
  return kind;
}

function hasFallback({ options }: Input, kind: NodeKind): boolean {
  const isForProvider = options['credentialProvider'] === true;
  const fallback = options['fallback'] !== false && !isForProvider;
  if (!fallback && !KINDS_WITHOUT_FALLBACK.includes(kind)) {
    const option = isForProvider ? '--credential-provider' : '--no-fallback';
    throw new CommandError(`${option}: ${HAS_FALLBACK}`, EXIT.usage);
  }
  return fallback;
}

/** Prints the files, or writes them with --out. */
async function present(files: readonly NodeFile[], input: Input, io: Io): Promise<void> {
  const folder = textOption(input, 'out');
  if (folder === undefined) {
    if (wantsJson(input)) for (const { path, text } of files) io.out(`${JSON.stringify({ path, text })}\n`);
    else io.out(printed(files));
    return;
  }
  const written = await writeNodeFiles(files, folder, { force: input.options['force'] === true });
  for (const { path, backup, isChanged } of written) {
    if (wantsJson(input)) {
      io.out(`${JSON.stringify({ path, changed: isChanged, backup: backup ?? null })}\n`);
    }
    io.err(
      isChanged
        ? `wrote ${path}${backup === undefined ? '' : ` (before: ${backup})`}\n`
        : `unchanged: ${path}\n`,
    );
  }
}

/** Why CRI-O and podman cannot mirror the registry; `undefined` if they can. */
function crioFault(upstream: MirroredHost, fallback: boolean): string | undefined {
  if (pathName(upstream) === undefined) return NEEDS_ALIAS;
  const isReachable = !fallback || fallbackLocation(upstream) !== undefined;
  return isReachable ? undefined : `${upstream.url}: ${HAS_NO_LOCATION}`;
}

const HAS_FALLBACK =
  'Docker always falls back to Docker Hub; for k3s and RKE2, use their option --disable-default-registry-endpoint instead';

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

function parseServer(text: string | undefined): string | undefined {
  if (text === undefined) {
    return undefined;
  }
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.pathname !== '/' || url.username !== '') {
    throw new CommandError(
      '--server: expected a URL such as http://10.0.0.5:5000, without a path',
      EXIT.usage,
    );
  }
  return url.origin;
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

function chosenUpstreams({ upstreams }: Config, input: Input): MirroredHost[] {
  const names = listOption(input, 'upstream');
  const unknown = names.find(name => !upstreams.has(name));
  if (unknown !== undefined) {
    const known = [...upstreams.keys()].join(', ');
    throw new CommandError(`--upstream: ${unknown} is not configured; configured are ${known}`, EXIT.usage);
  }
  return [...upstreams.values()].filter(({ name }) => names.length === 0 || names.includes(name));
}

/** A single file as it is, so that it can be redirected; several with their paths as headings. */
function printed(files: readonly NodeFile[]): string {
  const [first, ...others] = files;
  return others.length === 0
    ? (first?.text ?? '')
    : files.map(({ place, text }) => `# ---- ${place} ----\n${text}`).join('\n');
}
