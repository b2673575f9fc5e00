import { imageFinding, SHOWN_MISSING } from '../compose/image-finding.ts';
import { printResult, type Command, CONFIG_OPTION, EXIT, jsonOption, wantsJson } from './command.ts';
import { platformsOption } from './list-options.ts';
import { meantBy, WANTED_ARGUMENTS, WANTED_OPTIONS, requireImages } from './wanted-images.ts';
import { withWholeIndex } from './with-parts.ts';

/** `entrepot check`: checks that images are completely stored. */
export const check: Command = {
  name: 'check',
  summary: 'check that images are completely stored, or list those that are not',
  description:
    'Checks that everything that nodes need of the images is stored, without asking any upstream. Incomplete images ' +
    'are written to standard output, one per line, for `entrepot pull --from` on the connected side, with their platforms ' +
    'unless that is linux/amd64 alone; what is missing is written to standard error. An image that is for none of the ' +
    'platforms given with --platform, or on its line of a list, is incomplete, too.',
  arguments: WANTED_ARGUMENTS,
  options: [
    ...WANTED_OPTIONS,
    jsonOption(
      'a line for every image, complete or not, with image, complete, line (for --from; null if the name is invalid), missing (digests; at most ' +
        `${SHOWN_MISSING}), reason (null when it is complete)`,
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
        const { line, missing, reason } = await imageFinding(parts, image.name, () =>
          meantBy(parts, input, image),
        );
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
