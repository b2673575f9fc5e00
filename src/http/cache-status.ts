import type { Outcome, Served } from '../oci/pull-source.ts';

/** The cache's name in the header (RFC 9211 §2). */
const CACHE = 'entrepot';

/** What was fetched now, by whether it is kept. */
const FORWARDED: Readonly<Partial<Record<Outcome, readonly [dropped: string, stored: string]>>> = {
  miss: [`${CACHE}; fwd=uri-miss`, `${CACHE}; fwd=uri-miss; stored`],
  joined: [`${CACHE}; fwd=uri-miss; collapsed`, `${CACHE}; fwd=uri-miss; stored; collapsed`],
};

/** What was held. Both kinds of `fwd=stale` were: upstream was asked, and it agreed or could not answer. */
const HELD: Readonly<Partial<Record<Outcome, string>>> = {
  hit: `${CACHE}; hit`,
  revalidated: `${CACHE}; fwd=stale; detail=revalidated`,
  stale: `${CACHE}; fwd=stale; detail=upstream-failed`,
};

/** `Cache-Status` of an answer; `undefined` for what lives here, which no cache was asked for. */
export function cacheStatus({ outcome, stored }: Pick<Served, 'outcome' | 'stored'>): string | undefined {
  return HELD[outcome] ?? FORWARDED[outcome]?.[stored ? 1 : 0];
}
