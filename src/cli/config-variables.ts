import { environmentVariables } from '../config/environment.ts';
import { fileJsonSchema } from '../config/schema.ts';
import { printResult, type Command, EXIT, jsonOption } from './command.ts';

/** `entrepot config variables`: lists the environment variables of all options. */
export const configVariables: Command = {
  name: 'config variables',
  summary: 'list the environment variables that override the configuration file',
  description:
    'Lists the environment variables that override the configuration file, each with the key that it sets. ' +
    'Values are YAML; a map is merged over the file, anything else replaces what the file says.',
  examples: [
    ['ENTREPOT_SERVER__LISTEN=0.0.0.0:5000 entrepot serve', 'one value'],
    ["ENTREPOT_UPSTREAMS='{docker.io: {freshFor: 10m}}' entrepot serve", 'a map, merged'],
  ],
  options: [jsonOption('a line for each, with variable, key')],
  run: async (input, io) => {
    for (const [variable, path] of environmentVariables(fileJsonSchema())) {
      const key = path.join('.');
      printResult(input, io, { variable, key }, `${variable.padEnd(44)} ${key}\n`);
    }
    return EXIT.done;
  },
};
