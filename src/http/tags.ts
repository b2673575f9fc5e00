import type { OutgoingHttpHeaders } from 'node:http';
import type { PullSource } from '../oci/pull-source.ts';
import { pageOf, pathTo } from './answer.ts';
import { cacheStatus } from './cache-status.ts';
import type { Call } from './hosted-handlers.ts';
import { jsonBody, type WholeBodies } from './whole-bodies.ts';

/** GET /v2/NAME/tags/list (distribution spec, "Listing Tags"). */
export async function listTags(call: Call, source: PullSource, bodies: WholeBodies): Promise<void> {
  const { exchange, repository, name, right } = call;
  const page = pageOf(exchange.query);
  // n=0 is answered without tags and Link, but only if the requester may see the repository: so the source is asked for
  // one tag.
  const isEmptyPage = page.limit === 0;
  const asked = isEmptyPage ? { ...page, limit: 1 } : page;
  const served = await exchange.inTime(source.tags(repository, asked, right));
  exchange.note(served);
  const headers: OutgoingHttpHeaders = {};
  const status = cacheStatus(served);
  if (status !== undefined) headers['Cache-Status'] = status;
  if (served.next !== undefined && !isEmptyPage) {
    const next = pathTo(exchange, name, 'tags/list', { n: String(page.limit), last: served.next });
    headers['Link'] = `<${next}>; rel="next"`;
  }
  const list = { name, tags: isEmptyPage ? [] : served.tags };
  return bodies.send(exchange, jsonBody(headers, list));
}
