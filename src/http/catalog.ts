import type { Hosted } from '../hosted/hosted.ts';
import { linkToNext } from '../lib/link-header.ts';
import { pageOf } from './answer.ts';
import type { Cursors } from './cursors.ts';
import type { HostedHandlers } from './hosted-handlers.ts';

/**
 * `GET /v2/_catalog`: Docker's, not in the OCI spec. It lists what lives here and the requester may pull, and names
 * nothing else: a page that ends at another repository goes on by a sealed cursor.
 */
export function catalogHandler(hosted: Hosted, cursors: Cursors): HostedHandlers['catalog'] {
  return async call => {
    const page = pageOf(call.exchange.query, last => cursors.open(last));
    const { repositories, next } = await hosted.catalog(page, repository => call.maySee(repository));
    const last = next === undefined || next === repositories.at(-1) ? next : cursors.seal(next);
    const link = last === undefined ? {} : { Link: linkToNext(pagePath(page.limit, last)) };
    await call.send(link, { repositories });
  };
}

function pagePath(limit: number, last: string): string {
  return `/v2/_catalog?${new URLSearchParams({ n: String(limit), last }).toString()}`;
}
