import { type Digest, isDigest, parseDigest } from '../oci/digest.ts';
import { OciError } from '../oci/errors.ts';
import { isRepositoryName, isTag, MAX_REPOSITORY_LENGTH, parseTag } from '../oci/reference.ts';

/** What a path asks for. `name` is as written; `RepositoryResolver` decides which repository it means. */
export type Route =
  | { readonly kind: 'base' }
  | { readonly kind: 'catalog' }
  | { readonly kind: 'token' }
  | { readonly kind: 'manifest'; readonly name: string; readonly reference: string }
  | { readonly kind: 'blob'; readonly name: string; readonly digest: Digest }
  | { readonly kind: 'tags'; readonly name: string }
  | { readonly kind: 'referrers'; readonly name: string; readonly digest: Digest }
  | { readonly kind: 'uploads'; readonly name: string }
  | { readonly kind: 'upload'; readonly name: string; readonly id: string };

export type RouteKind = Route['kind'];

/** The tag or digest of a route, if it has one. */
export function referenceOf(route: Route): string | undefined {
  switch (route.kind) {
    case 'manifest':
      return route.reference;
    case 'blob':
    case 'referrers':
      return route.digest;
    default:
      return undefined;
  }
}

/** A DNS name has at most 253 characters; with a port and a slash it may precede the longest repository name. */
const MAX_NAME_LENGTH = 260 + MAX_REPOSITORY_LENGTH;

/** The part before the first slash may be an upstream's `host:port`, which is not a valid repository component. */
const HOST_AND_PORT = /^[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?:[0-9]{1,5}$/;

const UPLOAD_ID = /^[A-Za-z0-9_-]{1,128}$/;

/** What may follow a name, the longest first: `NAME/blobs/uploads/ID` is not a blob. */
const NOUNS = ['/blobs/uploads', '/manifests', '/blobs', '/referrers'] as const;

/** The path and query of a request target. */
export function splitTarget(target: string): { path: string; query: string } {
  const mark = target.indexOf('?');
  return mark === -1
    ? { path: target, query: '' }
    : { path: target.slice(0, mark), query: target.slice(mark + 1) };
}

/**
 * The route of a raw path; throws an OciError. The path is split before it is decoded, so an encoded slash never
 * separates. Valid names need no encoding, so an encoded one is refused; what follows the noun is decoded once and then
 * validated. `method` matters in one case: reading a tag that cannot exist is "unknown", writing it is "invalid".
 */
export function parsePath(path: string, method: string): Route {
  if (path === '/token') return { kind: 'token' };
  if (path === '/v2' || path === '/v2/') return { kind: 'base' };
  if (path === '/v2/_catalog') return { kind: 'catalog' };
  if (!path.startsWith('/v2/')) throw nothingHere(path);
  if (path.endsWith('/tags/list')) return { kind: 'tags', name: parseName(path.slice(4, -10)) };
  if (path.endsWith('/blobs/uploads')) return { kind: 'uploads', name: parseName(path.slice(4, -14)) };

  const slash = path.lastIndexOf('/');
  const noun = NOUNS.find(word => path.endsWith(word, slash));
  if (noun === undefined) throw nothingHere(path);
  const name = path.slice(4, slash - noun.length);
  const last = path.slice(slash + 1);
  switch (noun) {
    case '/manifests':
      return {
        kind: 'manifest',
        name: parseName(name),
        reference: parseManifestReference(decodeOnce(last), method),
      };
    case '/blobs':
      return { kind: 'blob', name: parseName(name), digest: parseDigest(decodeOnce(last)) };
    case '/referrers':
      return { kind: 'referrers', name: parseName(name), digest: parseDigest(decodeOnce(last)) };
    case '/blobs/uploads':
      break;
  }
  return last === ''
    ? { kind: 'uploads', name: parseName(name) }
    : { kind: 'upload', name: parseName(name), id: parseUploadId(last) };
}

/** A repository name as in a path or a scope, perhaps with an upstream's host in front; throws NAME_INVALID. */
export function parseName(name: string): string {
  const slash = name.indexOf('/');
  const isPrefixed = slash !== -1 && HOST_AND_PORT.test(name.slice(0, slash));
  const withinGrammar = isPrefixed
    ? isRepositoryName(name.slice(slash + 1))
    : isNameOfComponents(name, slash);
  if (!withinGrammar || name.length > MAX_NAME_LENGTH) {
    throw new OciError('NAME_INVALID', { detail: { name: name.slice(0, MAX_REPOSITORY_LENGTH) } });
  }
  return name;
}

/** The length limit applies to the repository, without an upstream's name before it. */
function isNameOfComponents(name: string, slash: number): boolean {
  if (name.length <= MAX_REPOSITORY_LENGTH) return isRepositoryName(name);
  return slash !== -1 && isRepositoryName(name.slice(0, slash)) && isRepositoryName(name.slice(slash + 1));
}

function parseManifestReference(reference: string, method: string): string {
  if (isTag(reference) || isDigest(reference)) return reference;
  if (reference.includes(':')) return parseDigest(reference);
  if (method === 'PUT') return parseTag(reference);
  throw new OciError('MANIFEST_UNKNOWN', { detail: { reference: reference.slice(0, 128) } });
}

function parseUploadId(id: string): string {
  if (!UPLOAD_ID.test(id)) throw new OciError('BLOB_UPLOAD_UNKNOWN');
  return id;
}

function decodeOnce(text: string): string {
  if (!text.includes('%')) return text;
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new OciError('QUERY_INVALID', { message: 'the path has a malformed percent-encoding', cause });
  }
}

function nothingHere(path: string): OciError {
  return new OciError('NAME_UNKNOWN', {
    message: 'this path is not part of the registry API',
    detail: { path: path.slice(0, MAX_NAME_LENGTH) },
  });
}
