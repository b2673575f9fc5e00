import type { Hosted } from '../hosted/hosted.ts';
import { linkToNext } from '../lib/link-header.ts';
import { pageOf } from './answer.ts';
import type { Cursors } from './cursors.ts';
import type { HostedHandlers } from './hosted-handlers.ts';

/**
 * `GET /v2/_catalog`, which is Docker's and not in the OCI spec. It lists the hosted repositories that the requester
 * may pull. If a page ends at another one, the next page begins at a sealed cursor instead of its name.
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
