import { showConfig, shownConfig } from '../config/show.ts';
import { CONFIG_OPTION, type Command, EXIT, jsonOption, printResult } from './command.ts';
import { configInForce } from './store-config.ts';

/** `entrepot config show`: prints the effective configuration. */
export const configShow: Command = {
  name: 'config show',
  summary: 'print the effective configuration',
  description:
    'Prints the effective configuration as YAML: file, environment, presets and defaults. Passwords are never shown, nor ' +
    'are the values in query strings of notification endpoints. ' +
    'Without --config and $ENTREPOT_CONFIG it is the configuration of the server that the same user runs on this machine, ' +
    'if any.',
  options: [jsonOption('the same keys and values'), CONFIG_OPTION],
  examples: [
    ['entrepot config show', 'of the running server, else the defaults and presets'],
    ['entrepot config show --config entrepot.yaml', 'the result of this file'],
    ['entrepot config show --json | jq .storage.path', 'one value, for a script'],
    ['ENTREPOT_LOG__LEVEL=debug entrepot config show', 'with an environment variable'],
  ],
  run: async (input, io) => {
    const config = await configInForce(input, io);
    printResult(input, io, shownConfig(config), showConfig(config));
    return EXIT.done;
  },
};
