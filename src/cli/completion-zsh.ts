import {
  type CommandTree,
  everyCommand,
  quoted,
  shortText,
  type TreeArgument,
  type TreeOption,
  valueKind,
} from './command-tree.ts';

/** The completion script for zsh: a function for each command, based on `_arguments`. */
export function zshScript(tree: CommandTree): string {
  const program = tree.name;
  const functions = everyCommand(tree).map(({ path, command }) => functionText([program, ...path], command));
  return `#compdef ${program}
# zsh completion for ${program}, made by: ${program} completion zsh

${functions.join('\n')}
# Read from fpath it is the function itself; else it is made known here.
if [[ $funcstack[1] == _${program} ]]; then
  _${program} "$@"
else
  compdef _${program} ${program}
fi
`;
}

function functionText(path: readonly string[], command: CommandTree): string {
  const name = `_${path.join('_').replaceAll('-', '_')}`;
  const options = command.options.map(optionSpec);
  if (command.commands.length === 0) {
    const specs = [...options, ...command.arguments.map(argumentSpec)];
    return `${name}() {\n  _arguments -s : \\\n    ${specs.join(' \\\n    ')}\n}\n`;
  }
  const commands = command.commands.map(each => quoted(`${each.name}:${escaped(shortText(each.summary))}`));
  const cases = command.commands.map(
    each => `    ${each.name}) ${name}_${each.name.replaceAll('-', '_')} ;;`,
  );
  return `${name}() {
  local curcontext="$curcontext" state line
  local -a commands
  typeset -A opt_args
  _arguments -C : \\
    ${[...options, "'1: :->command'", "'*:: :->rest'"].join(' \\\n    ')} && return
  if [[ $state == command ]]; then
    commands=(
      ${commands.join('\n      ')}
    )
    _describe -t commands command commands
    return
  fi
  case $line[1] in
${cases.join('\n')}
  esac
}
`;
}

/** An option that may be repeated does not exclude itself. */
function optionSpec({ names, description, value }: TreeOption): string {
  const text = `[${escaped(shortText(description))}]`;
  const taken = value === undefined ? '' : `:${escaped(value.name)}:${actionOf(value)}`;
  const spelt = names.map(name =>
    value === undefined ? name : name.startsWith('--') ? `${name}=` : `${name}+`,
  );
  const [only = '', ...others] = spelt;
  const repeated = value?.isRepeated === true ? '*' : '';
  if (others.length === 0) return quoted(repeated + only + text + taken);
  const excluded = repeated === '' ? quoted(`(${names.join(' ')})`) : quoted('*');
  return `${excluded}{${spelt.join(',')}}${quoted(text + taken)}`;
}

function argumentSpec(argument: TreeArgument, at: number): string {
  return quoted(`${argument.isRepeated ? '*' : at + 1}:${escaped(argument.name)}:${actionOf(argument)}`);
}

function actionOf(argument: TreeArgument): string {
  if (argument.choices.length > 0) return `(${argument.choices.join(' ')})`;
  return { file: '_files', folder: '_files -/', other: ' ' }[valueKind(argument)];
}

/** Escapes the characters that are special to `_arguments` and `_describe`. */
function escaped(text: string): string {
  return text.replace(/[\\:[\]]/g, '\\$&');
}
