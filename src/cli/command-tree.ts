/** The program as shells complete it: what may stand where on its command line. */
export interface CommandTree {
  /** One word; the program's own at the root. */
  readonly name: string;
  readonly summary: string;
  readonly commands: readonly CommandTree[];
  readonly options: readonly TreeOption[];
  readonly arguments: readonly TreeArgument[];
}

export interface TreeOption {
  /** As typed: `-o`, `--output`. */
  readonly names: readonly string[];
  readonly description: string;
  /** `undefined` for one that takes none. */
  readonly value: TreeArgument | undefined;
}

export interface TreeArgument {
  /** What the help calls it: `file`, `reference`. */
  readonly name: string;
  readonly isRepeated: boolean;
  /** Empty: anything. */
  readonly choices: readonly string[];
}

/** Every command with the words that lead to it; the root has none. */
export function everyCommand(
  tree: CommandTree,
  path: readonly string[] = [],
): readonly { readonly path: readonly string[]; readonly command: CommandTree }[] {
  const below = tree.commands.flatMap(command => everyCommand(command, [...path, command.name]));
  return [{ path, command: tree }, ...below];
}

/** What a shell completes a value with by itself. */
export function valueKind({ name }: TreeArgument): 'file' | 'folder' | 'other' {
  return name === 'file' || name === 'folder' ? name : 'other';
}

/** As much of a description as fits behind a word in a list. */
export function shortText(description: string): string {
  const [first = ''] = description.split(/; | \(|: |\. /);
  return first.length > MAX_TEXT ? `${first.slice(0, first.lastIndexOf(' ', MAX_TEXT))} …` : first;
}

const MAX_TEXT = 72;

/** `text` as one word of a shell: nothing in it is expanded. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
