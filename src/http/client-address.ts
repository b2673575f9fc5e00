import { BlockList, isIP } from 'node:net';
import type { IncomingMessage } from 'node:http';

/** The origin of a request, with trusted proxies taken into account. */
export interface ClientAddress {
  readonly remote: string;
  readonly secure: boolean;
  readonly loopback: boolean;
  /** Whether a trusted proxy forwarded the request. */
  readonly proxied: boolean;
}

export interface ClientAddressOptions {
  /** Addresses and CIDR ranges whose `X-Forwarded-*` headers are believed. */
  readonly trustedProxies?: readonly string[];
  /**
   * The URL by which clients reach this server. If it is https, requests from a trusted proxy are assumed to have come
   * over TLS unless it says otherwise.
   */
  readonly externalUrl?: string | undefined;
}

/** More than in any real chain of proxies. */
const MAX_FORWARDED_HOPS = 16;

/** By any of these, a proxy says that it is one: not each tells whom it forwards. */
const PROXY_HEADERS = [
  'x-forwarded-for',
  'forwarded',
  'via',
  'x-real-ip',
  'x-forwarded-host',
  'x-forwarded-proto',
] as const;

/** Finds out where requests come from. */
export class ClientAddresses {
  /** `undefined` if no proxy is trusted: looking addresses up in a BlockList would cost a tenth of a manifest hit. */
  readonly #trusted: BlockList | undefined;
  readonly #externalIsHttps: boolean;

  constructor({ trustedProxies = [], externalUrl }: ClientAddressOptions) {
    this.#trusted = trustedProxies.length === 0 ? undefined : blockListOf(trustedProxies);
    this.#externalIsHttps = externalUrl?.startsWith('https:') ?? false;
  }

  of(req: IncomingMessage): ClientAddress {
    const peer = plainAddress(req.socket.remoteAddress);
    const encrypted = 'encrypted' in req.socket && req.socket.encrypted === true;
    const forwardedFor = headerText(req, 'x-forwarded-for');
    if (!contains(this.#trusted, peer)) {
      // Clients of an unknown proxy on this machine must not get the rights of loopback.
      return {
        remote: peer,
        secure: encrypted,
        loopback: isLoopback(peer) && !PROXY_HEADERS.some(name => req.headers[name] !== undefined),
        proxied: false,
      };
    }
    const scheme = lastEntry(headerText(req, 'x-forwarded-proto'));
    return {
      remote: this.#originOf(forwardedFor) ?? peer,
      secure: scheme === undefined ? encrypted || this.#externalIsHttps : scheme === 'https',
      loopback: false,
      proxied: true,
    };
  }

  /**
   * The last address that is not a trusted proxy's. Everything before it is the client's claim; so is what comes before an
   * entry that is no address, of which nobody knows who wrote it.
   */
  #originOf(forwardedFor: string | undefined): string | undefined {
    if (forwardedFor === undefined) return undefined;
    const hops = forwardedFor.split(',').slice(-MAX_FORWARDED_HOPS).map(addressIn);
    const origin = hops.findLast(hop => !contains(this.#trusted, hop));
    return origin !== undefined && isIP(origin) !== 0 ? origin : undefined;
  }
}

function blockListOf(ranges: readonly string[]): BlockList {
  const list = new BlockList();
  for (const range of ranges) {
    const [address = '', prefix] = range.split('/', 2);
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
    if (prefix === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(prefix), family);
  }
  return list;
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

function contains(list: BlockList | undefined, address: string): boolean {
  if (list === undefined) return false;
  const family = isIP(address);
  return family !== 0 && list.check(address, family === 6 ? 'ipv6' : 'ipv4');
}

/** The address in an entry of X-Forwarded-For, to which some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`. */
function addressIn(entry: string): string {
  const text = entry.trim();
  const [, bracketed, withPort] = /^(?:\[([^\]]*)\](?::\d+)?|([\d.]+):\d+)$/.exec(text) ?? [];
  return plainAddress(bracketed ?? withPort ?? text);
}

/** The IPv4 address in `::ffff:192.0.2.1`, by which a dual-stack socket reports it. */
function plainAddress(address: string | undefined): string {
  if (address === undefined) return '';
  return address.startsWith('::') ? address.replace(/^::ffff:(?=\d+\.)/i, '') : address;
}

function headerText(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name];
  return Array.isArray(value) ? value.join(',') : value;
}

function lastEntry(list: string | undefined): string | undefined {
  return list?.split(',').at(-1)?.trim().toLowerCase();
}
