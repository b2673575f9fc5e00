import { missingOfImage } from '../prepull/image-check.ts';
import type { ListedImage } from '../prepull/image-list.ts';
import type { Parts } from '../wire.ts';
import { type Command, CONFIG_OPTION, EXIT, type Input } from './command.ts';
import { platformsOption } from './list-options.ts';
import { meantBy, WANTED_ARGUMENTS, WANTED_OPTIONS, wantedImages } from './wanted-images.ts';
import { withParts } from './with-parts.ts';

/** How much of what is missing is told of one image. */
const SHOWN = 5;

/** `entrepot check`: is everything here. */
export const check: Command = {
  name: 'check',
  summary: 'prove that images are fully held here, or list those that are not',
  description:
    'Looks whether everything that nodes need of the images is held, without asking any upstream. The images of which ' +
    'something is missing go to standard output, one a line, for `entrepot pull --from` on the connected side; what ' +
    'is missing goes to standard error.',
  arguments: WANTED_ARGUMENTS,
  options: [...WANTED_OPTIONS, CONFIG_OPTION],
  examples: [
    ['entrepot check --from deploy.yaml --platform linux/amd64,linux/arm64', 'may this cluster go offline?'],
    ['helm template my-chart | entrepot check --from - > missing.txt', 'what has to be fetched'],
  ],
  run: async (input, io) => {
    platformsOption(input);
    const images = await wantedImages(input);
    return withParts(input, io, async parts => {
      let missingImages = 0;
      for (const image of images) {
        const missing = await missingOf(parts, input, image);
        if (missing.length === 0) continue;
        missingImages += 1;
        io.out(`${image.name}\n`);
        const more = missing.length > SHOWN ? ` and ${missing.length - SHOWN} more` : '';
        io.err(`${image.name}: ${missing.slice(0, SHOWN).join(', ')}${more} is missing\n`);
      }
      io.err(`${images.length - missingImages} of ${images.length} images are complete\n`);
      return missingImages === 0 ? EXIT.done : EXIT.failed;
    });
  },
};

async function missingOf(parts: Parts, input: Input, image: ListedImage): Promise<readonly string[]> {
  try {
    const { repository, reference, platforms } = meantBy(parts, input, image);
    return await missingOfImage(parts, repository, reference, platforms);
  } catch (error) {
    return [error instanceof Error ? error.message : String(error)];
  }
}
