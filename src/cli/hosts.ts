import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Config } from '../config/config.ts';
import { formatAddress } from '../config/fields.ts';
import { loadConfig } from '../config/load.ts';
import {
  type Command,
  CommandError,
  CONFIG_OPTION,
  EXIT,
  type Input,
  listOption,
  textOption,
} from './command.ts';
import {
  isNodeKind,
  KINDS_WITHOUT_FALLBACK,
  type MirroredHost,
  NODE_KINDS,
  type NodeFile,
  type NodeKind,
  nodeFiles,
  pathName,
} from './node-files.ts';

/** `entrepot hosts`: what a node needs to pull through Entrepot. */
export const hosts: Command = {
  name: 'hosts',
  summary: 'print or write the files that point a node at Entrepot',
  description:
    'Prints, or writes to a folder, the files that make a node pull through Entrepot: hosts.toml for containerd, ' +
    "registries.conf for CRI-O and podman, daemon.json for Docker, registries.yaml for k3s and RKE2. Docker's mirrors " +
    'are for Docker Hub only and need a port that belongs to it (server.listen: [{address: …, upstream: docker.io}]) ' +
    'or defaultUpstream: docker.io.',
  arguments: [{ name: '<kind>', description: 'kind of node', choices: NODE_KINDS }],
  options: [
    { flags: '--upstream <host...>', description: 'registries to mirror (default: all that are configured)' },
    { flags: '--server <url>', description: 'how nodes reach Entrepot (default: from the configuration)' },
    {
      flags: '--no-fallback',
      description: 'never ask the registries themselves (containerd and crio)',
    },
    {
      flags: '--credential-provider',
      description:
        "as --no-fallback, for nodes that get this registry's credentials (entrepot credential-provider): " +
        'the runtime would offer them to every server of the file',
    },
    { flags: '--out <folder>', description: 'write the files there instead of printing them' },
    CONFIG_OPTION,
  ],
  examples: [
    [
      'entrepot hosts containerd --server http://10.0.0.5:5000 --out /etc/containerd/certs.d',
      'one hosts.toml a registry',
    ],
    [
      'entrepot hosts containerd --server http://10.0.0.5:5000 --no-fallback --out /etc/containerd/certs.d',
      'nodes that ask nobody but Entrepot',
    ],
    [
      'entrepot hosts containerd --server https://entrepot.example:30500 --credential-provider --out /etc/containerd/certs.d',
      'nodes that log in to Entrepot with the tokens of pods',
    ],
    ['entrepot hosts crio --upstream docker.io quay.io', 'registries.conf for two registries'],
    [
      'entrepot hosts docker --server http://10.0.0.5:5002',
      'daemon.json, for a port that belongs to docker.io',
    ],
    ['entrepot hosts k3s > /etc/rancher/k3s/registries.yaml', 'all that are configured'],
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
    const config = await loadConfig({ file: textOption(input, 'config') });
    const serverUrl = parseServer(textOption(input, 'server')) ?? ownUrl(config, kind);
    const upstreams = chosenUpstreams(config, input);
    const unnameable = kind === 'crio' && upstreams.find(upstream => pathName(upstream) === undefined);
    if (unnameable) {
      throw new CommandError(`${unnameable.name}: ${NEEDS_ALIAS}`, EXIT.usage);
    }
    const files = nodeFiles(kind, { serverUrl, upstreams, fallback });
    const folder = textOption(input, 'out');
    if (folder === undefined) {
      io.out(printed(files));
      return EXIT.done;
    }
    for (const path of await writeFiles(files, folder)) {
      io.err(`wrote ${path}\n`);
    }
    return EXIT.done;
  },
};

const HAS_FALLBACK =
  'Docker always asks Docker Hub in the end; k3s and RKE2 are started with --disable-default-registry-endpoint instead';

const NEEDS_ALIAS =
  'CRI-O and podman ask for it by a path, where a port cannot stand: give it a name without one (upstreams.….aliases)';

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

/** What the configuration says of how we are reached; Docker needs a port of docker.io's own, if there is one. */
function ownUrl({ server }: Config, kind: NodeKind): string {
  const hub = kind === 'docker' ? server.listen.find(({ upstream }) => upstream === 'docker.io') : undefined;
  if (hub === undefined && server.externalUrl !== undefined) {
    return new URL(server.externalUrl).origin;
  }
  const port = hub ?? server.listen.find(({ upstream }) => upstream === undefined);
  if (port === undefined || WILDCARDS.has(port.address.host)) {
    throw new CommandError(
      'the configuration does not say how nodes reach Entrepot: give --server URL',
      EXIT.usage,
    );
  }
  return `http://${formatAddress(port.address)}`;
}

/** Every address of this machine, which is none that a node could use. */
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::']);

function chosenUpstreams({ upstreams }: Config, input: Input): MirroredHost[] {
  const names = listOption(input, 'upstream');
  const unknown = names.find(name => !upstreams.has(name));
  if (unknown !== undefined) {
    const known = [...upstreams.keys()].join(', ');
    throw new CommandError(`--upstream: ${unknown} is not configured; there are ${known}`, EXIT.usage);
  }
  return [...upstreams.values()].filter(({ name }) => names.length === 0 || names.includes(name));
}

/** One file as it is, so that it can be redirected; several each under the path where it belongs. */
function printed(files: readonly NodeFile[]): string {
  const [first, ...others] = files;
  return others.length === 0
    ? (first?.text ?? '')
    : files.map(({ place, text }) => `# ---- ${place} ----\n${text}`).join('\n');
}

async function writeFiles(files: readonly NodeFile[], folder: string): Promise<string[]> {
  const paths: string[] = [];
  for (const { path, text } of files) {
    const target = join(folder, path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, text);
    paths.push(target);
  }
  return paths;
}
