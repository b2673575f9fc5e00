import { sizeText } from '../lib/units.ts';
import {
  inspectDocument,
  inspectImage,
  type FoundImage,
  NotStored,
  stateOfBlob,
  stateOfManifest,
} from '../admin/inspect.ts';
import type { SurveyedBlob } from '../metadata/survey.ts';
import type { HeldImage } from '../upkeep/images.ts';
import { columnsText, timeText } from './columns.ts';
import { type Command, CommandError, CONFIG_OPTION, EXIT, jsonOption, wantsJson } from './command.ts';
import { withWholeIndex } from './with-parts.ts';

const HEADINGS = ['KIND', 'DIGEST', 'SIZE', 'STATE'] as const;

/** `entrepot inspect`: shows the parts of an image. */
export const inspect: Command = {
  name: 'inspect',
  summary: 'show the manifests and blobs of an image, and which of them are stored',
  arguments: [{ name: '<reference>', description: 'image reference with a tag (else latest) or a digest' }],
  options: [
    jsonOption(
      'image, digest, pinned, ownBytes, sharedBytes, missingBytes, lastUsed, manifests (each with its blobs)',
    ),
    CONFIG_OPTION,
  ],
  examples: [
    ['entrepot inspect docker.io/library/nginx:1.27', 'manifests, config and layers of every platform'],
  ],
  run: (input, io) =>
    withWholeIndex(input, io, async parts => {
      const [typed = ''] = input.arguments;
      const found = await inspectImage(parts, typed).catch((error: unknown) => {
        throw error instanceof NotStored ? new CommandError(error.message) : error;
      });
      io.out(wantsJson(input) ? jsonText(typed, found) : text(typed, found));
      return EXIT.done;
    }),
};

function text(typed: string, { image, manifests, isPinned, bytesThere }: FoundImage): string {
  const platforms = new Map(image.platforms.map(({ digest, platform }) => [digest, platform]));
  const rows = manifests.flatMap(manifest => [
    [
      manifest.children.length > 0 ? 'index' : `manifest ${platforms.get(manifest.digest) ?? ''}`.trimEnd(),
      manifest.digest,
      sizeText(manifest.size),
      stateOfManifest(manifest),
    ],
    ...manifest.blobs.map(blob => [
      blob.isConfig ? '  config' : '  layer',
      blob.digest,
      sizeText(blob.size),
      stateText(blob, bytesThere.get(blob.digest)),
    ]),
  ]);
  return [
    `image     ${typed}${isPinned ? ' (pinned)' : ''}\n`,
    `digest    ${image.digest}\n`,
    `size      ${sizeText(image.ownBytes)} own, ${sizeText(image.sharedBytes)} shared, ${missingText(image)}\n`,
    `last use  ${timeText(image.usedAtMs)}\n\n`,
    columnsText(HEADINGS, rows),
  ].join('');
}

function stateText(blob: SurveyedBlob, bytesThere = 0): string {
  return `${stateOfBlob(blob)}${bytesThere === 0 ? '' : `, ${sizeText(bytesThere)} of it stored`}`;
}

function missingText({ missingBytes, missingManifests }: HeldImage): string {
  const known = `${sizeText(missingBytes)} missing`;
  if (missingManifests === 0) return known;
  return `${known}, without the content of ${missingManifests} missing manifest${missingManifests === 1 ? '' : 's'}`;
}

function jsonText(typed: string, found: FoundImage): string {
  const { missingManifests: _missingManifests, manifests, ...document } = inspectDocument(typed, found);
  const parts = manifests.map(({ mediaType, platform, index: _index, blobs, ...manifest }) => ({
    digest: manifest.digest,
    ...(mediaType !== null && { mediaType }),
    size: manifest.size,
    state: manifest.state,
    ...(platform !== null && { platform }),
    blobs: blobs.map(({ config: _config, ...blob }) => blob),
  }));
  return `${JSON.stringify({ ...document, manifests: parts })}\n`;
}
