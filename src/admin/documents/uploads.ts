import { z } from '../../config/fields.ts';
import { bytes, pageSchema, time } from './parts.ts';

/** An unfinished push of a blob. */
export const uploadSchema = z.object({
  id: z
    .string()
    .describe('A part of the upload’s id, which is itself not shown: who knows it may continue it'),
  repository: z.string(),
  requester: z.string(),
  bytes,
  started: time,
  touched: time.describe('When bytes last arrived, about'),
});
export type UploadDocument = z.output<typeof uploadSchema>;

/** Those that were touched longest ago first. */
export const uploadsSchema = pageSchema(uploadSchema);
export type UploadsDocument = z.output<typeof uploadsSchema>;
