import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { YamlError } from '../lib/yaml.ts';
import { isDigest } from '../oci/digest.ts';
import { DEFAULT_PLATFORM, type Platform } from '../oci/platform.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import { imagesIn } from '../prepull/image-list.ts';
import type { Parts } from '../wire.ts';
import { type Argument, CommandError, EXIT, type Input, type Option } from './command.ts';
import { commaList, PLATFORM_OPTION, platformsOption } from './list-options.ts';

/** Arguments and options of the commands that are told which images are meant. */
export const WANTED_ARGUMENTS: readonly Argument[] = [
  { name: '[reference...]', description: 'image references, such as docker.io/library/nginx:1.27' },
];

export const WANTED_OPTIONS: readonly Option[] = [
  {
    flags: '--from <list>',
    description:
      'files with images, one a line, or with Kubernetes objects (YAML or JSON); - is standard input',
  },
  PLATFORM_OPTION,
  { flags: '--all-platforms', description: 'all that a multi-platform image has' },
];

/** The images that were named and those that files name, each once. CommandError when there is none. */
export async function wantedImages(input: Input): Promise<readonly string[]> {
  const images = new Set(input.arguments);
  for (const file of commaList(input, 'from')) {
    for (const image of await imagesOfFile(file)) images.add(image);
  }
  if (images.size === 0) throw new CommandError('no image is named', EXIT.usage);
  return [...images];
}

async function imagesOfFile(file: string): Promise<readonly string[]> {
  const content = file === '-' ? await text(process.stdin) : await readFile(file, 'utf8');
  try {
    return imagesIn(content);
  } catch (error) {
    if (!(error instanceof YamlError)) throw error;
    const place = error.line === undefined ? file : `${file}:${error.line}`;
    throw new CommandError(`${place}: ${error.message}`, EXIT.usage);
  }
}

/** What an image reference means here: a repository, and a tag or a digest in it. Throws what is wrong with it. */
export function meantBy({ naming }: Parts, image: string): { repository: Repository; reference: string } {
  const { repository, tag = DEFAULT_TAG, digest } = naming.repositoryOf(image);
  return { repository, reference: digest !== undefined && isDigest(digest) ? digest : tag };
}

/** The platforms of which content is wanted; `undefined`: all. */
export function wantedPlatforms(input: Input): readonly Platform[] | undefined {
  if (input.options['allPlatforms'] === true) return undefined;
  return platformsOption(input) ?? [DEFAULT_PLATFORM];
}
