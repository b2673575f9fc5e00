import { type CommandTree, everyCommand, shortText, type TreeArgument, valueKind } from './command-tree.ts';

/**
 * The completion script for fish: a line for each command, option and argument, with the words after which it applies.
 */
export function fishScript(tree: CommandTree): string {
  const program = tree.name;
  const all = everyCommand(tree);
  const paths = all.flatMap(({ path }) => (path.length === 0 ? [] : [quotedForFish(path.join(' '))]));
  return `# fish completion for ${program}, made by: ${program} completion fish

# Whether the words before the cursor name this command.
function __${program}_at
    set -l words (commandline --tokenize --current-process --cut-at-cursor)
    set -l command
    for word in $words[2..-1]
        if contains -- (string join -- ' ' $command $word) ${paths.join(' ')}
            set -a command $word
        end
    end
    test "$command" = "$argv[1]"
end

complete --command ${program} --no-files
${all.flatMap(({ path, command }) => linesOf(program, path.join(' '), command)).join('\n')}
`;
}

function linesOf(program: string, path: string, command: CommandTree): readonly string[] {
  const start = `complete --command ${program} --condition ${quotedForFish(`__${program}_at "${path}"`)}`;
  const described = (text: string) => `--description ${quotedForFish(shortText(text))}`;
  return [
    ...command.commands.map(({ name, summary }) => `${start} --arguments ${name} ${described(summary)}`),
    ...command.arguments.flatMap(argument => {
      const given = argumentsOf(argument);
      return given === '' ? [] : [`${start} ${given}`];
    }),
    ...command.options.map(({ names, description, value }) => {
      const flags = names.map(name =>
        name.startsWith('--') ? `--long-option ${name.slice(2)}` : `--short-option ${name.slice(1)}`,
      );
      const taken = value === undefined ? '' : ` --require-parameter ${argumentsOf(value)}`.trimEnd();
      return `${start} ${flags.join(' ')}${taken} ${described(description)}`;
    }),
  ];
}

/** The possible values, as options of `complete`. */
function argumentsOf(argument: TreeArgument): string {
  if (argument.choices.length > 0) return `--arguments ${quotedForFish(argument.choices.join(' '))}`;
  const given = { file: '--force-files', folder: "--arguments '(__fish_complete_directories)'", other: '' };
  return given[valueKind(argument)];
}

function quotedForFish(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
}
