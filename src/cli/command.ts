/**
 * A command of the CLI. Commands do not know the parser: they get their arguments as an `Input`, write to an `Io`, and
 * return the exit code. Only `program.ts` and the parser know argv.
 */
export interface Command {
  /** As typed after `entrepot`: `serve`, `config show`. */
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** A longer description for the command's own help. */
  readonly description?: string;
  readonly arguments?: readonly Argument[];
  readonly options?: readonly Option[];
  /**
   * Whether it may create a store if there is none: only where the user named the store or created its folder, or
   * anywhere, as `serve` does. Other commands fail.
   */
  readonly makesStore?: 'where-named' | 'anywhere';
  /** For the command's help: what to type, and what it does. */
  readonly examples: readonly (readonly [typed: string, meaning: string])[];
  readonly run: (input: Input, io: Io) => Promise<ExitCode>;
}

/** An argument of a command. */
export interface Argument {
  /** `<reference>`, `<file...>`. */
  readonly name: string;
  readonly description: string;
  readonly choices?: readonly string[];
}

/** An option of a command. */
export interface Option {
  /** `--config <file>`, `--upstream <host...>`. */
  readonly flags: string;
  readonly description: string;
}

/**
 * 0: done. 1: failed. 2: wrong usage or configuration, and nothing was done. As in shells: 130 and 143: stopped by
 * Ctrl-C or SIGTERM; 141: the reader of the output is gone.
 */
export type ExitCode = number;

export const EXIT = { done: 0, failed: 1, usage: 2, interrupted: 130, unread: 141, terminated: 143 } as const;

/** The arguments and options of a command. */
export interface Input {
  readonly arguments: readonly string[];
  /** By long name in camelCase: `--config` is `config`. */
  readonly options: Readonly<Record<string, string | readonly string[] | boolean | undefined>>;
  /** As declared by the command. */
  readonly makesStore: Command['makesStore'];
}

/** Where a command writes. */
export interface Io {
  /** Standard output: the result. */
  out(text: string): void;
  /** Standard error: everything else. */
  err(text: string): void;
  /** Clears the last lines of standard error, if that is a terminal. */
  clear?(lines: number): void;
}

/** An error that the user can correct; shown as one sentence, without a stack. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly exitCode: ExitCode;

  constructor(message: string, exitCode: ExitCode = EXIT.failed, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** `--config`, which nearly every command has. */
export const CONFIG_OPTION: Option = {
  flags: '--config <file>',
  description: 'configuration file (default: $ENTREPOT_CONFIG, else none)',
};

/** `--json`, for every command that prints something. `members` describes the JSON on each line. */
export function jsonOption(members: string): Option {
  return { flags: '--json', description: `print JSON: ${members}` };
}

/** Prints the result: as one line of JSON if requested, otherwise as `text`. */
export function printResult(input: Input, io: Pick<Io, 'out'>, document: object, text: string): void {
  io.out(wantsJson(input) ? `${JSON.stringify(document)}\n` : text);
}

/** Whether `--json` was given. */
export function wantsJson({ options }: Input): boolean {
  return options['json'] === true;
}

/** Throws CommandError if JSON and the file would both go to standard output. */
export function requireFileForJson(input: Input, file: string): void {
  if (file === '-' && wantsJson(input))
    throw new CommandError('--json writes to standard output: name a file for the rest', EXIT.usage);
}

/** The value of an option. */
export function textOption({ options }: Input, name: string): string | undefined {
  const value = options[name];
  return typeof value === 'string' ? value : undefined;
}

/** The values of an option that may be repeated. */
export function listOption({ options }: Input, name: string): readonly string[] {
  const value = options[name];
  return Array.isArray(value) ? value.map(String) : [];
}
