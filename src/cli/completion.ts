import type { CommandTree } from './command-tree.ts';
import { type Command, CommandError, EXIT } from './command.ts';
import { bashScript } from './completion-bash.ts';
import { fishScript } from './completion-fish.ts';
import { zshScript } from './completion-zsh.ts';

const SCRIPTS: Readonly<Record<string, (tree: CommandTree) => string>> = {
  bash: bashScript,
  zsh: zshScript,
  fish: fishScript,
};

/** `entrepot completion`: prints a shell completion script. `readTree` returns all commands of the program. */
export function completion(readTree: () => Promise<CommandTree>): Command {
  return {
    name: 'completion',
    summary: 'print a shell completion script',
    arguments: [{ name: '<shell>', description: 'name of the shell', choices: Object.keys(SCRIPTS) }],
    examples: [
      [
        'entrepot completion bash > /etc/bash_completion.d/entrepot',
        'for all users; or: source <(entrepot completion bash)',
      ],
      ['entrepot completion zsh > "${fpath[1]}/_entrepot"', 'into a folder where zsh looks for completions'],
      ['entrepot completion fish > ~/.config/fish/completions/entrepot.fish', 'for one user'],
    ],
    run: async (input, io) => {
      const [shell = ''] = input.arguments;
      const script = SCRIPTS[shell];
      if (script === undefined) throw new CommandError(`there is no completion for ${shell}`, EXIT.usage);
      io.out(script(await readTree()));
      return EXIT.done;
    },
  };
}
