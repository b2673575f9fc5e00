import { missingOfImage, missingText } from '../prepull/image-check.ts';
import { InvalidReference } from '../oci/reference.ts';
import type { WantedImage } from '../prepull/wanted-images.ts';
import type { Parts } from '../compose/parts.ts';
import {
  printResult,
  type Command,
  CONFIG_OPTION,
  EXIT,
  type Input,
  jsonOption,
  wantsJson,
} from './command.ts';
import { heldName } from './held-name.ts';
import { platformsOption } from './list-options.ts';
import { lineOf, meantBy, WANTED_ARGUMENTS, WANTED_OPTIONS, requireImages } from './wanted-images.ts';
import { withWholeIndex } from './with-parts.ts';

/** How many missing items are listed for an image. */
const SHOWN = 5;

/** `entrepot check`: checks that images are completely stored. */
export const check: Command = {
  name: 'check',
  summary: 'check that images are completely stored, or list those that are not',
  description:
    'Checks that everything that nodes need of the images is stored, without asking any upstream. Images of which ' +
    'something is missing are written to standard output, one per line, for `entrepot pull --from` on the connected side, with ' +
    'their platforms unless that is linux/amd64 alone; what is missing is written to standard error.',
  arguments: WANTED_ARGUMENTS,
  options: [
    ...WANTED_OPTIONS,
    jsonOption(
      'a line for every image, complete or not, with image, complete, line (for --from; null if the name is invalid), missing (digests; at most ' +
        `${SHOWN}), reason (null when it is complete)`,
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot check --from deploy.yaml --platform linux/amd64,linux/arm64', 'can this cluster go offline?'],
    ['helm template my-chart | entrepot check --from - > missing.txt', 'list what has to be fetched'],
  ],
  run: async (input, io) => {
    platformsOption(input);
    return withWholeIndex(input, io, async parts => {
      const images = await requireImages(input, line => io.err(`${line}\n`));
      let missingImages = 0;
      for (const image of images) {
        const { line, missing, reason } = await findingOf(parts, input, image);
        const complete = reason === undefined;
        const document = { image: image.name, complete, line, missing, reason: reason ?? null };
        // A list with an invalid name could not be read again.
        if (wantsJson(input) || (!complete && line !== null)) printResult(input, io, document, `${line}\n`);
        if (complete) continue;
        missingImages += 1;
        io.err(`${image.name}: ${reason}\n`);
      }
      io.err(`${images.length - missingImages} of ${images.length} images are complete\n`);
      return missingImages === 0 ? EXIT.done : EXIT.failed;
    });
  },
};

interface Finding {
  /** For a list of images to pull; `null` if the name is invalid. */
  readonly line: string | null;
  /** The first missing items. */
  readonly missing: readonly string[];
  /** Why the image cannot be pulled from here without any upstream; `undefined` if it can. */
  readonly reason: string | undefined;
}

async function findingOf(parts: Parts, input: Input, image: WantedImage): Promise<Finding> {
  let line = image.name;
  try {
    const meant = meantBy(parts, input, image);
    const { repository, reference, platforms } = meant;
    line = lineOf(image.name, meant);
    const held = await heldName(parts, repository, reference);
    const all = await missingOfImage(parts, held.repository, reference, held.platforms ?? platforms);
    const reason = all.length === 0 ? undefined : await missingText(parts, all, SHOWN);
    return { line, missing: all.slice(0, SHOWN), reason };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { line: error instanceof InvalidReference ? null : line, missing: [], reason };
  }
}
