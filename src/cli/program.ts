import type { CommandTree } from './command-tree.ts';
import type { Command, ExitCode, Io } from './command.ts';
import { exitCodeOf, failureText } from './failure.ts';
import { Parser, type ProgramText } from './parser.ts';
import { readVersion } from '../compose/version.ts';
import { terminalText } from '../ops/fields-text.ts';
import { version } from './version.ts';

/** `tree` returns all commands of the program. */
type Load = (tree: () => Promise<CommandTree>) => Promise<Command>;

/** In the order of the help. A command is loaded when it is used, since most need much that others do not. */
const COMMANDS: readonly (readonly [name: string, load: Load])[] = [
  ['serve', async () => (await import('./serve.ts')).serve],
  ['hosts', async () => (await import('./hosts.ts')).hosts],
  ['refresh', async () => (await import('./refresh.ts')).refresh],
  ['rm', async () => (await import('./rm.ts')).rm],
  ['images', async () => (await import('./images.ts')).images],
  ['inspect', async () => (await import('./inspect.ts')).inspect],
  ['pin', async () => (await import('./pin.ts')).pin],
  ['unpin', async () => (await import('./pin.ts')).unpin],
  ['gc', async () => (await import('./gc.ts')).gc],
  ['scrub', async () => (await import('./scrub.ts')).scrub],
  ['backup', async () => (await import('./backup.ts')).backup],
  ['restore', async () => (await import('./restore.ts')).restore],
  ['migrate', async () => (await import('./migrate.ts')).migrateCommand],
  ['rebuild', async () => (await import('./rebuild.ts')).rebuild],
  ['pull', async () => (await import('./pull.ts')).pull],
  ['check', async () => (await import('./check.ts')).check],
  ['export', async () => (await import('./export.ts')).exportCommand],
  ['have', async () => (await import('./have.ts')).have],
  ['import', async () => (await import('./import.ts')).importCommand],
  ['explain', async () => (await import('./explain.ts')).explain],
  ['notify', async () => (await import('./notify.ts')).notify],
  ['status', async () => (await import('./status.ts')).status],
  ['tenants', async () => (await import('./tenants.ts')).tenants],
  ['tenant add', async () => (await import('./tenant-add.ts')).tenantAdd],
  ['tenant secret', async () => (await import('./tenant-secret.ts')).tenantSecret],
  ['tenant rotate', async () => (await import('./tenant-secret.ts')).tenantRotate],
  ['tenant revoke', async () => (await import('./tenant-revoke.ts')).tenantRevoke],
  ['tenant adopt', async () => (await import('./tenant-add.ts')).tenantAdopt],
  ['tenant remove', async () => (await import('./tenant-remove.ts')).tenantRemove],
  ['credential-provider', async () => (await import('./credential-provider.ts')).credentialProvider],
  ['config show', async () => (await import('./config-show.ts')).configShow],
  ['config check', async () => (await import('./config-check.ts')).configCheck],
  ['config schema', async () => (await import('./config-schema.ts')).configSchema],
  ['config variables', async () => (await import('./config-variables.ts')).configVariables],
  ['completion', async tree => (await import('./completion.ts')).completion(tree)],
  ['version', async () => version],
];

/** Groups of commands with two words. */
const GROUPS: Readonly<Record<string, string>> = {
  tenant: 'add and remove tenants, and issue credentials to them',
  config: 'show and check the configuration',
};

const EXAMPLES = [
  ['entrepot serve', 'serve on http://127.0.0.1:5000 with the defaults'],
  ['entrepot serve --config /etc/entrepot.yaml', 'serve with this configuration'],
  ['entrepot hosts containerd --out /etc/containerd/certs.d', 'point this node to it'],
] as const;

/** The texts of the program's own help. */
const TEXT: ProgramText = {
  description: 'A local OCI registry that mirrors others, for nodes that pull the same images.',
  version: readVersion(),
  groups: GROUPS,
  examples: EXAMPLES,
  exitCodes:
    '0 done, 1 failed, 2 wrong usage or configuration, 130 stopped by Ctrl-C,\n' +
    '141 the reader of the output is gone, 143 stopped by SIGTERM',
};

/**
 * Runs a command line (without node and the script) and returns the exit code. An error of the command becomes a
 * message. The process may run another one afterwards: the command has closed everything that it opened.
 */
export async function runProgram(typed: readonly string[], streams: Io): Promise<ExitCode> {
  const argv = withHelpOption(typed);
  const io = withoutControls(streams);
  try {
    return await new Parser(TEXT, await commandsFor(argv), io).run(argv);
  } catch (error) {
    io.err(`entrepot: ${await failureText(error)}\n`);
    return exitCodeOf(error);
  }
}

/** Names and platforms of images, and what upstreams say, come from strangers: terminals would obey control characters in them. */
function withoutControls(io: Io): Io {
  return {
    out: text => io.out(terminalText(text)),
    err: text => io.err(terminalText(text)),
    clear: lines => io.clear?.(lines),
  };
}

/**
 * Turns `help tenant add` and `tenant help add` into `tenant add --help`, whatever follows. Of unknown words only the name is
 * left, to be refused: nothing is run.
 */
function withHelpOption(argv: readonly string[]): readonly string[] {
  const at = Object.hasOwn(GROUPS, argv[0] ?? '') ? 1 : 0;
  if (argv[at] !== 'help') return argv;
  const [first = '', second = ''] = argv.toSpliced(at, 1);
  if (first === '') return ['--help'];
  const isGroup = Object.hasOwn(GROUPS, first);
  const words = isGroup && second !== '' ? [first, second] : [first];
  const isKnown = (isGroup && second === '') || COMMANDS.some(([known]) => known === words.join(' '));
  return isKnown ? [...words, '--help'] : words;
}

/** The command that is named; all of them for help and for an unknown one, none for the version. */
async function commandsFor([first = '', second = '']: readonly string[]): Promise<readonly Command[]> {
  if (first === '--version') return [];
  const typed = COMMANDS.filter(([name]) => name === first || name === `${first} ${second}`);
  return loaded(typed.length > 0 ? typed : COMMANDS);
}

function loaded(commands: typeof COMMANDS): Promise<readonly Command[]> {
  return Promise.all(commands.map(([, load]) => load(readTree)));
}

async function readTree(): Promise<CommandTree> {
  return new Parser(TEXT, await loaded(COMMANDS), { out: () => {}, err: () => {} }).tree();
}
