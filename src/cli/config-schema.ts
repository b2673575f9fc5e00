import { fileJsonSchema } from '../config/schema.ts';
import { type Command, EXIT } from './command.ts';

/** `entrepot config schema`: prints the JSON schema, for editors and for config/entrepot.schema.json. */
export const configSchema: Command = {
  name: 'config schema',
  summary: 'print the JSON schema of the configuration file',
  examples: [['entrepot config schema > entrepot.schema.json', 'for editors that complete and check YAML']],
  run: async (_, io) => {
    io.out(`${JSON.stringify(fileJsonSchema(), null, 2)}\n`);
    return EXIT.done;
  },
};
