import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import type { Config } from '../config/config.ts';
import { repositoryOptions } from '../config/repository-options.ts';
import { YamlError } from '../lib/yaml.ts';
import { DEFAULT_PLATFORM, formatPlatform, parsePlatform, type Platform } from '../oci/platform.ts';
import { DEFAULT_TAG } from '../oci/reference.ts';
import type { Repository } from '../oci/repository.ts';
import {
  ALL_PLATFORMS,
  type ImageList,
  imagesIn,
  type ImageUses,
  together,
  USUAL_USES,
} from '../prepull/image-list.ts';
import { type PodPlacement, platformsOf } from '../prepull/pod-placement.ts';
import type { Parts } from '../wire.ts';
import { type Argument, CommandError, EXIT, type Input, listOption, type Option } from './command.ts';
import { platformOptions, platformsOption } from './list-options.ts';
import { tenantOption } from './tenant-option.ts';

/** Arguments and options of the commands that are told which images are meant. */
export const WANTED_ARGUMENTS: readonly Argument[] = [
  { name: '[reference...]', description: 'image references, such as docker.io/library/nginx:1.27' },
];

/** `--from`, as every command takes it that is told images by files. */
export const FROM_OPTION: Option = {
  flags: '--from <file...>',
  description:
    'files with images, one a line, perhaps with their platforms behind them, or with Kubernetes objects (YAML or ' +
    'JSON); - is standard input. Images that are named stand before it',
};

/** Beside it. */
export const LIKELY_OPTION: Option = {
  flags: '--likely',
  description:
    'also take what --from files only seem to mean by an image: fields of custom resources, RELATED_IMAGE_ variables, ' +
    '--…-image= arguments (listed in any case)',
};

export const WANTED_OPTIONS: readonly Option[] = [
  FROM_OPTION,
  LIKELY_OPTION,
  ...platformOptions('those of the configuration'),
];

/** An image as somebody named it. */
export interface WantedImage {
  readonly name: string;
  /** Where pods run it, with the handler of their RuntimeClass in its place. */
  readonly placements: readonly PodPlacement[];
  /** Platforms that were named with it, or ALL_PLATFORMS. */
  readonly platforms: ReadonlySet<string>;
}

/**
 * The images that were named and those that files name, each once. `tell` hears, line by line, what objects in the files
 * name, where, and what was not taken. CommandError when there is none.
 */
export async function wantedImages(
  input: Input,
  tell: (line: string) => void,
  standing?: Config['prepull'],
): Promise<readonly WantedImage[]> {
  const from = filesOption(input);
  const isNamed = input.arguments.length > 0 || from.length > 0;
  const names = isNamed ? input.arguments : (standing?.images ?? []);
  const files = isNamed ? from : (standing?.from ?? []);
  const images = new Map<string, ImageUses>(names.map(name => [name, USUAL_USES]));
  const handlers = new Map<string | undefined, string>();
  const takesLikely = input.options['likely'] === true;
  for (const file of files) {
    const list = await imagesOfFile(file);
    for (const [name, handler] of list.handlers) handlers.set(name, handler);
    for (const [name, uses] of list.images) images.set(name, together(images.get(name) ?? uses, uses));
    if (takesLikely) for (const name of list.likely.keys()) images.set(name, images.get(name) ?? USUAL_USES);
    foundLines(shownName(file), list, takesLikely).forEach(tell);
  }
  if (images.size === 0) throw new CommandError('no image is named', EXIT.usage);
  // A class that no file describes is taken to be called like its handler, as most are.
  const handlerOf = (name: string | undefined) => handlers.get(name) ?? name;
  return [...images].map(([name, { placements, platforms }]) => ({
    name,
    placements: [...placements.values()].map(one => ({ ...one, runtimeClass: handlerOf(one.runtimeClass) })),
    platforms,
  }));
}

/** What the objects of a file name, and where; nothing for a plain list, which says it itself. */
function foundLines(file: string, list: ImageList, takesLikely: boolean): readonly string[] {
  const { places, likely, unread } = list;
  const lines = [...places].map(([name, place]) => `${file}: ${name} (${place})`);
  const verdict = takesLikely ? 'likely an image' : 'likely an image, not taken without --likely';
  lines.push(...[...likely].map(([name, place]) => `${file}: ${verdict}: ${name} (${place})`));
  lines.push(
    ...unread.map(({ text: found, place }) => `${file}: not an image, ignored: ${found} (${place})`),
  );
  return lines;
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
    const shown = shownName(file);
    const place = error.line === undefined ? shown : `${shown}:${error.line}`;
    throw new CommandError(`${place}: ${error.message}`, EXIT.usage);
  }
}

function shownName(file: string): string {
  return file === '-' ? 'standard input' : file;
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
    reference: digest ?? tag,
    platforms: wantedPlatforms(parts, input, repository, image),
  };
}

/** What was typed counts most; else what was named with it, and where its pods may run. */
function wantedPlatforms(
  parts: Parts,
  input: Input,
  repository: Repository,
  image: WantedImage,
): readonly Platform[] | undefined {
  const typed = platformsOption(input);
  if (typed === 'all') return undefined;
  if (typed !== undefined) return typed;
  if (image.platforms.has(ALL_PLATFORMS)) return undefined;
  const usual = usualPlatforms(parts, input, repository);
  const ofHandlers = new Map(Object.entries(parts.config.runtimeHandlers));
  const ofPlacement = (placement: PodPlacement) =>
    platformsOf(placement, ofHandlers.get(placement.runtimeClass ?? '') ?? usual);
  const named = [...image.platforms].map(parsePlatform);
  const platforms = [...named, ...image.placements.flatMap(ofPlacement)];
  return [...new Map(platforms.map(platform => [formatPlatform(platform), platform])).values()];
}

/** Those of the tenant, else of the repository and its upstream. */
function usualPlatforms(parts: Parts, input: Input, repository: Repository): readonly Platform[] {
  const upstream = parts.config.upstreams.get(repository.upstream);
  return (
    tenantOption(parts, input)?.options.platforms ??
    (upstream && repositoryOptions(upstream, repository.name).platforms) ?? [DEFAULT_PLATFORM]
  );
}

/**
 * An image as a line that a list may have: with the platforms for which it is wanted, unless these are what is taken
 * where no configuration says anything. Who reads the list may have another configuration.
 */
export function lineOf(name: string, { platforms }: MeantImage): string {
  if (platforms === undefined) return `${name} ${ALL_PLATFORMS}`;
  const wanted = specifiersOf(platforms);
  return wanted === formatPlatform(DEFAULT_PLATFORM) ? name : `${name} ${wanted}`;
}

/** In one order, and each once. */
function specifiersOf(platforms: readonly Platform[]): string {
  return [...new Set(platforms.map(formatPlatform))].sort().join();
}
