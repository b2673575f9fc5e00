import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import type { Config } from '../config/config.ts';
import { repositoryOptions } from '../config/repository-options.ts';
import { YamlError } from '../lib/yaml.ts';
import { isDigest } from '../oci/digest.ts';
import { DEFAULT_PLATFORM, type Platform } from '../oci/platform.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import { type ImageList, imagesIn } from '../prepull/image-list.ts';
import type { Parts } from '../wire.ts';
import { type Argument, CommandError, EXIT, type Input, listOption, type Option } from './command.ts';
import { PLATFORM_OPTION, platformsOption } from './list-options.ts';
import { tenantOption } from './tenant-option.ts';

/** Arguments and options of the commands that are told which images are meant. */
export const WANTED_ARGUMENTS: readonly Argument[] = [
  { name: '[reference...]', description: 'image references, such as docker.io/library/nginx:1.27' },
];

export const WANTED_OPTIONS: readonly Option[] = [
  {
    flags: '--from <file...>',
    description:
      'files with images, one a line, or with Kubernetes objects (YAML or JSON); - is standard input. Images that are ' +
      'named stand before it',
  },
  PLATFORM_OPTION,
  { flags: '--all-platforms', description: 'all that a multi-platform image has' },
];

/** An image as somebody named it. */
export interface WantedImage {
  readonly name: string;
  /** What runs it; `undefined` stands for the usual one. */
  readonly runtimeHandlers: ReadonlySet<string | undefined>;
}

/** The images that were named and those that files name, each once. CommandError when there is none. */
export async function wantedImages(
  input: Input,
  standing?: Config['prepull'],
): Promise<readonly WantedImage[]> {
  const from = filesOption(input);
  const isNamed = input.arguments.length > 0 || from.length > 0;
  const names = isNamed ? input.arguments : (standing?.images ?? []);
  const files = isNamed ? from : (standing?.from ?? []);
  const usual = new Set([undefined]);
  const classes = new Map<string, ReadonlySet<string | undefined>>(names.map(name => [name, usual]));
  const handlers = new Map<string | undefined, string>();
  for (const file of files) {
    const list = await imagesOfFile(file);
    for (const [name, handler] of list.handlers) handlers.set(name, handler);
    for (const { name, runtimeClasses } of list.images) {
      classes.set(name, new Set([...(classes.get(name) ?? []), ...runtimeClasses]));
    }
  }
  if (classes.size === 0) throw new CommandError('no image is named', EXIT.usage);
  // A class that no file describes is taken to be called like its handler, as most are.
  const handlerOf = (name: string | undefined) => handlers.get(name) ?? name;
  return [...classes].map(([name, runtimeClasses]) => ({
    name,
    runtimeHandlers: new Set([...runtimeClasses].map(handlerOf)),
  }));
}

/** The files that `--from` names, with blanks or commas between them. */
export function filesOption(input: Input): readonly string[] {
  return listOption(input, 'from').flatMap(files => files.split(',').filter(file => file !== ''));
}

async function imagesOfFile(file: string): Promise<ImageList> {
  const content = file === '-' ? await text(process.stdin) : await readFile(file, 'utf8');
  try {
    return imagesIn(content);
  } catch (error) {
    if (!(error instanceof YamlError)) throw error;
    const shown = file === '-' ? 'standard input' : file;
    const place = error.line === undefined ? shown : `${shown}:${error.line}`;
    throw new CommandError(`${place}: ${error.message}`, EXIT.usage);
  }
}

/** What an image means here. */
export interface MeantImage {
  readonly repository: Repository;
  /** A tag or a digest. */
  readonly reference: string;
  /** Of which it is wanted; `undefined`: all. */
  readonly platforms: readonly Platform[] | undefined;
}

/** What an image means here, and for which platforms it is wanted. Throws what is wrong with its name. */
export function meantBy(parts: Parts, input: Input, image: WantedImage): MeantImage {
  const { repository, tag = DEFAULT_TAG, digest } = parts.naming.repositoryOf(image.name);
  return {
    repository,
    reference: digest !== undefined && isDigest(digest) ? digest : tag,
    platforms: wantedPlatforms(parts, input, repository, image),
  };
}

/** What was typed counts most, then what handles the pod's RuntimeClass, then the tenant, then the repository and its upstream. */
function wantedPlatforms(
  parts: Parts,
  input: Input,
  repository: Repository,
  { runtimeHandlers }: WantedImage,
): readonly Platform[] | undefined {
  if (input.options['allPlatforms'] === true) return undefined;
  const { config } = parts;
  const upstream = config.upstreams.get(repository.upstream);
  const usual = tenantOption(parts, input)?.options.platforms ??
    (upstream && repositoryOptions(upstream, repository.name).platforms) ?? [DEFAULT_PLATFORM];
  const ofHandlers = new Map(Object.entries(config.runtimeHandlers));
  const ofHandler = (name: string | undefined) => ofHandlers.get(name ?? '') ?? usual;
  return platformsOption(input) ?? [...new Set([...runtimeHandlers].flatMap(ofHandler))];
}
