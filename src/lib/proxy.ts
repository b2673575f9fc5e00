import { BlockList, isIP } from 'node:net';
import { bareHost } from './url.ts';

/** The proxies of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), as read by the caller. */
export interface ProxySettings {
  /** Proxy URL for `http:` targets. */
  readonly http?: string | undefined;
  /** Proxy URL for `https:` targets. */
  readonly https?: string | undefined;
  /**
   * Comma-separated hosts, suffixes, `host:port`, addresses and CIDR blocks that are reached directly; `*` means all.
   */
  readonly no?: string | undefined;
}

/** The proxy for `url`; `undefined` to connect directly. Loopback is never proxied. */
export function proxyFor(settings: ProxySettings, url: URL): string | undefined {
  const proxy = url.protocol === 'https:' ? settings.https : settings.http;
  if (proxy === undefined || proxy === '') return undefined;
  const host = bareHost(url);
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  if (host === 'localhost' || host.startsWith('127.') || host === '::1') return undefined;
  const entries = (settings.no ?? '')
    .toLowerCase()
    .split(/[\s,]+/)
    .filter(Boolean);
  return entries.some(entry => covers(entry, host, port)) ? undefined : proxy;
}

function covers(entry: string, host: string, port: string): boolean {
  if (entry === '*') return true;
  const [, name = entry, entryPort] = /^(.*[^:]):(\d+)$/.exec(entry) ?? [];
  if (isIP(entry) === 0 && entryPort !== undefined && entryPort !== port) return false;
  if (isIP(host) !== 0) return entry === host || name === host || inBlock(entry, host);
  const suffix = name.replace(/^\*?\./, '');
  return host === suffix || host.endsWith(`.${suffix}`);
}

function inBlock(entry: string, address: string): boolean {
  const block = parseBlock(entry);
  if (block === undefined) return false;
  const list = new BlockList();
  list.addSubnet(block.address, block.prefix, block.family);
  return list.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}

/** A CIDR block, or a single address as a block; `undefined` for anything else. */
export function parseBlock(
  text: string,
): { readonly address: string; readonly prefix: number; readonly family: 'ipv4' | 'ipv6' } | undefined {
  const [address = '', length] = text.split('/', 2);
  const version = isIP(address);
  if (version === 0) return undefined;
  const bits = version === 6 ? 128 : 32;
  const prefix = length === undefined ? bits : /^\d{1,3}$/.test(length) ? Number(length) : -1;
  if (prefix < 0 || prefix > bits) return undefined;
  return { address, prefix, family: version === 6 ? 'ipv6' : 'ipv4' };
}
