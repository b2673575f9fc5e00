import { sizeText } from '../lib/units.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { digestOfReference } from '../metadata/reference-digest.ts';
import type { SurveyedBlob, SurveyedManifest } from '../metadata/survey.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import { confirmedByFiles, type HeldImage, heldImage, isEvicted } from '../upkeep/images.ts';
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
    withWholeIndex(input, io, async ({ metadata, survey, blobs, resolver }) => {
      const [typed = ''] = input.arguments;
      const { repository, tag = DEFAULT_TAG, digest } = resolver.repositoryOf(typed);
      const reference = digest ?? tag;
      const meant = await heldDigest(metadata, repository, reference);
      if (meant === undefined) {
        throw new CommandError(`${typed}: not stored`);
      }
      const surveyed = await survey.image(repository, meant, digest === undefined ? tag : undefined);
      if (isEvicted(repository, surveyed)) {
        const was = digest === undefined ? `; the tag last meant ${meant}` : '';
        throw new CommandError(`${typed}: not stored any more${was}`);
      }
      const manifests = await confirmedByFiles(surveyed, { metadata, blobs });
      const image = await heldImage(manifests, blobs);
      const pins = await metadata.listPins(repository);
      const isPinned = pins.includes(reference) || pins.includes(meant);
      const shown = wantsJson(input) ? jsonText : text;
      io.out(shown(typed, image, manifests, isPinned));
      return EXIT.done;
    }),
};

async function heldDigest(metadata: MetadataStore, repository: Repository, reference: string) {
  const digest = await digestOfReference(metadata, repository, reference);
  return digest !== undefined && (await metadata.isLinked(repository, digest)) ? digest : undefined;
}

function text(
  typed: string,
  image: HeldImage,
  manifests: readonly SurveyedManifest[],
  isPinned: boolean,
): string {
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
      stateOf(blob),
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

function missingText({ missingBytes, missingManifests }: HeldImage): string {
  const known = `${sizeText(missingBytes)} missing`;
  if (missingManifests === 0) return known;
  return `${known}, without the content of ${missingManifests} missing manifest${missingManifests === 1 ? '' : 's'}`;
}

function jsonText(
  typed: string,
  image: HeldImage,
  manifests: readonly SurveyedManifest[],
  isPinned: boolean,
): string {
  const { digest, ownBytes, sharedBytes, missingBytes, usedAtMs } = image;
  const lastUsed = usedAtMs === 0 ? null : new Date(usedAtMs).toISOString();
  const document = { image: typed, digest, pinned: isPinned, ownBytes, sharedBytes, missingBytes, lastUsed };
  const parts = manifests.map(manifest => ({
    digest: manifest.digest,
    mediaType: manifest.mediaType,
    size: manifest.size,
    state: stateOfManifest(manifest),
    platform: image.platforms.find(platform => platform.digest === manifest.digest)?.platform,
    blobs: manifest.blobs.map(blob => ({
      digest: blob.digest,
      mediaType: blob.mediaType,
      size: blob.size,
      state: stateOf(blob),
    })),
  }));
  return `${JSON.stringify({ ...document, manifests: parts })}\n`;
}

function stateOfManifest({ isHeld, isDamaged }: SurveyedManifest): string {
  if (isDamaged) {
    return 'damaged';
  }
  return isHeld ? 'held' : 'missing';
}

function stateOf(blob: SurveyedBlob): string {
  if (blob.isDamaged) {
    return 'damaged';
  }
  return blob.isHeld ? (blob.isShared ? 'held, shared' : 'held') : 'missing';
}
