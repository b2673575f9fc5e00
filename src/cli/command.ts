/**
 * What a command of the CLI is made of. Commands know nothing of the parser: they get what was typed as an `Input`,
 * write to an `Io`, and return the exit code. `program.ts` alone turns argv into that.
 */
export interface Command {
  /** As typed after `entrepot`: `serve`, `config show`. */
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** More for the command's own help. */
  readonly description?: string;
  readonly arguments?: readonly Argument[];
  readonly options?: readonly Option[];
  /**
   * It may begin a store where there is none: where somebody named the store or made its folder, or also in the default
   * place, as `serve` does. Any other says that there is none.
   */
  readonly makesStore?: 'where-named' | 'anywhere';
  /** Shown in the command's help: what to type, and what it does. */
  readonly examples: readonly (readonly [typed: string, meaning: string])[];
  readonly run: (input: Input, io: Io) => Promise<ExitCode>;
}

export interface Argument {
  /** `<reference>`, `<file...>`. */
  readonly name: string;
  readonly description: string;
  readonly choices?: readonly string[];
}

export interface Option {
  /** `--config <file>`, `--upstream <host...>`. */
  readonly flags: string;
  readonly description: string;
}

/**
 * 0: done. 1: failed. 2: what was typed, or the configuration, is wrong, and nothing was tried. 130, 143: stopped by
 * Ctrl-C or SIGTERM, 141: by the end of who read its output, as shells number it.
 */
export type ExitCode = number;

export const EXIT = { done: 0, failed: 1, usage: 2, interrupted: 130, unread: 141, terminated: 143 } as const;

/** What was typed. */
export interface Input {
  readonly arguments: readonly string[];
  /** By long name in camelCase: `--config` is `config`. */
  readonly options: Readonly<Record<string, string | readonly string[] | boolean | undefined>>;
  /** As the command says. */
  readonly makesStore: Command['makesStore'];
}

export interface Io {
  /** Standard output: what was asked for. */
  out(text: string): void;
  /** Standard error: everything else. */
  err(text: string): void;
}

/** Something that the person at the keyboard can put right; shown as one sentence, without a stack. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly exitCode: ExitCode;

  constructor(message: string, exitCode: ExitCode = EXIT.failed, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** `--config`, which nearly every command takes. */
export const CONFIG_OPTION: Option = {
  flags: '--config <file>',
  description: 'configuration file (default: $ENTREPOT_CONFIG, else none)',
};

/** `--json`, which every command takes that prints something. `members`: of each line, or of the one that there is. */
export function jsonOption(members: string): Option {
  return { flags: '--json', description: `print JSON: ${members}` };
}

/** What was asked for: one line of JSON if that is wanted, else `text`. */
export function answer(input: Input, io: Pick<Io, 'out'>, document: object, text: string): void {
  io.out(wantsJson(input) ? `${JSON.stringify(document)}\n` : text);
}

export function wantsJson({ options }: Input): boolean {
  return options['json'] === true;
}

/** CommandError where JSON would be mixed with the file that goes to standard output. */
export function requireFileForJson(input: Input, file: string): void {
  if (file === '-' && wantsJson(input))
    throw new CommandError('--json writes to standard output: name a file for the rest', EXIT.usage);
}

/** The option's one value. */
export function textOption({ options }: Input, name: string): string | undefined {
  const value = options[name];
  return typeof value === 'string' ? value : undefined;
}

/** The values of an option that may be repeated. */
export function listOption({ options }: Input, name: string): readonly string[] {
  const value = options[name];
  return Array.isArray(value) ? value.map(String) : [];
}
