import { YamlError } from '../lib/yaml.ts';
import { formatPlatform, parsePlatform, type Platform } from '../oci/platform.ts';
import {
  ALL_PLATFORMS,
  type ImageList,
  imagesIn,
  type ImageUses,
  together,
  USUAL_USES,
} from './image-list.ts';
import { type PodPlacement, platformsOf } from './pod-placement.ts';

/** An image as somebody named it. */
export interface WantedImage {
  readonly name: string;
  /** Where pods run it, with the handler of their RuntimeClass in its place. */
  readonly placements: readonly PodPlacement[];
  /** Platforms that were named with it, or ALL_PLATFORMS. */
  readonly platforms: ReadonlySet<string>;
}

/** What names images. */
export interface ImageNames {
  readonly images: readonly string[];
  /** Files with more of them: lists, or Kubernetes objects. */
  readonly from: readonly string[];
}

export interface NamesReader {
  /** The text of a file that names images. */
  readonly read: (file: string) => Promise<string>;
  /** What a file is called, for people. */
  readonly shown: (file: string) => string;
  /** Also takes what only seems to be an image. */
  readonly takesLikely: boolean;
  /** Hears, line by line, what objects in the files name, where, and what was not taken. */
  readonly tell: (line: string) => void;
}

/** A file that names images and cannot be understood: which, where, and why. */
export class InvalidImageList extends Error {
  override readonly name = 'InvalidImageList';
}

/** What was read of what names images. */
export interface WantedImages {
  readonly images: readonly WantedImage[];
  /** By file: why it could not be read, or InvalidImageList where it names none. */
  readonly unread: ReadonlyMap<string, unknown>;
}

/** The images that are named and those that files name, each once, past files that cannot be read. */
export async function wantedImages(
  { images: names, from }: ImageNames,
  reader: NamesReader,
): Promise<WantedImages> {
  const { shown, takesLikely, tell } = reader;
  const unread = new Map<string, unknown>();
  const images = new Map<string, ImageUses>(names.map(name => [name, USUAL_USES]));
  const handlers = new Map<string | undefined, string>();
  for (const file of from) {
    const list = await listIn(file, reader).catch((error: unknown) => void unread.set(file, error));
    if (list === undefined) continue;
    for (const [name, handler] of list.handlers) handlers.set(name, handler);
    for (const [name, uses] of list.images) images.set(name, together(images.get(name) ?? uses, uses));
    if (takesLikely) for (const name of list.likely.keys()) images.set(name, images.get(name) ?? USUAL_USES);
    foundLines(shown(file), list, takesLikely).forEach(tell);
  }
  // A class that no file describes is taken to be called like its handler, as most are.
  const handlerOf = (name: string | undefined) => handlers.get(name) ?? name;
  const wanted = [...images].map(([name, { placements, platforms }]) => ({
    name,
    placements: [...placements.values()].map(one => ({ ...one, runtimeClass: handlerOf(one.runtimeClass) })),
    platforms,
  }));
  return { images: wanted, unread };
}

async function listIn(
  file: string,
  { read, shown }: Pick<NamesReader, 'read' | 'shown'>,
): Promise<ImageList> {
  const content = await read(file);
  try {
    return imagesIn(content);
  } catch (error) {
    if (!(error instanceof YamlError)) throw error;
    const place = error.line === undefined ? shown(file) : `${shown(file)}:${error.line}`;
    throw new InvalidImageList(`${place}: ${error.message}`, { cause: error });
  }
}

/** What the objects of a file name, and where; nothing for a plain list, which says it itself. */
function foundLines(file: string, list: ImageList, takesLikely: boolean): readonly string[] {
  const { places, likely, unread } = list;
  const lines = [...places].map(([name, place]) => `${file}: ${name} (${place})`);
  const verdict = takesLikely ? 'likely an image' : 'likely an image, skipped without --likely';
  lines.push(...[...likely].map(([name, place]) => `${file}: ${verdict}: ${name} (${place})`));
  lines.push(
    ...unread.map(({ text: found, place }) => `${file}: not an image, ignored: ${found} (${place})`),
  );
  return lines;
}

/**
 * The platforms for which an image is wanted: those that were named with it, and those where its pods may run. `usual`:
 * where nothing says more; `handlers`: the platforms of what handles RuntimeClasses. `undefined`: all that it has.
 */
export function platformsWanted(
  { platforms, placements }: WantedImage,
  usual: readonly Platform[],
  handlers: Readonly<Record<string, readonly Platform[]>>,
): readonly Platform[] | undefined {
  if (platforms.has(ALL_PLATFORMS)) return undefined;
  const ofHandlers = new Map(Object.entries(handlers));
  const ofPlacement = (placement: PodPlacement) =>
    platformsOf(placement, ofHandlers.get(placement.runtimeClass ?? '') ?? usual);
  const wanted = [...[...platforms].map(parsePlatform), ...placements.flatMap(ofPlacement)];
  return [...new Map(wanted.map(platform => [formatPlatform(platform), platform])).values()];
}
