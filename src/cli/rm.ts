import { type Command, CONFIG_OPTION, EXIT } from './command.ts';
import { withParts } from './with-parts.ts';

/** `entrepot rm`: forget mirrored content. */
export const rm: Command = {
  name: 'rm',
  summary: 'forget mirrored content; the next pull fetches it again',
  description: 'Forgets a tag, a digest or a whole repository of a mirror; the next pull fetches it again.',
  arguments: [{ name: '<reference>', description: 'image reference, such as docker.io/library/nginx:1.27' }],
  options: [CONFIG_OPTION],
  examples: [
    ['entrepot rm docker.io/library/nginx:1.27', 'forget this tag'],
    ['entrepot rm docker.io/library/nginx', 'forget the repository'],
  ],
  run: async (input, io) => {
    const [reference = ''] = input.arguments;
    const wasHeld = await withParts(input, io, parts => parts.remove(reference));
    io.out(`${reference}: ${wasHeld ? 'forgotten' : 'nothing of it is held'}\n`);
    return wasHeld ? EXIT.done : EXIT.failed;
  },
};
