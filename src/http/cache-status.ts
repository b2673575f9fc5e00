import type { Outcome, Served } from '../oci/pull-source.ts';

/** The cache's name in the header (RFC 9211 §2). */
const CACHE = 'entrepot';

/** For fetched content, by whether it was stored. */
const FORWARDED: Readonly<Partial<Record<Outcome, readonly [dropped: string, stored: string]>>> = {
  miss: [`${CACHE}; fwd=uri-miss`, `${CACHE}; fwd=uri-miss; stored`],
  joined: [`${CACHE}; fwd=uri-miss; collapsed`, `${CACHE}; fwd=uri-miss; stored; collapsed`],
};

/** For stored content. With `fwd=stale` upstream was asked, and confirmed it or could not answer. */
const HELD: Readonly<Partial<Record<Outcome, string>>> = {
  hit: `${CACHE}; hit`,
  revalidated: `${CACHE}; fwd=stale; detail=revalidated`,
  stale: `${CACHE}; fwd=stale; detail=upstream-failed`,
};

/** The `Cache-Status` of a response; `undefined` for hosted content, which is not cached. */
export function cacheStatus({ outcome, stored }: Pick<Served, 'outcome' | 'stored'>): string | undefined {
  return HELD[outcome] ?? FORWARDED[outcome]?.[stored ? 1 : 0];
}
