import type { Digest } from '../oci/digest.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import type { BundleImage, BundleIndex } from './layout.ts';

/** Where an image of an archive belongs here. */
export interface Place {
  readonly repository: Repository;
  readonly tag?: string | undefined;
  /** What the name says its digest is. */
  readonly digest?: string | undefined;
}

export interface PlacementOptions {
  /** What the name of an image means here; `undefined` is the name of one that the archive does not name. May throw. */
  readonly placeOf: (name: string | undefined) => Place | undefined;
  /** Whose mirrored images become: preloaded for this grantee, by default for everybody. */
  readonly grantee?: string | undefined;
  /** Content of private repositories may become public. */
  readonly mayPublish?: boolean;
}

/** An image of an archive; without a place it belongs beside what it refers to. */
export interface PlacedImage {
  readonly image: BundleImage;
  readonly place: Place | undefined;
}

/**
 * Finds a place for every image that has a name. All of it can be said of the index alone, so a long archive need not be
 * read to be refused for its names. Throws ArchiveError.
 */
export function placeAll({ images }: BundleIndex, options: PlacementOptions): readonly PlacedImage[] {
  if (images.length === 0) throw new ArchiveError('it holds no image');
  const placed = images.map(image => ({ image, place: placeOf(image, options) }));
  requireOneEach(placed);
  return placed;
}

/** One tag cannot mean two images: the later one would take the name of the other. */
function requireOneEach(placed: readonly PlacedImage[]): void {
  const digests = new Map<string, Digest>();
  for (const { image, place } of placed) {
    if (place?.tag === undefined) continue;
    const name = `${repositoryText(place.repository)}:${place.tag}`;
    const { digest } = image.descriptor;
    const other = digests.get(name) ?? digest;
    if (other !== digest) throw new ArchiveError(`${name} would be two images, ${other} and ${digest}`);
    digests.set(name, digest);
  }
}

function placeOf({ name, descriptor, isPrivate }: BundleImage, options: PlacementOptions): Place | undefined {
  const { digest } = descriptor;
  const place = meantBy(name, options);
  if (place?.digest !== undefined && place.digest !== digest) {
    throw new ArchiveError(`${name} names a digest that is not its own, ${digest}`);
  }
  const isForAll = place !== undefined && place.repository.upstream !== '' && options.grantee === undefined;
  if (isPrivate && isForAll && options.mayPublish !== true) {
    throw new ArchiveError(
      `${name ?? digest} comes from a private repository: --tenant gives it to one tenant, --public to everybody here`,
    );
  }
  return place;
}

/** A name that nothing here is called by is a fault of the archive, or of who imports it: nothing is kept. */
function meantBy(name: string | undefined, options: PlacementOptions): Place | undefined {
  try {
    return options.placeOf(name);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ArchiveError(name === undefined ? reason : `${name}: ${reason}`, { cause: error });
  }
}
