import { isIP } from 'node:net';
import type { IncomingMessage } from 'node:http';

export interface OwnSiteOptions {
  /** Host names of this server, with or without a port. Loopback and IP addresses are always known. */
  readonly names: readonly string[];
  /**
   * Whether clients have no reason to use any other name: the port is reachable from this machine only, or all names
   * are configured.
   */
  readonly isClosed: boolean;
}

/**
 * Recognizes requests that a page of another web site made a browser send:
 * - `Sec-Fetch-Site` and `Origin` tell on whose behalf a browser sends a request. Every browser sends `Origin` with
 *   methods other than GET and HEAD; registry clients never do.
 * - `Host`: the owner of a page can point its host name at our address (DNS rebinding), which makes the page
 *   same-origin, but its requests carry that name. An IP address as Host is safe, since a page loaded from an address
 *   can only reach that address.
 *
 * A browser is trusted only under known names: loopback, IP addresses, and those of the configuration. If `isClosed`,
 * the same applies to every client; otherwise clients that are not browsers may use any name of the machine.
 */
export class OwnSite {
  readonly #isClosed: boolean;
  #authorities: ReadonlySet<string> = new Set();
  #hosts: ReadonlySet<string> = new Set();

  constructor({ names, isClosed }: OwnSiteOptions) {
    this.#isClosed = isClosed;
    this.setNames(names);
  }

  /** Replaces all names. */
  setNames(names: readonly string[]): void {
    this.#authorities = new Set(names.map(authorityOf));
    this.#hosts = new Set(names.map(hostNameOf));
  }

  /**
   * Why the request must not change anything; `undefined` if it may. A trusted proxy may set Host as it likes, so that
   * of a request that it forwarded (`isProxied`) is not checked; the page's origin is.
   */
  problem({ headers }: Pick<IncomingMessage, 'headers'>, isProxied = false): string | undefined {
    const site = headers['sec-fetch-site'];
    const { origin, host } = headers;
    if (site !== undefined && site !== 'same-origin' && site !== 'none') {
      return 'a web page of another site may not change anything here';
    }
    if (origin !== undefined && !this.#isOwnOrigin(origin, host)) {
      return `a web page of ${quote(origin)} may not change anything here`;
    }
    const mustBeKnown = this.#isClosed || origin !== undefined || site !== undefined;
    if (!isProxied && mustBeKnown && !this.#isKnown(host)) {
      return `${quote(host ?? '')} is not a name of this registry: add it to server.serverNames, or use one that is`;
    }
    return undefined;
  }

  #isOwnOrigin(origin: string, host: string | undefined): boolean {
    if (!URL.canParse(origin)) return false;
    const authority = authorityOf(new URL(origin).host);
    if (this.#authorities.has(authority)) return true;
    return host !== undefined && authority === authorityOf(host) && this.#isKnown(host);
  }

  #isKnown(host: string | undefined): boolean {
    if (host === undefined) return false;
    const name = hostNameOf(host);
    return isIP(name) !== 0 || isLoopbackName(name) || this.#hosts.has(name);
  }
}

/** Whether a Host header is a loopback name, which no page can have for its own name. */
export function isLoopbackHost(host: string | undefined): boolean {
  return host !== undefined && isLoopbackName(hostNameOf(host));
}

/** RFC 6761 §6.3: browsers and resolvers treat everything below localhost as loopback. */
function isLoopbackName(name: string): boolean {
  const isAddress = name === '::1' || (isIP(name) === 4 && name.startsWith('127.'));
  return isAddress || name === 'localhost' || name.endsWith('.localhost');
}

/** In the form in which authorities are compared: without default ports. */
function authorityOf(host: string): string {
  return plain(host).replace(/:(?:443|80)$/, '');
}

/** Without the port; an IPv6 address without its brackets. */
function hostNameOf(host: string): string {
  const name = plain(host).replace(/:\d*$/, '');
  return name.startsWith('[') && name.endsWith(']') ? name.slice(1, -1) : name;
}

function plain(host: string): string {
  return host.toLowerCase().replace(/\.(?=:\d*$|$)/, '');
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, MAX_QUOTED));
}

/** The length of the longest host name: the value comes from outside. */
const MAX_QUOTED = 260;
