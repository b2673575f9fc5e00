import { z } from '../../config/fields.ts';
import { amount, arrayOf, bytes, pageSchema, time } from './parts.ts';

/** A bundle that was made of this store, or taken into it. */
export const bundleSchema = z.object({
  id: z.string(),
  kind: z.enum(['export', 'import']),
  at: time,
  file: z.string().nullable().describe('As it was named on the command line; null for a pipe'),
  images: amount,
  names: arrayOf(z.string()).describe('The first few of them'),
  blobs: amount.describe('Blobs that the file has; of an import, that were not stored before'),
  bytes: bytes.describe('Their size'),
});
export type BundleDocument = z.output<typeof bundleSchema>;

/** The last hundred, the latest first. */
export const bundlesSchema = pageSchema(bundleSchema);
export type BundlesDocument = z.output<typeof bundlesSchema>;
