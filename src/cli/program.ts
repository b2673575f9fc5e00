import { Argument, Command as CommanderCommand, CommanderError, Option } from 'commander';
import { ArchiveError } from '../archive/archive-error.ts';
import { InvalidReference } from '../oci/reference.ts';
import type { CommandTree } from './command-tree.ts';
import { type Command, CommandError, EXIT, type ExitCode, type Input, type Io } from './command.ts';
import { readVersion, version } from './version.ts';

/** `tree`: all of the program. */
type Load = (tree: () => Promise<CommandTree>) => Promise<Command>;

/** In the order of the help. One is loaded when it is typed: most need much that the others do without. */
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
  ['rebuild', async () => (await import('./rebuild.ts')).rebuild],
  ['pull', async () => (await import('./pull.ts')).pull],
  ['check', async () => (await import('./check.ts')).check],
  ['export', async () => (await import('./export.ts')).exportCommand],
  ['have', async () => (await import('./have.ts')).have],
  ['import', async () => (await import('./import.ts')).importCommand],
  ['explain', async () => (await import('./explain.ts')).explain],
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

/** Words before a command that is named by two. */
const GROUPS: Readonly<Record<string, string>> = {
  tenant: 'add and remove tenants, and issue credentials to them',
  config: 'show and check the configuration',
};

/** For the list of commands: `withHelpOption` is what answers it. */
const HELP = ['help [command...]', 'print help for a command'] as const;

const EXAMPLES = [
  ['entrepot serve', 'serve on http://127.0.0.1:5000 with the defaults'],
  ['entrepot serve --config /etc/entrepot.yaml', 'serve as the file says'],
  ['entrepot hosts containerd --out /etc/containerd/certs.d', 'point this node at it'],
] as const;

const EXIT_CODES = '\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 stopped by Ctrl-C\n';

/** Runs what was typed (without node and the script) and returns the exit code. */
export async function runProgram(typed: readonly string[], io: Io): Promise<ExitCode> {
  const argv = withHelpOption(typed);
  let exitCode: ExitCode = EXIT.done;
  const program = buildProgram(await commandsFor(argv), io, async (command, input) => {
    exitCode = await command.run(input, io);
  });
  try {
    await program.parseAsync(argv, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) {
      return error.exitCode === 0 ? EXIT.done : EXIT.usage;
    }
    if (error instanceof CommandError) {
      io.err(`entrepot: ${error.message}\n`);
      return error.exitCode;
    }
    if (error instanceof ArchiveError || error instanceof InvalidReference) {
      io.err(`entrepot: ${error.message}\n`);
      return error instanceof ArchiveError ? EXIT.failed : EXIT.usage;
    }
    throw error;
  }
}

/** `help tenant add` and `tenant help add` are `tenant add --help`; words that name no command are left to be refused. */
function withHelpOption(argv: readonly string[]): readonly string[] {
  const at = Object.hasOwn(GROUPS, argv[0] ?? '') ? 1 : 0;
  if (argv[at] !== 'help') return argv;
  const words = argv.toSpliced(at, 1);
  const name = words.join(' ');
  const isKnown = name === '' || Object.hasOwn(GROUPS, name) || COMMANDS.some(([known]) => known === name);
  return isKnown ? [...words, '--help'] : words;
}

type Run = (command: Command, input: Input) => Promise<void>;

/** The command that is typed; all of them for help, and for what is none. */
async function commandsFor([first = '', second = '']: readonly string[]): Promise<readonly Command[]> {
  const typed = COMMANDS.filter(([name]) => name === first || name === `${first} ${second}`);
  return loaded(typed.length > 0 ? typed : COMMANDS);
}

function loaded(commands: typeof COMMANDS): Promise<readonly Command[]> {
  return Promise.all(commands.map(([, load]) => load(readTree)));
}

async function readTree(): Promise<CommandTree> {
  const nowhere = { out: () => {}, err: () => {} };
  return treeOf(buildProgram(await loaded(COMMANDS), nowhere, async () => {}));
}

function treeOf(command: CommanderCommand): CommandTree {
  const help = command.createHelp();
  const commands = help.visibleCommands(command).map(treeOf);
  return {
    name: command.name(),
    summary: help.subcommandDescription(command),
    // What help is asked about is any of the others.
    commands: commands.map(each => (each.name === 'help' ? { ...each, commands: wordsOf(commands) } : each)),
    options: help.visibleOptions(command).map(option => ({
      names: [option.short, option.long].flatMap(name => name ?? []),
      description: option.description,
      value: option.required
        ? {
            name: /<([^.>]+)/.exec(option.flags)?.[1] ?? '',
            isRepeated: option.variadic,
            choices: option.argChoices ?? [],
          }
        : undefined,
    })),
    arguments: command.registeredArguments.map(argument => ({
      name: argument.name(),
      isRepeated: argument.variadic,
      choices: argument.argChoices ?? [],
    })),
  };
}

function wordsOf(commands: readonly CommandTree[]): readonly CommandTree[] {
  const others = commands.filter(({ name }) => name !== 'help');
  return others.map(each => ({ ...each, commands: wordsOf(each.commands), options: [], arguments: [] }));
}

function buildProgram(commands: readonly Command[], io: Io, run: Run): CommanderCommand {
  const program = new CommanderCommand('entrepot')
    .description('A local OCI registry that mirrors others, for nodes that pull the same images.')
    .version(readVersion(), '--version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand(...HELP)
    .configureOutput({ writeOut: text => io.out(text), writeErr: text => io.err(text) })
    .exitOverride()
    .addHelpText('after', examplesText(EXAMPLES) + EXIT_CODES);
  for (const command of commands) {
    const [first = '', second] = command.name.split(' ');
    const parent = second === undefined ? program : groupOf(program, first);
    parent.addCommand(buildCommand(command, second ?? first, program, run));
  }
  return program;
}

/** The group of that name, which stands in the help where the first of its commands does. */
function groupOf(program: CommanderCommand, name: string): CommanderCommand {
  const group = program.commands.find(command => command.name() === name);
  return (
    group ??
    program
      .command(name)
      .helpCommand(...HELP)
      .description(GROUPS[name] ?? '')
  );
}

function buildCommand(command: Command, name: string, program: CommanderCommand, run: Run): CommanderCommand {
  const built = new CommanderCommand(name)
    .copyInheritedSettings(program)
    .summary(command.summary)
    .description(command.description ?? command.summary)
    .addHelpText('after', examplesText(command.examples));
  for (const { name: argument, description, choices } of command.arguments ?? []) {
    const declared = new Argument(argument, description);
    built.addArgument(choices === undefined ? declared : declared.choices(choices));
  }
  for (const { flags, description } of command.options ?? []) {
    const option = new Option(flags, description);
    built.addOption(flags.endsWith('<list>') ? option.argParser(together) : option);
  }
  return built.action(() =>
    run(command, {
      arguments: built.args,
      options: built.opts(),
      makesStore: command.makesStore,
    }),
  );
}

/** An option with a list that is given twice means both lists. */
function together(list: string, earlier: string | undefined): string {
  return earlier === undefined ? list : `${earlier},${list}`;
}

function examplesText(examples: Command['examples']): string {
  const lines = examples.map(([typed, meaning]) => `  $ ${typed}\n      ${meaning}`);
  return `\nExamples:\n${lines.join('\n')}\n`;
}
