import { printResult, type Command, CONFIG_OPTION, EXIT, jsonOption } from './command.ts';
import { withParts } from './with-parts.ts';

/** `entrepot refresh`: asks upstream now. */
export const refresh: Command = {
  name: 'refresh',
  summary: 'check a tag upstream now, and forget remembered failures',
  arguments: [{ name: '<reference>', description: 'image reference, such as docker.io/library/nginx:1.27' }],
  options: [jsonOption('image, digest'), CONFIG_OPTION],
  examples: [
    [
      'entrepot refresh docker.io/library/nginx:latest',
      'fetch what the tag refers to now, if it has changed',
    ],
    ['entrepot refresh ghcr.io/org/app:v2', 'after a push upstream, forget a remembered "not found"'],
  ],
  run: async (input, io) => {
    const [reference = ''] = input.arguments;
    const digest = await withParts(input, io, parts => parts.refresh(reference), {
      credentialsOf: { tenant: undefined },
    });
    printResult(input, io, { image: reference, digest }, `${reference}: ${digest}\n`);
    return EXIT.done;
  },
};
