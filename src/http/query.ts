import { Lru } from '../lib/lru.ts';

/** The parameters of a request. Requests with the same text share them. */
export type Query = Pick<URLSearchParams, 'get' | 'getAll'>;

/** `?ns=` of each upstream, and some pages of lists. */
const MAX_REMEMBERED = 1_000;
/** Longer ones do not come twice. */
const MAX_REMEMBERED_LENGTH = 100;

/** By their text: parsing `?ns=` costs more than finding the repository. */
const remembered = new Lru<Query>({ maxEntries: MAX_REMEMBERED });

const NONE: Query = new URLSearchParams();

/** The parameters in the part of a URL after `?`. */
export function parseQuery(text: string): Query {
  if (text === '') return NONE;
  const known = remembered.get(text);
  if (known !== undefined) return known;
  const query = new URLSearchParams(text);
  if (text.length <= MAX_REMEMBERED_LENGTH) remembered.set(text, query);
  return query;
}
