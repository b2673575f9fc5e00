import { AdminProblem } from './admin-problem.ts';

/** What a client asks for of a list. */
export interface PageAsk {
  readonly after?: string | undefined;
  readonly limit: number;
}

/** A page of entries, and where the next one begins; `null` after the last. */
export interface ListPage<Entry> {
  readonly entries: readonly Entry[];
  readonly next: string | null;
}

/**
 * The page of `sorted` that begins after the cursor. `keyOf` is what it is sorted by, ascending: entries that come or go
 * between two pages move no other.
 */
export function pageOfSorted<Entry>(
  sorted: readonly Entry[],
  keyOf: (entry: Entry) => string,
  { after, limit }: PageAsk,
): ListPage<Entry> {
  const key = after === undefined ? undefined : openCursor(after);
  const rest = key === undefined ? sorted : sorted.filter(entry => keyOf(entry) > key);
  const entries = rest.slice(0, limit);
  const last = entries.at(-1);
  return { entries, next: last !== undefined && rest.length > limit ? cursorOf(keyOf(last)) : null };
}

/** `entries` by their keys. */
export function sortedBy<Entry>(
  entries: readonly Entry[],
  keyOf: (entry: Entry) => string,
): readonly Entry[] {
  const keyed = entries.map(entry => ({ entry, key: keyOf(entry) }));
  keyed.sort((one, other) => (one.key < other.key ? -1 : one.key > other.key ? 1 : 0));
  return keyed.map(({ entry }) => entry);
}

/** A key as a text for URLs. */
export function cursorOf(key: string): string {
  return Buffer.from(key).toString('base64url');
}

/** The key in a cursor; throws AdminProblem if it cannot be one. */
export function openCursor(cursor: string): string {
  if (!/^[\w-]*$/.test(cursor)) throw new AdminProblem('invalid', 'after is not a cursor of this list');
  return Buffer.from(cursor, 'base64url').toString();
}

/** A number as a part of a key: fixed width, so that texts sort as numbers do. */
export function keyOfNumber(number: number): string {
  return String(Math.trunc(number)).padStart(16, '0');
}
