import { loadConfig } from '../config/load.ts';
import { type Command, CONFIG_OPTION, EXIT, textOption } from './command.ts';

/** `entrepot config check`: is it right, and if not, what is wrong. */
export const configCheck: Command = {
  name: 'config check',
  summary: 'check a configuration and list all that is wrong with it',
  options: [CONFIG_OPTION],
  examples: [['entrepot config check --config entrepot.yaml', 'exit code 0 if it is right, 2 if not']],
  run: async (input, io) => {
    const { upstreams } = await loadConfig({ file: textOption(input, 'config') });
    io.out(`The configuration is right. It mirrors ${[...upstreams.keys()].join(', ')}.\n`);
    return EXIT.done;
  },
};
