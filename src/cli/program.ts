import { Argument, Command as CommanderCommand, CommanderError, Option } from 'commander';
import { ArchiveError } from '../archive/archive-error.ts';
import { InvalidReference } from '../oci/reference.ts';
import { type Command, CommandError, EXIT, type ExitCode, type Input, type Io } from './command.ts';
import { configCheck } from './config-check.ts';
import { configSchema } from './config-schema.ts';
import { configShow } from './config-show.ts';
import { configVariables } from './config-variables.ts';
import { check } from './check.ts';
import { credentialProvider } from './credential-provider.ts';
import { explain } from './explain.ts';
import { exportCommand } from './export.ts';
import { have } from './have.ts';
import { gc } from './gc.ts';
import { hosts } from './hosts.ts';
import { images } from './images.ts';
import { inspect } from './inspect.ts';
import { pin, unpin } from './pin.ts';
import { importCommand } from './import.ts';
import { pull } from './pull.ts';
import { refresh } from './refresh.ts';
import { rm } from './rm.ts';
import { scrub } from './scrub.ts';
import { serve } from './serve.ts';
import { tenantAdd, tenantAdopt } from './tenant-add.ts';
import { tenantRemove } from './tenant-remove.ts';
import { tenants } from './tenants.ts';
import { tenantRevoke } from './tenant-revoke.ts';
import { tenantRotate, tenantSecret } from './tenant-secret.ts';
import { readVersion } from './version.ts';

const COMMANDS: readonly Command[] = [
  serve,
  hosts,
  refresh,
  rm,
  images,
  inspect,
  pin,
  unpin,
  gc,
  scrub,
  pull,
  check,
  exportCommand,
  have,
  importCommand,
  explain,
  tenants,
  tenantAdd,
  tenantSecret,
  tenantRotate,
  tenantRevoke,
  tenantAdopt,
  tenantRemove,
  credentialProvider,
  configShow,
  configCheck,
  configSchema,
  configVariables,
];

/** Words before a command that is named by two. */
const GROUPS: Readonly<Record<string, string>> = {
  tenant: 'add and remove tenants, and issue credentials to them',
  config: 'show and check the configuration',
};

const EXAMPLES = [
  ['entrepot serve', 'serve on http://127.0.0.1:5000 with the defaults'],
  ['entrepot serve --config /etc/entrepot.yaml', 'serve as the file says'],
  ['entrepot hosts containerd --out /etc/containerd/certs.d', 'point this node at it'],
] as const;

const EXIT_CODES = '\nExit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 stopped by Ctrl-C\n';

/** Runs what was typed (`argv` without node and the script) and returns the exit code. */
export async function runProgram(argv: readonly string[], io: Io): Promise<ExitCode> {
  let exitCode: ExitCode = EXIT.done;
  const program = buildProgram(io, async (command, input) => {
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

type Run = (command: Command, input: Input) => Promise<void>;

function buildProgram(io: Io, run: Run): CommanderCommand {
  const program = new CommanderCommand('entrepot')
    .description('A local OCI registry that mirrors others, for nodes that pull the same images.')
    .version(readVersion(), '--version', 'print the version')
    .helpOption('--help', 'print help')
    .helpCommand(false)
    .configureOutput({ writeOut: text => io.out(text), writeErr: text => io.err(text) })
    .exitOverride()
    .addHelpText('after', examplesText(EXAMPLES) + EXIT_CODES);
  for (const command of COMMANDS) {
    const [first = '', second] = command.name.split(' ');
    const parent = second === undefined ? program : groupOf(program, first);
    parent.addCommand(buildCommand(command, second ?? first, program, run));
  }
  return program;
}

/** The group of that name, which stands in the help where the first of its commands does. */
function groupOf(program: CommanderCommand, name: string): CommanderCommand {
  const group = program.commands.find(command => command.name() === name);
  return group ?? program.command(name).description(GROUPS[name] ?? '');
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
    built.addOption(new Option(flags, description));
  }
  return built.action(() => run(command, { arguments: built.args, options: built.opts() }));
}

function examplesText(examples: Command['examples']): string {
  const lines = examples.map(([typed, meaning]) => `  $ ${typed}\n      ${meaning}`);
  return `\nExamples:\n${lines.join('\n')}\n`;
}
