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

/** The parameters in the part of a request target after `?`, of whose characters each is a byte. */
export function parseQuery(text: string): Query {
  if (text === '') return NONE;
  const known = remembered.get(text);
  if (known !== undefined) return known;
  if (text.length > MAX_REMEMBERED_LENGTH) return new URLSearchParams(text);
  const kept = copyOf(text);
  const query = new URLSearchParams(kept);
  remembered.set(kept, query);
  return query;
}

/** V8 makes a part of a string refer to all of it: a request target of 16 KiB would stay in memory with its query. */
function copyOf(text: string): string {
  return Buffer.from(text, 'latin1').toString('latin1');
}
