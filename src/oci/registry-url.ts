import { isRepositoryName } from './reference.ts';

/**
 * Where another registry answers: a host, and a path where its API is not at `/v2`, or where all repositories that are
 * meant have a first part of their name in common (a proxy project of Harbor, a remote repository of Artifactory, an
 * upstream of another Entrepot).
 */
export interface RegistryUrl {
  /** The canonical spelling: without a slash at the end, and without a path that says no more than `/v2`. */
  readonly text: string;
  /** What `/<repository>/manifests/<reference>` is appended to: `https://registry.example/v2/proxy-hub`. */
  readonly api: string;
  /** With its port, if that is not the usual one of the scheme. */
  readonly host: string;
  /** What stands before `/v2`: `/artifactory/api/docker/hub`; '' for nothing. */
  readonly root: string;
  /** The part of a repository's name that stands behind `/v2/`, with a slash at its end: `proxy-hub/`; '' for none. */
  readonly prefix: string;
}

/** Up to the first `/v2`, and behind it. Unreserved characters alone (RFC 3986, 2.3), so that no spelling differs. */
const PATH = /^((?:\/[\w.~-]+)*?)\/v2(?:\/([\w.~/:-]+?))?\/?$/;

/**
 * Reads such an address. A path has to say where `/v2` is: what stands before it belongs to the server, what follows it
 * to the names of its repositories, and without it neither could be told from the other. RangeError otherwise.
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

/** Whether names of repositories may begin with it; another Entrepot has registries, with their ports, in that place. */
function isPrefix(name: string): boolean {
  return isRepositoryName(name.replace(/^([^/:]+):\d{1,5}(?=\/|$)/, '$1'));
}
