import { collectBytes } from '../lib/collect-bytes.ts';
import { formatSize } from '../lib/units.ts';
import { YamlError } from '../lib/yaml.ts';
import { formatPlatform, parsePlatform, type Platform } from '../oci/platform.ts';
import {
  ALL_PLATFORMS,
  type ImageList,
  imagesIn,
  type ImageUses,
  MAX_LIST_BYTES,
  together,
  USUAL_USES,
} from './image-list.ts';
import { type PodPlacement, platformsOf } from './pod-placement.ts';

/** An image to pull or check, as it was named. */
export interface WantedImage {
  readonly name: string;
  /** Where pods run it, with RuntimeClasses replaced by their handlers. */
  readonly placements: readonly PodPlacement[];
  /** Platforms that were given with it, or ALL_PLATFORMS. */
  readonly platforms: ReadonlySet<string>;
}

/** Where images are named. */
export interface ImageNames {
  readonly images: readonly string[];
  /** Files with further images: lists, or Kubernetes objects. */
  readonly from: readonly string[];
}

/** How to read names, and where to report what they are. */
export interface NamesReader {
  /** Returns the content of a file, of which no more than MAX_LIST_BYTES is kept in memory. */
  readonly open: (file: string) => AsyncIterable<Uint8Array>;
  /** Returns the name of a file for messages. */
  readonly shown: (file: string) => string;
  /** Whether to include values that only look like images. */
  readonly takesLikely: boolean;
  /** Called with a line for each image that an object names, with its place, and for each that is ignored. */
  readonly tell: (line: string) => void;
}

/** How many malformed entries of a file are reported: one that is no list at all may have thousands. */
const MAX_REPORTED = 10;

/** A file that should name images and is invalid. The message says which, where, and why. */
export class InvalidImageList extends Error {
  override readonly name = 'InvalidImageList';
}

/** The images that were found. */
export interface WantedImages {
  readonly images: readonly WantedImage[];
  /**
   * By file, the reason for which it could not be read; InvalidImageList if its content is invalid. The images of a list
   * that is only partly malformed are among `images` nevertheless.
   */
  readonly unread: ReadonlyMap<string, unknown>;
}

/** The images that are given by name or in files, without duplicates. Files that cannot be read are skipped. */
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
    if (list.malformed.length > 0) unread.set(file, malformedList(shown(file), list));
    for (const [name, handler] of list.handlers) handlers.set(name, handler);
    for (const [name, uses] of list.images) images.set(name, together(images.get(name) ?? uses, uses));
    if (takesLikely) for (const name of list.likely.keys()) images.set(name, images.get(name) ?? USUAL_USES);
    foundLines(shown(file), list, takesLikely).forEach(tell);
  }
  // A class without a description is assumed to have a handler of the same name, as most do.
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
  { open, shown }: Pick<NamesReader, 'open' | 'shown'>,
): Promise<ImageList> {
  const tooLarge = () => new InvalidImageList(`${shown(file)} is larger than ${formatSize(MAX_LIST_BYTES)}`);
  const content = (await collectBytes(open(file), MAX_LIST_BYTES, tooLarge)).toString();
  try {
    return imagesIn(content);
  } catch (error) {
    if (!(error instanceof YamlError)) throw error;
    const place = error.line === undefined ? shown(file) : `${shown(file)}:${error.line}`;
    throw new InvalidImageList(`${place}: ${error.message}`, { cause: error });
  }
}

function malformedList(file: string, { malformed }: ImageList): InvalidImageList {
  const reported = malformed.slice(0, MAX_REPORTED).map(({ line, fault }) => `${file}:${line}: ${fault}`);
  const others = malformed.length - reported.length;
  return new InvalidImageList(
    [...reported, ...(others === 0 ? [] : [`and ${others} more in ${file}`])].join('\n'),
  );
}

/** Lines about the images in the objects of a file; none for a plain list. */
function foundLines(file: string, list: ImageList, takesLikely: boolean): readonly string[] {
  const { places, likely, unread } = list;
  const lines = [...places].map(([name, place]) => `${file}: ${name} (${place})`);
  const verdict = takesLikely ? 'likely an image' : 'likely an image, skipped without --likely';
  lines.push(...[...likely].map(([name, place]) => `${file}: ${verdict}: ${name} (${place})`));
  lines.push(
    ...unread.map(({ text: found, place }) =>
      found === undefined
        ? `${file}: no image is given, ignored (${place})`
        : `${file}: not an image, ignored: ${found} (${place})`,
    ),
  );
  return lines;
}

/**
 * The platforms for which an image is needed: those that were given with it, and those on which its pods may run.
 * `usual` is the default; `handlers` maps handlers of RuntimeClasses to platforms. `undefined` means all platforms of
 * the image.
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
  const wanted = [...givenWith({ platforms }), ...placements.flatMap(ofPlacement)];
  return [...new Map(wanted.map(platform => [formatPlatform(platform), platform])).values()];
}

/** The platforms that were given with an image. */
export function givenWith({ platforms }: Pick<WantedImage, 'platforms'>): readonly Platform[] {
  return [...platforms].filter(text => text !== ALL_PLATFORMS).map(parsePlatform);
}
