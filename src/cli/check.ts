import { missingOfImage } from '../prepull/image-check.ts';
import type { WantedImage } from '../prepull/wanted-images.ts';
import type { Parts } from '../wire.ts';
import { type Command, CONFIG_OPTION, EXIT, type Input } from './command.ts';
import { heldName } from './held-name.ts';
import { platformsOption } from './list-options.ts';
import { lineOf, meantBy, WANTED_ARGUMENTS, WANTED_OPTIONS, wantedImages } from './wanted-images.ts';
import { withParts } from './with-parts.ts';

/** How much of what is missing is told of one image. */
const SHOWN = 5;

/** `entrepot check`: is everything here. */
export const check: Command = {
  name: 'check',
  summary: 'prove that images are fully held here, or list those that are not',
  description:
    'Looks whether everything that nodes need of the images is held, without asking any upstream. The images of which ' +
    'something is missing go to standard output, one a line, for `entrepot pull --from` on the connected side, with ' +
    'their platforms unless that is linux/amd64 alone; what is missing goes to standard error.',
  arguments: WANTED_ARGUMENTS,
  options: [...WANTED_OPTIONS, CONFIG_OPTION],
  examples: [
    ['entrepot check --from deploy.yaml --platform linux/amd64,linux/arm64', 'may this cluster go offline?'],
    ['helm template my-chart | entrepot check --from - > missing.txt', 'what has to be fetched'],
  ],
  run: async (input, io) => {
    platformsOption(input);
    return withParts(input, io, async parts => {
      const images = await wantedImages(input, line => io.err(`${line}\n`));
      let missingImages = 0;
      for (const image of images) {
        const fault = await faultOf(parts, input, image);
        if (fault === undefined) continue;
        missingImages += 1;
        io.out(`${fault.line}\n`);
        io.err(`${image.name}: ${fault.reason}\n`);
      }
      io.err(`${images.length - missingImages} of ${images.length} images are complete\n`);
      return missingImages === 0 ? EXIT.done : EXIT.failed;
    });
  },
};

interface Fault {
  /** For the list of what has to be pulled. */
  readonly line: string;
  readonly reason: string;
}

/** What keeps an image from being pulled here without any upstream. */
async function faultOf(parts: Parts, input: Input, image: WantedImage): Promise<Fault | undefined> {
  let line = image.name;
  try {
    const meant = meantBy(parts, input, image);
    const { repository, reference, platforms } = meant;
    line = lineOf(image.name, meant);
    const held = await heldName(parts, repository, reference);
    const missing = await missingOfImage(parts, held.repository, reference, held.platforms ?? platforms);
    const more = missing.length > SHOWN ? ` and ${missing.length - SHOWN} more` : '';
    return missing.length === 0
      ? undefined
      : { line, reason: `${missing.slice(0, SHOWN).join(', ')}${more} is missing` };
  } catch (error) {
    return { line, reason: error instanceof Error ? error.message : String(error) };
  }
}
