import { InvalidReference } from '../oci/reference.ts';
import { missingOfImage, missingText, unsuitedImage } from '../prepull/image-check.ts';
import { ALL_PLATFORMS } from '../prepull/image-list.ts';
import { DEFAULT_PLATFORM, formatPlatform, type Platform } from '../oci/platform.ts';
import { heldName } from './held-name.ts';
import type { Parts } from './parts.ts';
import type { MeantImage } from './prepull.ts';

/** How many missing items are listed for an image. */
export const SHOWN_MISSING = 5;

/** Whether an image can be pulled from here without any upstream. */
export interface ImageFinding {
  /** For a list of images to pull; `null` if the name is invalid. */
  readonly line: string | null;
  /** The first missing items. */
  readonly missing: readonly string[];
  /** Why it cannot be pulled; `undefined` if it can. */
  readonly reason: string | undefined;
}

/** Checks that everything that nodes need of an image is stored. `meant` throws if its name is invalid. */
export async function imageFinding(
  parts: Pick<Parts, 'config' | 'metadata' | 'blobs'>,
  name: string,
  meant: () => MeantImage,
): Promise<ImageFinding> {
  let line = name;
  try {
    const { repository, reference, platforms, givenPlatforms } = meant();
    line = lineOf(name, platforms);
    const held = await heldName(parts, repository, reference);
    const unsuited = await unsuitedImage(parts, held.repository, reference, givenPlatforms);
    const lacking = await missingOfImage(parts, held.repository, reference, held.platforms ?? platforms);
    const all = unsuited === undefined ? lacking : [unsuited, ...lacking];
    const reason = all.length === 0 ? undefined : await missingText(parts, all, SHOWN_MISSING);
    return { line, missing: all.slice(0, SHOWN_MISSING), reason };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { line: error instanceof InvalidReference ? null : line, missing: [], reason };
  }
}

/**
 * A line for a list of images: with the platforms for which the image is needed, unless they are the default without a
 * configuration, since the reader of the list may have another configuration.
 */
export function lineOf(name: string, platforms: readonly Platform[] | undefined): string {
  if (platforms === undefined) return `${name} ${ALL_PLATFORMS}`;
  const wanted = [...new Set(platforms.map(formatPlatform))].sort().join();
  return wanted === formatPlatform(DEFAULT_PLATFORM) ? name : `${name} ${wanted}`;
}
