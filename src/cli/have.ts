import { haveListOf } from '../archive/have-list.ts';
import { writeFileAtomic } from '../lib/atomic-file.ts';
import { sizeText } from '../lib/units.ts';
import { countText } from './columns.ts';
import { type Command, CONFIG_OPTION, EXIT, textOption } from './command.ts';
import { requireOutsideStore } from './output-file.ts';
import { withStored } from './with-parts.ts';

/** `entrepot have`: lists the blobs that a sender may leave out. */
export const have: Command = {
  name: 'have',
  summary: 'list stored blobs, for bundles that leave them out',
  description:
    'Lists the digests of all stored blobs, including private ones. Carry the list to the connected side and pass ' +
    'it to `entrepot export --have`; the bundle then contains only what is missing here.',
  options: [
    { flags: '-o, --output <file>', description: 'file to write (default: standard output)' },
    CONFIG_OPTION,
  ],
  examples: [['entrepot have -o HAVE.json', 'write the list']],
  run: async (input, io) => {
    const output = textOption(input, 'output') ?? '-';
    const { bytes, count } = await withStored(input, io, async ({ blobs, metadata, path }) => {
      await requireOutsideStore(output, path);
      return haveListOf(blobs, metadata);
    });
    if (output === '-') io.out(Buffer.from(bytes).toString());
    else {
      await writeFileAtomic(output, [bytes]);
      io.err(`✓ ${output}: ${countText(count, 'blob')} listed, ${sizeText(bytes.byteLength)}\n`);
    }
    return EXIT.done;
  },
};
