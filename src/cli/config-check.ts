import { loadConfig } from '../config/load.ts';
import { silentLog } from '../lib/log.ts';
import { type Command, CONFIG_OPTION, EXIT, textOption } from './command.ts';

/** `entrepot config check`: is it right, and if not, what is wrong. */
export const configCheck: Command = {
  name: 'config check',
  summary: 'check a configuration and list all that is wrong with it',
  description:
    'Reads a configuration, and the passwords, certificates, keys and other files that it names, as serve does.',
  options: [CONFIG_OPTION],
  examples: [['entrepot config check --config entrepot.yaml', 'exit code 0 if it is right, 2 if not']],
  run: async (input, io) => {
    const config = await loadConfig({ file: textOption(input, 'config') });
    const { checkFiles } = await import('../wire-check.ts');
    await checkFiles(config, silentLog);
    io.out(`The configuration is right. It mirrors ${[...config.upstreams.keys()].join(', ')}.\n`);
    return EXIT.done;
  },
};
