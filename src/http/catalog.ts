import type { Hosted } from '../hosted/hosted.ts';
import { linkToNext } from '../lib/link-header.ts';
import { answerJson, pageOf } from './answer.ts';
import type { HostedHandlers } from './hosted-handlers.ts';

/** `GET /v2/_catalog`: Docker's, not in the OCI spec. It lists what lives here and the requester may pull. */
export function catalogHandler(hosted: Hosted): HostedHandlers['catalog'] {
  return async call => {
    const page = pageOf(call.exchange.query);
    const { repositories, next } = await hosted.catalog(page, repository => call.maySee(repository));
    const link = next === undefined ? {} : { Link: linkToNext(pagePath(page.limit, next)) };
    answerJson(call.exchange, 200, link, { repositories });
  };
}

function pagePath(limit: number, last: string): string {
  return `/v2/_catalog?${new URLSearchParams({ n: String(limit), last }).toString()}`;
}
