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

/** Told of each image that cannot be taken in, and why. What it throws ends the search for others. */
export type Refuse = (image: BundleImage, error: ArchiveError) => void;

/** The first one is enough. */
export const refuseAtOnce: Refuse = (_, error) => {
  throw error;
};

/** What `act` makes of the image; `undefined` when it was refused by an ArchiveError. */
export async function unlessRefused<T>(
  image: BundleImage,
  refuse: Refuse,
  act: () => T | Promise<T>,
): Promise<T | undefined> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof ArchiveError)) throw error;
    refuse(image, error);
    return undefined;
  }
}

/**
 * Finds a place for every image that has a name. All of it can be said of the index alone, so a long archive need not be
 * read to be refused for its names. Images that are refused are left out. ArchiveError when there is none at all.
 */
export async function placeAll(
  { images }: BundleIndex,
  options: PlacementOptions,
  refuse: Refuse = refuseAtOnce,
): Promise<readonly PlacedImage[]> {
  if (images.length === 0) throw new ArchiveError('it contains no images');
  const names = new OneImageEach();
  const placed: PlacedImage[] = [];
  for (const image of images) {
    const one = await unlessRefused(image, refuse, () => {
      const found = { image, place: placeOf(image, options) };
      names.add(found);
      return found;
    });
    if (one !== undefined) placed.push(one);
  }
  return placed;
}

/** One tag cannot mean two images: the later one would take the name of the other. */
class OneImageEach {
  readonly #digests = new Map<string, Digest>();

  add({ image, place }: PlacedImage): void {
    if (place?.tag === undefined) return;
    const name = `${repositoryText(place.repository)}:${place.tag}`;
    const { digest } = image.descriptor;
    const other = this.#digests.get(name) ?? digest;
    if (other !== digest) throw new ArchiveError(`${name} would mean two images, ${other} and ${digest}`);
    this.#digests.set(name, digest);
  }
}

function placeOf({ name, descriptor, isPrivate }: BundleImage, options: PlacementOptions): Place | undefined {
  const { digest } = descriptor;
  const place = meantBy(name, options);
  if (place?.digest !== undefined && place.digest !== digest) {
    throw new ArchiveError(`${name} names a digest other than its own, ${digest}`);
  }
  const isForAll = place !== undefined && place.repository.upstream !== '' && options.grantee === undefined;
  if (isPrivate && isForAll && options.mayPublish !== true) {
    throw new ArchiveError(
      `${name ?? digest} comes from a private repository: grant it to one tenant with --tenant, or to everybody with --public`,
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
