import { parseUrl } from '../lib/url.ts';

/** The token services to which an endpoint's challenge may send a credential. */
export interface RealmTrust {
  /** The endpoint that sent the challenge. */
  readonly endpoint: URL;
  /**
   * Hosts that may be token services besides the endpoint's own: `host` (with the scheme's default port) or
   * `host:port`.
   */
  readonly realms: readonly string[];
}

/**
 * The URL of the token service if it may see a credential, otherwise the reason why not. Whoever controls an upstream's
 * responses chooses this URL, so it must be https (unless the endpoint itself is not), have the endpoint's own host and
 * port or a configured one, and contain no user name.
 */
export function judgeRealm(realm: string, { endpoint, realms }: RealmTrust): URL | string {
  const url = parseUrl(realm);
  if (url === undefined) return 'its token service has no valid address';
  const { protocol, host, username, password } = url;
  if (protocol !== 'https:' && !(protocol === 'http:' && endpoint.protocol === 'http:')) {
    return `its token service ${host} is not https`;
  }
  if (username !== '' || password !== '')
    return `the address of its token service ${host} contains a user name`;
  if (host !== endpoint.host && !realms.some(trusted => isHost(url, trusted))) {
    return `its token service ${host} is not trusted; add it to \`realms\` of this upstream if it should be`;
  }
  url.hash = '';
  return url;
}

/** Compares like URLs do: regardless of case, default ports and IDN spellings. */
function isHost(url: URL, trusted: string): boolean {
  return parseUrl(`${url.protocol}//${trusted}`)?.host === url.host;
}
