import type { Presence } from '../lib/lease.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import type { Digest } from '../oci/digest.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';

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

/** An image of which there is a record. */
export interface RecordedImage extends HostedImage {
  readonly record: HostedRecord;
  /** `undefined`: the image is not added if the index does not have it. */
  readonly content:
    | {
        readonly manifest: Manifest;
        readonly view: ManifestView;
        /** Those of its blobs that belong to the repository. */
        readonly blobs: readonly Descriptor[];
      }
    | undefined;
}

export interface AddRecordedOptions {
  /** When they are added, epoch ms. */
  readonly atMs: number;
  /** Whether images that the index has get the tags and pins of their records, too. */
  readonly completesKnown: boolean;
  /** A setting that is written in the same transaction: how far a rebuild has come. */
  readonly setting?: { readonly name: string; readonly value: string } | undefined;
  /** As in `During`. */
  readonly during?: Presence | undefined;
}

export interface AddedImages {
  /** How many manifests were added. */
  readonly manifests: number;
  /** How many tags were set. */
  readonly tags: number;
  /** Blobs of what was added that are not stored, each with the name of its repository; some several times. */
  readonly missing: readonly { readonly name: string; readonly digest: Digest }[];
}

/** An image of which something has changed since its record was last kept. */
export interface UnrecordedImage extends HostedImage {
  /** Another one after each change. */
  readonly change: string;
}

/**
 * Which records of hosted images have to be written again. Records are kept beside the blobs, for making a lost index again. A
 * change of an image makes it unrecorded in the same transaction, whichever version of the program makes it.
 */
export interface ImageRecords {
  /** Some of them, in the order of their names and digests, and from the position `after` on. */
  listUnrecorded(limit: number, after?: HostedImage): Promise<readonly UnrecordedImage[]>;
  /** How many there are; `most` if there are more. */
  countUnrecorded(most: number): Promise<number>;
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
  /**
   * Makes of records what a lost index had: of an image that the index does not have the manifest, with Links of its blobs, and
   * all of its tags and pins. A tag that was set since, or when the record of another image says so, stays as it is. An image
   * that is unrecorded and gone was deleted since, and does not come back. All of it in one transaction.
   */
  addRecordedImages(images: readonly RecordedImage[], options: AddRecordedOptions): Promise<AddedImages>;
  /** Makes images unrecorded, whether or not they exist. */
  noteUnrecorded(images: readonly HostedImage[]): Promise<void>;
  /** Makes some of all images unrecorded, from the position `after` on; returns where to continue, `undefined` at the end. */
  noteAllUnrecorded(after?: HostedImage): Promise<HostedImage | undefined>;
}

/** How many images one call of `noteAllUnrecorded` looks at: a few milliseconds. */
export const NOTED_AT_ONCE = 200;
