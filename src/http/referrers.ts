import type { OutgoingHttpHeaders } from 'node:http';
import { OCI_INDEX } from '../oci/media-types.ts';
import type { PullSource } from '../oci/pull-source.ts';
import { pageOf, pathTo } from './answer.ts';
import { cacheStatus } from './cache-status.ts';
import type { BlobCall } from './hosted-handlers.ts';
import { jsonBody, type WholeBodies } from './whole-bodies.ts';

/** GET /v2/NAME/referrers/DIGEST (distribution spec, "Listing Referrers"). */
export async function listReferrers(call: BlobCall, source: PullSource, bodies: WholeBodies): Promise<void> {
  const { exchange, repository, name, digest, right } = call;
  const artifactType = exchange.query.get('artifactType') ?? undefined;
  const page = pageOf(exchange.query);
  const query = { artifactType, page: { ...page, limit: Math.max(1, page.limit) } };
  const served = await exchange.inTime(source.referrers(repository, digest, query, right));
  exchange.note(served);
  const headers: OutgoingHttpHeaders = { 'Content-Type': OCI_INDEX };
  const status = cacheStatus(served);
  if (status !== undefined) headers['Cache-Status'] = status;
  if (served.filtered) headers['OCI-Filters-Applied'] = 'artifactType';
  if (served.next !== undefined) {
    const n = exchange.query.get('n') ?? undefined;
    const next = pathTo(exchange, name, `referrers/${digest}`, { n, last: served.next, artifactType });
    headers['Link'] = `<${next}>; rel="next"`;
  }
  const list = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: served.manifests };
  return bodies.send(exchange, jsonBody(headers, list));
}
