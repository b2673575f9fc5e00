import { loadConfig } from '../config/load.ts';
import { showConfig, writtenConfig } from '../config/show.ts';
import { answer, type Command, CONFIG_OPTION, EXIT, jsonOption, textOption } from './command.ts';

/** `entrepot config show`: the configuration in force. */
export const configShow: Command = {
  name: 'config show',
  summary: 'print the configuration in force',
  description:
    'Prints the configuration in force as YAML: file, environment, presets and defaults. Passwords are never shown.',
  options: [jsonOption('the same keys and values'), CONFIG_OPTION],
  examples: [
    ['entrepot config show', 'the defaults and presets'],
    ['entrepot config show --config entrepot.yaml', 'what this file comes to'],
    ['entrepot config show --json | jq .storage.path', 'one value, for a script'],
    ['ENTREPOT_LOG__LEVEL=debug entrepot config show', 'with a variable over it'],
  ],
  run: async (input, io) => {
    const config = await loadConfig({ file: textOption(input, 'config') });
    answer(input, io, writtenConfig(config), showConfig(config));
    return EXIT.done;
  },
};
