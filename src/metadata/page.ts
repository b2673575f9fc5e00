import type { Page } from '../oci/pull-source.ts';
import type { Paged } from './metadata-store.ts';

/** However many entries a client asks for, a page is read in about a millisecond. */
const MAX_PAGE_ENTRIES = 1000;

/**
 * The last parameters of a paged statement: the name after which to begin, and the page size plus one, to see whether
 * there is more.
 */
export type PageRange = [after: string, rows: number];

/** The parameters for a page of a statement. */
export function pageRange(page: Page): PageRange {
  return [page.after ?? '', pageLimit(page) + 1];
}

/** The page of `rows`, which were read with `pageRange`. */
export function toPage<T>(page: Page, rows: readonly T[]): Paged<T> {
  const limit = pageLimit(page);
  return { entries: rows.slice(0, limit), more: rows.length > limit };
}

function pageLimit(page: Page): number {
  return Math.max(0, Math.min(Math.trunc(page.limit), MAX_PAGE_ENTRIES));
}
