import { Argument, Command as CommanderCommand, CommanderError, Option } from 'commander';
import type { CommandTree } from './command-tree.ts';
import { type Command, CommandError, EXIT, type ExitCode, type Io } from './command.ts';

/** The texts of the program's own help. */
export interface ProgramText {
  readonly description: string;
  readonly version: string;
  /** A summary of each group of commands that have two words. */
  readonly groups: Readonly<Record<string, string>>;
  readonly examples: Command['examples'];
  readonly exitCodes: string;
}

/** In the list of commands; `--help` answers it. */
const HELP = ['help [command...]', 'print help for a command'] as const;

/** Parses the command lines of `commands`; responds to help and wrong usage itself. */
export class Parser {
  readonly #io: Io;
  readonly #program: CommanderCommand;
  #exitCode: ExitCode = EXIT.done;

  constructor(text: ProgramText, commands: readonly Command[], io: Io) {
    this.#io = io;
    this.#program = new CommanderCommand('entrepot')
      .description(text.description)
      .version(text.version, '--version', 'print the version')
      .helpOption('-h, --help', 'print help')
      .helpCommand(...HELP)
      .showHelpAfterError(whereHelp())
      .configureOutput({
        writeOut: written => io.out(written),
        writeErr: written => io.err(written),
        outputError: (message, write) => write(message.replace(/^error: /, 'entrepot: ')),
      })
      .exitOverride()
      .addHelpText('after', `${examplesText(text.examples)}\nExit codes: ${text.exitCodes}\n`);
    for (const command of commands) {
      const [first = '', second] = command.name.split(' ');
      const parent = second === undefined ? this.#program : this.#group(first, text.groups);
      parent.addCommand(this.#build(command, second ?? first));
    }
  }

  /** Runs the command in `argv`. Rejects with the command's error, except for a CommandError. */
  async run(argv: readonly string[]): Promise<ExitCode> {
    try {
      await this.#program.parseAsync(argv, { from: 'user' });
      return this.#exitCode;
    } catch (error) {
      if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
      if (!(error instanceof CommandError)) throw error;
      this.#io.err(`entrepot: ${error.message}\n`);
      return error.exitCode;
    }
  }

  tree(): CommandTree {
    return treeOf(this.#program);
  }

  /** The group with that name, listed in help at the position of its first command. */
  #group(name: string, groups: ProgramText['groups']): CommanderCommand {
    const group = this.#program.commands.find(command => command.name() === name);
    return (
      group ??
      this.#program
        .command(name)
        .helpCommand(...HELP)
        .showHelpAfterError(whereHelp(name))
        .description(groups[name] ?? '')
    );
  }

  #build(command: Command, name: string): CommanderCommand {
    const built = new CommanderCommand(name)
      .copyInheritedSettings(this.#program)
      .showHelpAfterError(whereHelp(command.name))
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
    return built.action(async () => {
      const input = { arguments: built.args, options: built.opts(), makesStore: command.makesStore };
      this.#exitCode = await command.run(input, this.#io);
    });
  }
}

function treeOf(command: CommanderCommand): CommandTree {
  const help = command.createHelp();
  const commands = help.visibleCommands(command).map(treeOf);
  return {
    name: command.name(),
    summary: help.subcommandDescription(command),
    // The argument of help is any of the other commands.
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

/** An option with a list that is given twice means both lists. */
function together(list: string, earlier: string | undefined): string {
  return earlier === undefined ? list : `${earlier},${list}`;
}

/** Follows what is wrong with a command line. `name`: of the command or group. */
function whereHelp(name?: string): string {
  return `see \`${['entrepot', name, '--help'].filter(Boolean).join(' ')}\``;
}

function examplesText(examples: Command['examples']): string {
  const lines = examples.map(([typed, meaning]) => `  $ ${typed}\n      ${meaning}`);
  return `\nExamples:\n${lines.join('\n')}\n`;
}
