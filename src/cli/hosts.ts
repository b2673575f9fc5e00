import { X509Certificate } from 'node:crypto';
import type { Config, ListenerConfig } from '../config/config.ts';
import { formatAddress } from '../config/fields.ts';
import { pathName } from '../config/path-name.ts';
import { readTextFile } from '../lib/text-file.ts';
import {
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type Input,
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
    'file beside it, and other files that Entrepot did not write are left alone. Without --config and ' +
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
    const [kind = ''] = input.arguments;
    if (!isNodeKind(kind)) {
      throw new CommandError(`expected one of ${NODE_KINDS.join(', ')}`, EXIT.usage);
    }
    const isForProvider = input.options['credentialProvider'] === true;
    const fallback = input.options['fallback'] !== false && !isForProvider;
    if (!fallback && !KINDS_WITHOUT_FALLBACK.includes(kind)) {
      const option = isForProvider ? '--credential-provider' : '--no-fallback';
      throw new CommandError(`${option}: ${HAS_FALLBACK}`, EXIT.usage);
    }
    const config = await configInForce(input, io, { keepsUser: true });
    const serverUrl = parseServer(textOption(input, 'server')) ?? ownUrl(config, kind);
    if (kind === 'docker') requireHubPort(config, serverUrl);
    const upstreams = chosenUpstreams(config, input);
    const unnameable = kind === 'crio' && upstreams.find(upstream => pathName(upstream) === undefined);
    if (unnameable) {
      throw new CommandError(`${unnameable.name}: ${NEEDS_ALIAS}`, EXIT.usage);
    }
    const unreachable =
      kind === 'crio' && fallback && upstreams.find(each => fallbackLocation(each) === undefined);
    if (unreachable) {
      throw new CommandError(`${unreachable.name}: ${unreachable.url}: ${HAS_NO_LOCATION}`, EXIT.usage);
    }
    const ca = serverUrl.startsWith('https:') ? await nodeCa(config, textOption(input, 'ca')) : undefined;
    const files = nodeFiles(kind, { serverUrl, upstreams, fallback, ca });
    for (const upstream of fallback ? upstreams : []) {
      const url = httpsFallback(upstream);
      if (url !== undefined) io.err(`${fallbackNote(upstream, url, kind)}\n`);
    }
    const folder = textOption(input, 'out');
    if (folder === undefined) {
      if (wantsJson(input)) {
        for (const { path, text } of files) io.out(`${JSON.stringify({ path, text })}\n`);
      } else {
        io.out(printed(files));
      }
      return EXIT.done;
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
    return EXIT.done;
  },
};

const HAS_FALLBACK =
  'Docker always falls back to Docker Hub; for k3s and RKE2, use their option --disable-default-registry-endpoint instead';

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
 * certificate has; for Docker that of a port for docker.io, if there is one.
 */
function ownUrl({ server, upstreams }: Config, kind: NodeKind): string {
  const scheme = server.tls === undefined ? 'http' : 'https';
  const isHubs = kind === 'docker' && ((port: ListenerConfig) => port.upstream === HUB);
  const hub = isHubs ? server.listen.find(isHubs) : undefined;
  if (hub === undefined && server.externalUrl !== undefined) {
    const url = new URL(server.externalUrl);
    const [alias] = kind === 'docker' ? (upstreams.get(HUB)?.hostAliases ?? []) : [];
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

const HUB = 'docker.io';

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

/** Throws CommandError if `serverUrl` is known not to map Docker Hub's paths to Docker Hub. */
function requireHubPort({ server, upstreams, defaultUpstream }: Config, serverUrl: string): void {
  const { host, hostname, port, protocol } = new URL(serverUrl);
  const aliases = upstreams.get(HUB)?.hostAliases ?? [];
  if (defaultUpstream === HUB || aliases.includes(host) || aliases.includes(hostname)) return;
  const number = Number(port || (protocol === 'https:' ? 443 : 80));
  const listener = server.listen.find(({ address }) => address.port === number);
  // An unknown port may be that of a proxy in front, which may map it to anything.
  if (listener === undefined || listener.upstream === HUB) return;
  throw new CommandError(
    `Docker uses Docker Hub's own paths, which ${serverUrl} does not map to Docker Hub: add a port ` +
      '(server.listen: [{address: …, upstream: docker.io}]) or a host name (upstreams.docker.io.hostAlias) for it, or ' +
      'set defaultUpstream: docker.io',
    EXIT.usage,
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
