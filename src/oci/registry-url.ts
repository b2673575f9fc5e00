import { isRepositoryName } from './reference.ts';

/**
 * The URL of another registry: a host, and a path if its API is not at `/v2`, or if all its repositories share the
 * beginning of their names (a proxy project of Harbor, a remote repository of Artifactory, an upstream of another
 * Entrepot).
 */
export interface RegistryUrl {
  /** The canonical form: without a slash at the end, and without a path if that is just `/v2`. */
  readonly text: string;
  /** What `/<repository>/manifests/<reference>` is appended to: `https://registry.example/v2/proxy-hub`. */
  readonly api: string;
  /** With its port, unless that is the scheme's default. */
  readonly host: string;
  /** The path before `/v2`, such as `/artifactory/api/docker/hub`; '' if there is none. */
  readonly root: string;
  /**
   * The common beginning of repository names, after `/v2/`, with a slash at its end: `proxy-hub/`; '' if there is none.
   */
  readonly prefix: string;
}

/**
 * The path up to the first `/v2`, and what follows. Only unreserved characters (RFC 3986, 2.3), so that there is one
 * spelling.
 */
const PATH = /^((?:\/[\w.~-]+)*?)\/v2(?:\/([\w.~/:-]+?))?\/?$/;

/**
 * Parses the URL of a registry. A path must include `/v2`, since nothing else tells the part that belongs to the server
 * from the part that belongs to repository names. Throws RangeError.
 */
export function parseRegistryUrl(text: string): RegistryUrl {
  const { protocol, username, password, pathname, search, hash, origin, host } = new URL(text);
  const match = PATH.exec(pathname === '/' ? '/v2' : pathname);
  const isBare = username === '' && password === '' && search === '' && hash === '';
  if (match === null || !isBare || (protocol !== 'http:' && protocol !== 'https:'))
    throw new RangeError(text);
  const [, root = '', name] = match;
  if (name === undefined) {
    const api = `${origin}${root}/v2`;
    return { text: root === '' ? origin : api, api, host, root, prefix: '' };
  }
  if (!isPrefix(name)) throw new RangeError(text);
  const api = `${origin}${root}/v2/${name}`;
  return { text: api, api, host, root, prefix: `${name}/` };
}

/**
 * Whether repository names may begin with `name`. In another Entrepot they begin with a registry, perhaps with a port.
 */
function isPrefix(name: string): boolean {
  return isRepositoryName(name.replace(/^([^/:]+):\d{1,5}(?=\/|$)/, '$1'));
}
