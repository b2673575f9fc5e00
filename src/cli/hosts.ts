import { once } from 'node:events';
import { dirname } from 'node:path';
import { loadConfig } from '../config/load.ts';
import {
  CONFIG_OPTION,
  type Command,
  CommandError,
  EXIT,
  type ExitCode,
  type Input,
  type Io,
  jsonOption,
  listOption,
  textOption,
  wantsJson,
} from './command.ts';
import { interruptible } from './interruptible.ts';
import {
  isNodeKind,
  KINDS_WITHOUT_FALLBACK,
  NODE_KINDS,
  type NodeFile,
  type NodeKind,
} from './node-files.ts';
import { writeNodeFiles } from './node-folder.ts';
import { NodeWatch, type NodeWatchTeller } from './node-watch.ts';
import { configInForce } from './store-config.ts';
import { type NodeChoice, wantedNodeFiles } from './wanted-node-files.ts';

/** `entrepot hosts`: writes the files that a node needs to pull through Entrepot. */
export const hosts: Command = {
  name: 'hosts',
  summary: 'print or write the files that point a node at Entrepot',
  description:
    'Prints, or writes to a folder, the files that make a node pull through Entrepot: hosts.toml for containerd, ' +
    'registries.conf for CRI-O and podman, daemon.json and hosts.toml for Docker, registries.yaml for k3s and RKE2, ' +
    'config.toml for stargz-snapshotter, whose containerd needs its own files, too. ' +
    "The mirrors of Docker's daemon.json are for Docker Hub only and need a port that belongs to it (server.listen: " +
    '[{address: …, upstream: docker.io}]), a host name for it (upstreams.docker.io.hostAlias), or ' +
    'defaultUpstream: docker.io; Docker 29 and later with the containerd image store also read hosts.toml, for every ' +
    'registry. stargz-snapshotter needs such a port or host name for each registry. With --out, other settings in ' +
    'daemon.json, registries.yaml and config.toml are kept, with a copy of the original file beside it, and other files ' +
    'that Entrepot did not write are left alone. Registries that this kind of node cannot mirror are reported and left out; the exit code is then 1, or 2 if no file is left. Without --config and ' +
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
    {
      flags: '--resolve',
      description:
        'name Entrepot by the address that the name in its URL has here, for nodes that cannot resolve it, such as that ' +
        'of a Service; a certificate has to have that address',
    },
    { flags: '--out <folder>', description: 'write the files there instead of printing them' },
    {
      flags: '--watch',
      description:
        'keep the files of --out up to date until stopped (containerd only): write them again when --config, --ca or the ' +
        'address changes, and remove those of registries that are not configured any more; without a configuration, the ' +
        'presets are used',
    },
    {
      flags: '--remove-with <daemonset>',
      description:
        'with --watch, in a pod: when stopped, remove the files if this DaemonSet of its namespace is removed, and not ' +
        'if only the pod is replaced',
    },
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
    [
      'entrepot hosts containerd --server http://10.0.0.5:5000 --config nodes.yaml --out /etc/containerd/certs.d --watch',
      'a service on a node, which follows nodes.yaml',
    ],
    ['entrepot hosts crio --upstream docker.io quay.io', 'registries.conf for two registries'],
    [
      'entrepot hosts docker --server http://10.0.0.5:5002',
      'daemon.json, for a port that belongs to docker.io',
    ],
    ['entrepot hosts k3s --out /etc/rancher/k3s', 'all configured registries, merged into registries.yaml'],
    [
      'entrepot hosts stargz --upstream ghcr.io --server http://10.0.0.5:5003 --out /etc/containerd-stargz-grpc',
      'for lazy pulls, with a port that belongs to ghcr.io',
    ],
  ],
  run: async (input, io) => {
    const choice = choiceOf(input);
    if (choice.kept) return keepUpToDate(choice, input, io);
    if (textOption(input, 'removeWith') !== undefined)
      throw new CommandError('--remove-with needs --watch', EXIT.usage);
    if (input.options['force'] === true && textOption(input, 'out') === undefined)
      throw new CommandError('--force needs --out FOLDER: nothing is replaced otherwise', EXIT.usage);
    const config = await configInForce(input, io, { keepsUser: true });
    const wanted = await wantedNodeFiles(config, choice);
    if (wanted === undefined) throw new CommandError('--resolve: the name of the server cannot be resolved');
    try {
      await present(wanted.files, input, io);
    } finally {
      for (const note of wanted.notes) io.err(`${note}\n`);
    }
    return wanted.isPartial ? EXIT.failed : EXIT.done;
  },
};

