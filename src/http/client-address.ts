import { BlockList, isIP } from 'node:net';
import type { IncomingMessage } from 'node:http';

/** Where a request comes from, with trusted proxies looked through. */
export interface ClientAddress {
  readonly remote: string;
  readonly secure: boolean;
  readonly loopback: boolean;
  /** A trusted proxy handed the request on. */
  readonly proxied: boolean;
}

export interface ClientAddressOptions {
  /** Addresses and CIDR ranges whose `X-Forwarded-*` is believed. */
  readonly trustedProxies?: readonly string[];
  /** How clients reach this server; if https, what a trusted proxy hands on came over TLS unless it says otherwise. */
  readonly externalUrl?: string | undefined;
}

/** More hops than any real chain has: the header's length is bounded, the work on it should be too. */
const MAX_FORWARDED_HOPS = 16;

export class ClientAddresses {
  /** `undefined` when no proxy is trusted: a BlockList look-up on each request would cost a tenth of a manifest hit. */
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
    const isForwarded = forwardedFor !== undefined || req.headers['forwarded'] !== undefined;
    if (!contains(this.#trusted, peer)) {
      // A proxy on this machine that nobody told us to trust must not lend its clients the rights of loopback.
      return {
        remote: peer,
        secure: encrypted,
        loopback: !isForwarded && isLoopback(peer),
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

  /** The last address that no trusted proxy has: everything left of it is the client's own claim. */
  #originOf(forwardedFor: string | undefined): string | undefined {
    if (forwardedFor === undefined) return undefined;
    const hops = forwardedFor
      .split(',')
      .slice(-MAX_FORWARDED_HOPS)
      .map(hop => plainAddress(hop.trim()));
    return hops.findLast(hop => isIP(hop) !== 0 && !contains(this.#trusted, hop));
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

/** An IPv4 address that a dual-stack socket shows as `::ffff:192.0.2.1` is that IPv4 address. */
function plainAddress(address: string | undefined): string {
  return (address ?? '').replace(/^::ffff:(?=\d+\.)/i, '');
}

function headerText(req: IncomingMessage, name: string): string | undefined {
  const value = req.headers[name];
  return Array.isArray(value) ? value.join(',') : value;
}

function lastEntry(list: string | undefined): string | undefined {
  return list?.split(',').at(-1)?.trim().toLowerCase();
}
