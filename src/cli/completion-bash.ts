import { type CommandTree, everyCommand, quoted, valueKind } from './command-tree.ts';

/**
 * The completion script for bash 3.2 (that of macOS) and later. It follows the words before the cursor to their
 * command, and to an option that still needs its value.
 */
export function bashScript(tree: CommandTree): string {
  const all = everyCommand(tree);
  const program = tree.name;
  const children = all.flatMap(({ path }) => (path.length === 0 ? [] : [quoted(path.join(' '))]));
  return `# bash completion for ${program}, made by: ${program} completion bash

_${program}() {
  local IFS=$' \\t\\n' word at command='' value=''
  for ((at = 1; at < COMP_CWORD; at++)); do
    word=\${COMP_WORDS[at]}
    # bash takes --option=value apart.
    [[ $word == = ]] && continue
    if [[ -n $value && $word != -?* ]]; then
      [[ $value == *... ]] || value=''
      continue
    fi
    value=''
    if [[ $word == -?* ]]; then
      case "$command $word" in
${valueCases(all)}
      esac
    else
      case "\${command:+$command }$word" in
        ${children.join(' | \\\n        ')}) command="\${command:+$command }$word" ;;
      esac
    fi
  done

  local current=\${COMP_WORDS[COMP_CWORD]} options='' words='' kind=''
  [[ $current == = ]] && current=''
  case $command in
${wordCases(all)}
  esac
  # The values of an option with several go on to the next option.
  [[ $value == *... && $current == -* ]] && value=''
  if [[ -n $value ]]; then
    words='' kind=\${value%...}
  elif [[ $current == -* ]]; then
    words=$options kind=''
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  IFS=$'\\n'
  case $kind in
    file) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -f -- "$current")) ;;
    folder) compopt -o filenames 2>/dev/null; COMPREPLY+=($(compgen -d -- "$current")) ;;
  esac
}

complete -F _${program} ${program}
`;
}

type Commands = ReturnType<typeof everyCommand>;

/** Which options take a value, and of which kind; with dots if several may follow. */
function valueCases(all: Commands): string {
  const kinds = new Map<string, string[]>();
  for (const { path, command } of all) {
    for (const { names, value } of command.options) {
      if (value === undefined) continue;
      const key = value.isRepeated ? `${valueKind(value)}...` : valueKind(value);
      const typed = names.map(name => quoted(`${path.join(' ')} ${name}`));
      kinds.set(key, [...(kinds.get(key) ?? []), ...typed]);
    }
  }
  return [...kinds]
    .map(([kind, typed]) => `        ${typed.join(' | \\\n        ')}) value=${quoted(kind)} ;;`)
    .join('\n');
}

function wordCases(all: Commands): string {
  const lines = all.flatMap(({ path, command }) => {
    const options = command.options.flatMap(({ names }) => names);
    const words = [
      ...command.commands.map(({ name }) => name),
      ...command.arguments.flatMap(({ choices }) => choices),
    ];
    const kind = command.arguments.map(valueKind).find(each => each !== 'other') ?? '';
    if (options.length + words.length === 0) return [];
    const set = `options=${quoted(options.join(' '))} words=${quoted(words.join(' '))} kind=${quoted(kind)}`;
    return [`    ${quoted(path.join(' '))}) ${set} ;;`];
  });
  return lines.join('\n');
}
