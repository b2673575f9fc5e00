import { z } from '../../config/fields.ts';
import { bytes, amount, arrayOf, pageSchema, pageQuery, time, truth, typed } from './parts.ts';

export const imageSource = z.enum(['hosted', 'imported', 'mirror']);

/** An image by its name, and what is stored of it. */
export const imageSchema = z.object({
  image: z.string().describe('In the form that inspect and pin accept'),
  digest: z.string(),
  platforms: arrayOf(z.object({ platform: z.string().nullable(), complete: z.boolean() })),
  ownBytes: bytes.describe('What removing this name alone would free'),
  sharedBytes: bytes.describe('What other names need as well'),
  missingBytes: bytes,
  lastUsed: time.nullable(),
  source: imageSource,
  pinned: z.boolean(),
  damaged: z.boolean(),
});
export type ImageDocument = z.output<typeof imageSchema>;

export const imagesQuery = pageQuery.extend({
  q: typed.optional().describe('Words that are all in the name or the digest'),
  source: imageSource.optional(),
  platform: typed.optional().describe('Such as linux/arm64: images that have it, completely or not'),
  pinned: truth.optional(),
  damaged: truth.optional(),
  incomplete: truth.optional().describe('true: only images of which something is missing'),
  sort: z
    .enum(['name', 'used', 'own', 'shared'])
    .default('name')
    .describe('By name; or last used, or largest, first'),
});
export type ImagesQuery = z.output<typeof imagesQuery>;

/**
 * A page of images. It may be shorter than `limit`, even empty, and have a `next`: a search through a large store is
 * answered in steps.
 */
export const imagesSchema = pageSchema(imageSchema).extend({
  examined: amount.describe('How many names were examined for this page'),
  partial: z
    .boolean()
    .describe('The order is only that of the images examined so far: request the first page again'),
});
export type ImagesDocument = z.output<typeof imagesSchema>;

const partState = z.enum(['held', 'held, shared', 'missing', 'damaged']);

/** The parts of an image. */
export const inspectSchema = z.object({
  image: z.string(),
  digest: z.string(),
  pinned: z.boolean(),
  ownBytes: bytes,
  sharedBytes: bytes,
  missingBytes: bytes,
  missingManifests: amount,
  lastUsed: time.nullable(),
  manifests: arrayOf(
    z.object({
      digest: z.string(),
      mediaType: z.string().nullable(),
      size: bytes,
      state: partState,
      index: z.boolean(),
      platform: z.string().nullable(),
      blobs: arrayOf(
        z.object({
          digest: z.string(),
          mediaType: z.string(),
          size: bytes,
          state: partState,
          bytesThere: bytes.describe('Of one that is not held: ranges, and what a download has brought'),
          config: z.boolean(),
        }),
      ),
    }),
  ),
});
export type InspectDocument = z.output<typeof inspectSchema>;
