import type { Digest } from '../oci/digest.ts';
import { type Repository, repositoryText } from '../oci/repository.ts';
import { ArchiveError } from './archive-error.ts';
import type { BundleImage, BundleIndex } from './layout.ts';

/** The repository and tag that an image of an archive gets. */
export interface ImagePlace {
  readonly repository: Repository;
  readonly tag?: string | undefined;
  /** The digest in the image's name, if it has one. */
  readonly digest?: string | undefined;
}

export interface PlacementOptions {
  /** The meaning of an image's name here; `undefined` stands for an unnamed image. May throw. */
  readonly placeOf: (name: string | undefined) => ImagePlace | undefined;
  /** The grantee for whom mirrored images are imported; by default everybody. */
  readonly grantee?: string | undefined;
  /** Called when every image has its place. An ArchiveError from it refuses the archive. */
  readonly allPlaced?: (() => void) | undefined;
  /** Whether content of private repositories may become public. */
  readonly mayPublish?: boolean;
}

/** An image of an archive; without a place it belongs to the repositories of its subject. */
export interface PlacedImage {
  readonly image: BundleImage;
  readonly place: ImagePlace | undefined;
}

/** Called for each image that is refused, with the reason. If it throws, no other image is checked. */
export type Refuse = (image: BundleImage, error: ArchiveError) => void;

/** Ends at the first refusal. */
export const refuseAtOnce: Refuse = (_, error) => {
  throw error;
};

/** The result of `act`; `undefined` if it refused the image with an ArchiveError. */
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
 * Finds the place of every named image. This needs only the archive's index, so a long archive with wrong names is
 * refused at once. Refused images are left out. Throws ArchiveError if there is no image at all.
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
  options.allPlaced?.();
  return placed;
}

/** One tag cannot mean two images. */
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

function placeOf(
  { name, descriptor, isPrivate }: BundleImage,
  options: PlacementOptions,
): ImagePlace | undefined {
  const { digest } = descriptor;
  const place = meantBy(name, options);
  if (place?.digest !== undefined && place.digest !== digest) {
    throw new ArchiveError(`${name} names a digest other than its own, ${digest}`);
  }
  const isForAll = place !== undefined && place.repository.upstream !== '' && options.grantee === undefined;
  if (isPrivate && isForAll && options.mayPublish !== true) {
    throw new ArchiveError(
      `${name ?? digest} is marked as private (from a private repository, or not proved public recently enough before ` +
        'the export): grant it to one tenant with --tenant, or to everybody with --public',
    );
  }
  return place;
}

/** The meaning of a name. A name that means nothing here is an error of the archive or its importer. */
function meantBy(name: string | undefined, options: PlacementOptions): ImagePlace | undefined {
  try {
    return options.placeOf(name);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ArchiveError(name === undefined ? reason : `${name}: ${reason}`, { cause: error });
  }
}
