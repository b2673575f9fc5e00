import { imageDocument, imageName, imageSourceOf } from '../admin/images.ts';
import { sizeText } from '../lib/units.ts';
import type { SurveyedImage } from '../metadata/survey.ts';
import { type HeldImage, heldImages } from '../upkeep/images.ts';
import { columnsText, timeText } from './columns.ts';
import { type Command, CONFIG_OPTION, EXIT, jsonOption, wantsJson } from './command.ts';
import { interruptible } from './interruptible.ts';
import { withStored } from './with-parts.ts';

/** The widths of columns are chosen for this many rows: a store of 100,000 tags is printed while it is read. */
const ROWS_PER_TABLE = 500;

const HEADINGS = ['IMAGE', 'PLATFORMS', 'SIZE', 'SHARED', 'USED', 'SOURCE', 'STATE'] as const;

const IMAGES_JSON = jsonOption(
  'a line for each image, with image, digest, platforms (platform and complete of each), ownBytes, sharedBytes, ' +
    'missingBytes, lastUsed, source, pinned, damaged',
);

/** `entrepot images`: lists what is stored. */
export const images: Command = {
  name: 'images',
  summary: 'list the stored images',
  description:
    'Lists every tag of which something is stored, then images without a tag by digest, with their platforms (in ' +
    'parentheses those that are incomplete), the size that removing this name alone would free (rm --purge; ignoring ' +
    'pins), the size that other names also need (if two names have the same image, all of it is shared), when they ' +
    'were last used, where they came from, and whether they are pinned or damaged.',
  options: [IMAGES_JSON, CONFIG_OPTION],
  examples: [
    ['entrepot images', 'a table'],
    ['entrepot images --json | jq .image', 'for programs'],
  ],
  run: (input, io) =>
    withStored(input, io, ({ survey, blobs }) =>
      interruptible(async signal => {
        const isJson = wantsJson(input);
        let rows: string[][] = [];
        let isTagged = true;
        const flush = () => {
          io.out(columnsText(HEADINGS, rows));
          rows = [];
        };
        for await (const image of heldImages(survey, blobs)) {
          signal.throwIfAborted();
          if (isTagged && image.tag === undefined) {
            isTagged = false;
            // In a table of their own, since digests would be too wide for the columns of tags.
            if (!isJson && rows.length > 0) {
              flush();
              io.out('\n');
            }
          }
          if (isJson) {
            io.out(`${JSON.stringify(imageDocument(image))}\n`);
          } else {
            rows.push(toRow(image));
          }
          if (rows.length === ROWS_PER_TABLE) {
            flush();
          }
        }
        if (!isJson && (isTagged || rows.length > 0)) {
          flush();
        }
        return EXIT.done;
      }),
    ),
};

function toRow(image: SurveyedImage & HeldImage): string[] {
  const platforms = image.platforms.map(({ platform, isComplete }) => {
    const text = platform ?? '-';
    return isComplete ? text : `(${text})`;
  });
  return [
    imageName(image),
    platforms.join(' '),
    sizeText(image.ownBytes),
    sizeText(image.sharedBytes),
    timeText(image.usedAtMs),
    imageSourceOf(image),
    [image.isPinned ? 'pinned' : '', image.isDamaged ? 'damaged' : ''].filter(Boolean).join(' '),
  ];
}
