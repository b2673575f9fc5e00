/** The commands of the program, as shell completions need them. */
export interface CommandTree {
  /** One word; at the root, the name of the program. */
  readonly name: string;
  readonly summary: string;
  readonly commands: readonly CommandTree[];
  readonly options: readonly TreeOption[];
  readonly arguments: readonly TreeArgument[];
}

/** An option of a command. */
export interface TreeOption {
  /** As typed: `-o`, `--output`. */
  readonly names: readonly string[];
  readonly description: string;
  /** `undefined` if it takes no value. */
  readonly value: TreeArgument | undefined;
}

/** An argument of a command, or the value of an option. */
export interface TreeArgument {
  /** As in the help: `file`, `reference`. */
  readonly name: string;
  readonly isRepeated: boolean;
  /** Empty if anything is allowed. */
  readonly choices: readonly string[];
}

/** All commands with the words that lead to them; none for the root. */
export function everyCommand(
  tree: CommandTree,
  path: readonly string[] = [],
): readonly { readonly path: readonly string[]; readonly command: CommandTree }[] {
  const below = tree.commands.flatMap(command => everyCommand(command, [...path, command.name]));
  return [{ path, command: tree }, ...below];
}

/** How a shell should complete a value. */
export function valueKind({ name }: TreeArgument): 'file' | 'folder' | 'other' {
  return name === 'file' || name === 'folder' ? name : 'other';
}

/** As much of a description as fits beside a word in a list. */
export function shortText(description: string): string {
  const [first = ''] = description.split(/; | \(|: |\. /);
  return first.length > MAX_TEXT ? `${first.slice(0, first.lastIndexOf(' ', MAX_TEXT))} …` : first;
}

const MAX_TEXT = 72;

/** `text` as one word of a shell, quoted. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