function choiceOf(input: Input): NodeChoice {
  const kind = chosenKind(input);
  return {
    kind,
    upstreams: listOption(input, 'upstream'),
    serverUrl: parseServer(textOption(input, 'server')),
    resolves: input.options['resolve'] === true,
    fallback: hasFallback(input, kind),
    caFile: textOption(input, 'ca'),
    kept: input.options['watch'] === true,
  };
}

/** `--watch`. Ends when it is stopped. */
async function keepUpToDate(choice: NodeChoice, input: Input, io: Io): Promise<ExitCode> {
  const folder = textOption(input, 'out');
  if (choice.kind !== 'containerd' || folder === undefined) {
    throw new CommandError('--watch is for containerd, and needs --out FOLDER', EXIT.usage);
  }
  if (input.options['force'] === true) {
    throw new CommandError(
      '--force cannot be used with --watch: it would keep replacing what others write',
      EXIT.usage,
    );
  }
  const file = textOption(input, 'config');
  const { environment, origin } = await loadConfig({ file });
  const inputs = [origin.file, choice.caFile].filter(path => path !== undefined).map(path => dirname(path));
  const tell = tellerTo(input, io);
  const wanted = async () => wantedNodeFiles(await loadConfig({ file }), choice);
  const watch = new NodeWatch({ folder, inputs, wanted, tell });
  const daemonSet = textOption(input, 'removeWith');
  // Only then is a client of the cluster needed.
  const askOwner = async (name: string) => (await import('./pod-owner.ts')).ownerState(name, environment);
  return interruptible(async signal => {
    await watch.start();
    tell.note(`keeping the files in ${folder} up to date`);
    if (daemonSet !== undefined) {
      const { goes, why } = await askOwner(daemonSet);
      if (goes !== false)
        tell.note(`--remove-with: cannot see whether the DaemonSet is being removed: ${why}`);
    }
    await aborted(signal);
    await watch.close();
    if (daemonSet !== undefined) {
      const { goes, why } = await askOwner(daemonSet);
      tell.note(`the files ${goes === true ? 'are removed' : 'stay'}: ${why}`);
      if (goes === true) await watch.removeFiles();
    }
    return EXIT.done;
  });
}

/** Keeps the process running until then. */
async function aborted(signal: AbortSignal): Promise<void> {
  const alive = setInterval(() => {}, 2 ** 30);
  if (!signal.aborted) await once(signal, 'abort');
  clearInterval(alive);
}

function tellerTo(input: Input, io: Io): NodeWatchTeller {
  const json = (document: object) => {
    if (wantsJson(input)) io.out(`${JSON.stringify(document)}\n`);
  };
  return {
    written(path) {
      json({ path, changed: true, backup: null });
      io.err(`wrote ${path}\n`);
    },
    removed(path) {
      json({ path, removed: true });
      io.err(`removed ${path}\n`);
    },
    note: text => io.err(`${text}\n`),
  };
}

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

const HAS_FALLBACK =
  'Docker and stargz-snapshotter always fall back to the registry; for k3s and RKE2, use their option ' +
  '--disable-default-registry-endpoint instead';

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

/** A single file as it is, so that it can be redirected; several with their paths as headings. */
function printed(files: readonly NodeFile[]): string {
  const [first, ...others] = files;
  return others.length === 0
    ? (first?.text ?? '')
    : files.map(({ place, text }) => `# ---- ${place} ----\n${text}`).join('\n');
}
