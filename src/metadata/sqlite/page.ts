import type { Page } from '../../oci/pull-source.ts';
import type { Paged } from '../metadata-store.ts';

/** Whatever a client asks for, a page is read in about a millisecond and fits in a response body. */
const MAX_PAGE_ENTRIES = 1000;

/** What a paged statement binds last: the name to begin after, and one row more than the page has, to see the next. */
export type PageRange = [after: string, rows: number];

export function pageRange(page: Page): PageRange {
  return [page.after ?? '', pageLimit(page) + 1];
}

/** The page of `rows`, read with `pageRange`. */
export function toPage<T>(page: Page, rows: readonly T[]): Paged<T> {
  const limit = pageLimit(page);
  return { entries: rows.slice(0, limit), more: rows.length > limit };
}

function pageLimit(page: Page): number {
  return Math.max(0, Math.min(Math.trunc(page.limit), MAX_PAGE_ENTRIES));
}
