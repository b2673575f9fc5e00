import { isIP } from 'node:net';
import type { IncomingMessage } from 'node:http';

export interface OwnSiteOptions {
  /** Hosts under which clients know this server, with a port or without; loopback and addresses need not be named. */
  readonly names: readonly string[];
  /** Nobody has a reason to use another name: the port is this machine's own, or its names are all configured. */
  readonly isClosed: boolean;
}

/**
 * Tells requests that a web page of somebody else's had a browser send from those of clients. Three things are looked at:
 * - `Sec-Fetch-Site` and `Origin`, with which browsers say on whose behalf they ask. Every browser sends `Origin` with
 *   whatever is neither GET nor HEAD, and no registry client does.
 * - `Host`: a page may give its own name our address (DNS rebinding) and is then of one origin with us, but its requests
 *   carry that name. An address as Host is none of a page's making: a page that came from an address talks to it alone.
 *
 * A browser is believed under known names only: loopback, addresses, and those of the configuration. So is every client
 * where no other name is to be expected (`isClosed`). Elsewhere clients that are no browsers may call the machine anything.
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
   * Why what the request would change must stay as it is; `undefined` for one that may go on. A trusted proxy has its own
   * idea of Host, so that of a request that it handed on (`isProxied`) is not judged; the page's origin is.
   */
  problem({ headers }: IncomingMessage, isProxied = false): string | undefined {
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

/** Whether a Host header means this machine alone: no page can give its own name one of these. */
export function isLoopbackHost(host: string | undefined): boolean {
  return host !== undefined && isLoopbackName(hostNameOf(host));
}

/** RFC 6761 §6.3: browsers and resolvers keep everything below localhost on the loopback. */
function isLoopbackName(name: string): boolean {
  const isAddress = name === '::1' || (isIP(name) === 4 && name.startsWith('127.'));
  return isAddress || name === 'localhost' || name.endsWith('.localhost');
}

/** As it is compared: without the ports that go without saying. */
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

/** A host name is no longer; what is written here is somebody else's. */
const MAX_QUOTED = 260;
