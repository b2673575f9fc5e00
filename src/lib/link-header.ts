/** A page has one or two links; a longer header is an attempt to waste our time. */
const MAX_LINK_HEADER_LENGTH = 8 * 1024;

/** `<target>; params` up to the comma that ends it; a comma inside a quoted parameter does not. */
const LINK = /<([^<>]*)>((?:[^,"<>]|"(?:[^"\\]|\\.)*")*)/g;
const PARAMETER = /;\s*([a-z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]+))/gi;

/** The target of the first link with the relation `next` (RFC 8288), unresolved; `undefined` if there is none. */
export function nextLink(header: string | undefined): string | undefined {
  if (header === undefined || header.length > MAX_LINK_HEADER_LENGTH) return undefined;
  for (const [, target, parameters] of header.matchAll(LINK)) {
    for (const [, name, quoted, token] of (parameters ?? '').matchAll(PARAMETER)) {
      // Only the first `rel` of a link counts (RFC 8288, section 3.3).
      if (name?.toLowerCase() !== 'rel') continue;
      const relations = (quoted ?? token ?? '').toLowerCase().split(/\s+/);
      if (relations.includes('next')) return target;
      break;
    }
  }
  return undefined;
}

/** The header that names `target`, a valid URI reference, as the next page. */
export function linkToNext(target: string): string {
  return `<${target}>; rel="next"`;
}
