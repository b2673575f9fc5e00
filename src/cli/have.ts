import { haveListBytes } from '../archive/have-list.ts';
import { writeFileAtomic } from '../lib/atomic-file.ts';
import { type Command, CONFIG_OPTION, EXIT, textOption } from './command.ts';
import { withParts } from './with-parts.ts';

/** `entrepot have`: what a sender may leave out. */
export const have: Command = {
  name: 'have',
  summary: 'list what is held here, so that a bundle for this registry can leave it out',
  description:
    'Lists the digests of all blobs that are held, private ones too. Carry the list to the connected side and give ' +
    'it to `entrepot export --have`; the bundle then holds only what is missing here.',
  options: [
    { flags: '-o, --output <file>', description: 'file to write (default: standard output)' },
    CONFIG_OPTION,
  ],
  examples: [['entrepot have -o HAVE.json', 'write the list']],
  run: async (input, io) => {
    const bytes = await withParts(input, io, ({ blobs, metadata }) => haveListBytes(blobs, metadata));
    const output = textOption(input, 'output') ?? '-';
    if (output === '-') io.out(Buffer.from(bytes).toString());
    else await writeFileAtomic(output, [bytes]);
    return EXIT.done;
  },
};
