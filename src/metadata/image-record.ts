import type { Digest } from '../oci/digest.ts';

/** A manifest of a hosted repository. */
export interface HostedImage {
  /** The repository's name. */
  readonly name: string;
  readonly digest: Digest;
}

/** What the index knows of a hosted image besides its bytes. */
export interface HostedRecord {
  /** Under which the repository reads the manifest. */
  readonly mediaType: string;
  /** In ASCII order. */
  readonly tags: readonly RecordedTag[];
  /** The pins of the repository on the manifest: its digest, or tags. In ASCII order. */
  readonly pins: readonly string[];
}

export interface RecordedTag {
  readonly tag: string;
  /** When it was set, epoch ms. */
  readonly atMs: number;
}

/** An image of which something has changed since its record was last kept. */
export interface UnrecordedImage extends HostedImage {
  /** Another one after each change. */
  readonly change: string;
}

/**
 * Which records of hosted images have to be kept anew. Records are kept beside the blobs, for making a lost index again. A
 * change of an image makes it unrecorded in the same transaction, whichever version of the program makes it.
 */
export interface ImageRecords {
  /** Some of them, in any order. */
  listUnrecorded(limit: number): Promise<readonly UnrecordedImage[]>;
  /** Whether the index knows something of the image that its record does not: after a deletion, that it is gone. */
  isUnrecorded(image: HostedImage): Promise<boolean>;
  /** `undefined` if the image is gone. */
  readImageRecord(image: HostedImage): Promise<HostedRecord | undefined>;
  /** Whether a hosted repository has a manifest of this digest, intact or not. */
  isHostedManifest(digest: Digest): Promise<boolean>;
  /**
   * Call when the record is durable that was read after `listUnrecorded`. If the image has changed since, it stays
   * unrecorded. If another process has recorded it since, it becomes so again: whose record was written last is not known.
   */
  noteRecorded(image: UnrecordedImage): Promise<void>;
  /** Makes images unrecorded, whether or not they exist. */
  noteUnrecorded(images: readonly HostedImage[]): Promise<void>;
  /** Makes some of all images unrecorded, from the position `after` on; returns where to continue, `undefined` at the end. */
  noteAllUnrecorded(after?: HostedImage): Promise<HostedImage | undefined>;
}

/** How many images one call of `noteAllUnrecorded` looks at: a few milliseconds. */
export const NOTED_AT_ONCE = 200;
