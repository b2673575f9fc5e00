import { addAbortSignal } from 'node:stream';
import {
  type ImageNames,
  InvalidImageList,
  type WantedImage,
  type WantedImages,
  wantedImages as readNames,
} from '../prepull/wanted-images.ts';
import { namedTrouble } from '../lib/file-trouble.ts';
import { readFileOrPipe } from '../lib/named-pipe.ts';
import type { Parts } from '../compose/parts.ts';
import { type MeantImage, meantImage } from '../compose/prepull.ts';
import { type Argument, CommandError, EXIT, type Input, listOption, type Option } from './command.ts';
import { platformOptions, platformsOption } from './list-options.ts';
import { tenantOption } from './tenant-option.ts';

/** The arguments and options of commands that take images. */
export const WANTED_ARGUMENTS: readonly Argument[] = [
  { name: '[reference...]', description: 'image references, such as docker.io/library/nginx:1.27' },
];

/** `--from`, for every command that reads image names from files. */
export const FROM_OPTION: Option = {
  flags: '--from <file...>',
  description:
    'files with images, one per line, optionally followed by platforms, or with Kubernetes objects (YAML or ' +
    'JSON); - is standard input. Put image names before this option',
};

/** The option that goes with it. */
export const LIKELY_OPTION: Option = {
  flags: '--likely',
  description:
    'also include likely images in --from files: fields of custom resources, RELATED_IMAGE_ variables, ' +
    '--…-image= arguments (always listed)',
};

export const WANTED_OPTIONS: readonly Option[] = [
  FROM_OPTION,
  LIKELY_OPTION,
  ...platformOptions('those of the configuration'),
];

/** As `readableImages`, but rejects with the error of the first file that cannot be read. */
export async function requireImages(
  ...options: Parameters<typeof readableImages>
): Promise<readonly WantedImage[]> {
  const { images, unread } = await readableImages(...options);
  for (const error of unread.values()) {
    throw error instanceof InvalidImageList ? new CommandError(error.message, EXIT.usage) : error;
  }
  return images;
}

/**
 * The images that are given by name or in files, without duplicates; without either, those of `standing`. Files that
 * cannot be read are skipped. `tell` is called with a line for each image that an object names, with its place, and for
 * each that is ignored. `signal` ends the wait for a pipe. Throws CommandError if everything was read and there are none.
 */
export async function readableImages(
  input: Input,
  tell: (line: string) => void,
  {
    standing = { images: [], from: [] },
    signal = new AbortController().signal,
  }: { readonly standing?: ImageNames; readonly signal?: AbortSignal } = {},
): Promise<WantedImages> {
  const from = filesOption(input);
  const isNamed = input.arguments.length > 0 || from.length > 0;
  const option = isNamed ? '--from' : 'prepull.from';
  const open = (file: string) =>
    file === '-' ? addAbortSignal(signal, process.stdin) : openNamed(option, file, signal);
  const reader = { open, shown, takesLikely: input.options['likely'] === true, tell };
  const names = isNamed ? { images: input.arguments, from } : standing;
  const wanted = await readNames(names, reader);
  if (wanted.images.length === 0 && wanted.unread.size === 0) {
    throw new CommandError('no images are given', EXIT.usage);
  }
  return wanted;
}

/** The files of `--from`, separated by spaces or commas. */
export function filesOption(input: Input): readonly string[] {
  return listOption(input, 'from').flatMap(files => files.split(',').filter(file => file !== ''));
}

/** The content of a file that `option` names. */
async function* openNamed(option: string, file: string, signal: AbortSignal): AsyncIterable<Uint8Array> {
  try {
    yield* await readFileOrPipe(file, signal);
  } catch (error) {
    throw namedTrouble(`${option}: ${file} cannot be read`, error);
  }
}

function shown(file: string): string {
  return file === '-' ? 'standard input' : file;
}

/**
 * The meaning of an image name here, and the platforms for which it is needed; options take precedence. Throws if the
 * name is invalid.
 */
export function meantBy(parts: Parts, input: Input, image: WantedImage): MeantImage {
  const meant = meantImage(parts, image, tenantOption(parts, input));
  const typed = platformsOption(input);
  if (typed === undefined) return meant;
  if (typed === 'all') return { ...meant, platforms: undefined, givenPlatforms: [] };
  return { ...meant, platforms: typed, givenPlatforms: typed };
}
