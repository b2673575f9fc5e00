import { loadConfig } from '../config/load.ts';
import { showConfig } from '../config/show.ts';
import { type Command, CONFIG_OPTION, EXIT, textOption } from './command.ts';

/** `entrepot config show`: the configuration in force. */
export const configShow: Command = {
  name: 'config show',
  summary: 'print the configuration in force',
  description:
    'Prints the configuration in force as YAML: file, environment, presets and defaults. Passwords are never shown.',
  options: [CONFIG_OPTION],
  examples: [
    ['entrepot config show', 'the defaults and presets'],
    ['entrepot config show --config entrepot.yaml', 'what this file comes to'],
    ['ENTREPOT_LOG__LEVEL=debug entrepot config show', 'with a variable over it'],
  ],
  run: async (input, io) => {
    io.out(showConfig(await loadConfig({ file: textOption(input, 'config') })));
    return EXIT.done;
  },
};
