import { z } from '../../config/fields.ts';

/** ISO 8601, in UTC. */
export const time = z.iso.datetime();

export const bytes = z.int().nonnegative();

export const amount = z.int().nonnegative();

/** An array that nothing changes. */
export function arrayOf<Item extends z.ZodType>(item: Item): z.ZodReadonly<z.ZodArray<Item>> {
  return z.array(item).readonly();
}

/** In base64: twice the longest upstream, repository and digest, as the place of a page in the index and of an entry in it. */
const MAX_CURSOR_LENGTH = 2_048;
/** A repository with a tag and a digest. */
const MAX_TYPED_LENGTH = 1_024;
/** What a page of a list may have at most: an answer stays far below a megabyte. */
const MAX_PAGE = 500;
const DEFAULT_PAGE = 100;

/** The query of every list that comes in pages. */
export const pageQuery = z.object({
  after: z
    .string()
    .max(MAX_CURSOR_LENGTH)
    .optional()
    .describe('`next` of the page before. Entries that were added or removed meanwhile shift no other entry'),
  limit: z.coerce.number().int().min(1).max(MAX_PAGE).default(DEFAULT_PAGE).describe('Entries per page'),
});

/** A page of a list. */
export function pageSchema<Entry extends z.ZodType>(entry: Entry) {
  return z.object({
    entries: arrayOf(entry),
    next: z.string().nullable().describe('`after` for the next page; null on the last one'),
  });
}

/** Part of a query: `true` or `false`. */
export const truth = z.enum(['true', 'false']).transform(text => text === 'true');

/** A text that people type, such as an image reference or a part of a name. */
export const typed = z.string().min(1).max(MAX_TYPED_LENGTH);
