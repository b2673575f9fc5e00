import { nextLink } from '../lib/link-header.ts';
import { parseUrl } from '../lib/url.ts';
import { documents } from '../oci/documents.ts';
import type { Page } from '../oci/pull-source.ts';
import { isTag } from '../oci/reference.ts';
import type { Ask, FetchedTags } from './answers.ts';
import { collect, headerOf } from './body.ts';
import type { Endpoint } from './endpoints.ts';
import { UpstreamFailure } from './failures.ts';
import { tagsPath } from './names.ts';

/** 10,000 tags of 128 characters are 1.3 MiB; servers without paging send all that they have. */
const MAX_TAGS_BYTES = 4 * 1024 * 1024;

/** See `Upstream.fetchTags`. */
export async function fetchTags(
  endpoint: Endpoint,
  repository: string,
  page: Page,
  ask: Ask,
): Promise<FetchedTags> {
  const { limit, after } = page;
  const query = new URLSearchParams({ n: String(limit), ...(after === undefined ? {} : { last: after }) });
  const reply = await endpoint.send({ method: 'GET', repository, path: tagsPath(repository, query) }, ask);
  const bytes = await collect(reply.response, MAX_TAGS_BYTES, reply.context);
  // A server that ignores `last` or `n` sends its list from the start, or all of it.
  const listed = await documents.ask('tags', bytes, { limit, after });
  if (listed === undefined) {
    const { what, url } = reply.context;
    throw new UpstreamFailure('invalid', `${what}: ${url.host} did not send a list of tags`, reply.context);
  }
  const { entries: tags, more: isCut } = listed;
  const link = nextLink(headerOf(reply.response, 'link'));
  const next = isCut || link === undefined ? undefined : lastOf(link, reply.url);
  const more = isCut || link !== undefined;
  return { tags, next: more ? (next ?? tags.at(-1)) : undefined, proof: endpoint.index === 0 };
}

/** Only the position in the list is taken from the link, never its address. */
function lastOf(link: string, base: URL): string | undefined {
  const last = parseUrl(link, base)?.searchParams.get('last') ?? '';
  return isTag(last) ? last : undefined;
}
