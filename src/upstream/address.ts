import { BlockList, isIP } from 'node:net';
import type { AddressGuard } from '../lib/http-client.ts';
import type { Lookup } from '../lib/lookup.ts';
import { parseBlock } from '../lib/proxy.ts';
import { parseUrl } from '../lib/url.ts';

/** `never`: addresses that no registry has: link-local (cloud metadata), multicast, reserved. */
export type AddressScope = 'public' | 'private' | 'loopback' | 'never';

type Block = readonly [cidr: string, scope: AddressScope];

/** The first matching block decides; all other IPv4 addresses are public. */
const IPV4_BLOCKS: readonly Block[] = [
  // Binding to it means any address, but connecting to it reaches this machine.
  ['0.0.0.0/32', 'loopback'],
  ['0.0.0.0/8', 'never'],
  ['127.0.0.0/8', 'loopback'],
  ['169.254.0.0/16', 'never'],
  // Metadata services outside 169.254: Alibaba's and Oracle's.
  ['100.100.100.200/32', 'never'],
  ['192.0.0.0/24', 'never'],
  ['10.0.0.0/8', 'private'],
  ['172.16.0.0/12', 'private'],
  ['192.168.0.0/16', 'private'],
  ['100.64.0.0/10', 'private'],
  ['198.18.0.0/15', 'private'],
  ['192.88.99.0/24', 'never'],
  ['224.0.0.0/4', 'never'],
  ['240.0.0.0/4', 'never'],
];

/** The first matching block decides; all other IPv6 addresses are unassigned. */
const IPV6_BLOCKS: readonly Block[] = [
  ['::/128', 'loopback'],
  ['::1/128', 'loopback'],
  // AWS's metadata service, within the range of unique local addresses.
  ['fd00:ec2::/32', 'never'],
  ['fc00::/7', 'private'],
  ['fec0::/10', 'private'],
  // NAT64 of a local network (RFC 8215): its operator decides what is behind it.
  ['64:ff9b:1::/48', 'private'],
  // Teredo and ORCHID: tunnels and identifiers, not servers.
  ['2001::/23', 'never'],
  ['2000::/3', 'public'],
];

const IPV4_TABLE = IPV4_BLOCKS.map(tableRow);
const IPV6_TABLE = IPV6_BLOCKS.map(tableRow);

/** The scope of an address. An IPv4 address embedded in IPv6 counts as that IPv4 address. */
export function scopeOf(address: string): AddressScope {
  // The zone belongs to an interface of this machine, not to the address.
  const bare = address.replace(/%.*$/, '');
  const version = isIP(bare);
  if (version === 4) return find(IPV4_TABLE, bare, 'ipv4') ?? 'public';
  if (version !== 6) return 'never';
  const groups = groupsOf(bare);
  if (groups === undefined) return 'never';
  const embedded = embeddedIpv4(groups);
  if (embedded !== undefined) return scopeOf(embedded);
  return find(IPV6_TABLE, bare, 'ipv6') ?? 'never';
}

export interface AddressRulesOptions {
  /** The host of the upstream's `url`, without brackets. */
  readonly home: string;
  /** CIDR blocks to which connections are always allowed, except for addresses in `never`. */
  readonly allow: readonly string[];
  /** Resolves `home`, to learn where the upstream itself is. */
  readonly lookup: Lookup;
}

/**
 * The addresses to which an upstream, or what it names (mirrors, realms, redirects), may make us connect: public ones,
 * and private or loopback ones only if the upstream itself has such an address. Otherwise whoever controls an
 * upstream's responses could use us to reach our internal network.
 */
export class AddressRules implements AddressGuard {
  readonly #home: string;
  readonly #lookup: Lookup;
  readonly #allowed: BlockList;
  /** The scope of the address at which the upstream was last reached. */
  #homeScope: AddressScope | undefined;

  constructor({ home, allow, lookup }: AddressRulesOptions) {
    this.#home = home;
    this.#lookup = lookup;
    this.#allowed = new BlockList();
    for (const text of allow) {
      const block = parseBlock(text);
      if (block === undefined) throw new TypeError(`${text} is neither an address nor a CIDR block`);
      this.#allowed.addSubnet(block.address, block.prefix, block.family);
    }
    if (isIP(home) !== 0) this.#homeScope = scopeOf(home);
  }

  async admit(address: string, hostname: string): Promise<void> {
    const scope = scopeOf(address);
    if (scope === 'never') throw new Error(`${hostname} resolves to ${address}, which is never allowed`);
    // The upstream's own address is what its operator says.
    if (scope === 'public' || hostname === this.#home) return;
    if (this.#allowed.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')) return;
    const home = await this.#findHome();
    if (home === scope) return;
    throw new Error(
      `${hostname} resolves to the ${scope} address ${address}, but ${this.#home} is ${home}; ` +
        'add it to `allowAddresses` of this upstream if it should be reached',
    );
  }

  /** Only actual connections count: a name may also list internal addresses that it never serves from. */
  connected(address: string, hostname: string): void {
    if (hostname === this.#home) this.#homeScope = scopeOf(address);
  }

  /**
   * The scope before the first connection (a mirror may replace an unreachable upstream): all its addresses must have
   * the same.
   */
  async #findHome(): Promise<AddressScope> {
    if (this.#homeScope !== undefined) return this.#homeScope;
    const addresses = await this.#lookup(this.#home).catch(() => []);
    const [first, ...others] = new Set(addresses.map(({ address }) => scopeOf(address)));
    return first !== undefined && others.length === 0 ? first : 'public';
  }
}

function tableRow([cidr, scope]: Block): { readonly list: BlockList; readonly scope: AddressScope } {
  const list = new BlockList();
  const block = parseBlock(cidr);
  if (block === undefined) throw new TypeError(cidr);
  list.addSubnet(block.address, block.prefix, block.family);
  return { list, scope };
}

function find(table: typeof IPV4_TABLE, address: string, family: 'ipv4' | 'ipv6'): AddressScope | undefined {
  return table.find(({ list }) => list.check(address, family))?.scope;
}

/** The eight groups of an IPv6 address in the form that URLs have: without dots, shortened in one way. */
function groupsOf(address: string): number[] | undefined {
  const spelt = parseUrl(`http://[${address}]`)?.hostname.slice(1, -1);
  if (spelt === undefined) return undefined;
  const [head = '', tail] = spelt.split('::');
  const before = hexGroups(head);
  const after = tail === undefined ? [] : hexGroups(tail);
  return [...before, ...Array<number>(8 - before.length - after.length).fill(0), ...after];
}

/**
 * The IPv4 address in an IPv4-mapped (::ffff:a.b.c.d), IPv4-compatible (::a.b.c.d), NAT64 (64:ff9b::a.b.c.d) or 6to4
 * (2002:ab:cd::) address.
 */
function embeddedIpv4(groups: readonly number[]): string | undefined {
  const [g0, g1, g2, g3, g4, g5, g6 = 0, g7 = 0] = groups;
  if (g0 === 0x2002) return dotted(g1 ?? 0, g2 ?? 0);
  const mapped = zeros(g0, g1, g2, g3, g4) && g5 === 0xffff;
  const translated = zeros(g0, g1, g2, g3) && g4 === 0xffff && g5 === 0;
  const nat64 = g0 === 0x64 && g1 === 0xff9b && zeros(g2, g3, g4, g5);
  // `::` and `::1` are in that range, but are not IPv4 addresses.
  const compatible = zeros(g0, g1, g2, g3, g4, g5) && (g6 !== 0 || g7 > 1);
  return mapped || translated || nat64 || compatible ? dotted(g6, g7) : undefined;
}

function hexGroups(text: string): number[] {
  return text
    .split(':')
    .filter(Boolean)
    .map(group => Number.parseInt(group, 16));
}

function zeros(...some: readonly (number | undefined)[]): boolean {
  return some.every(group => group === 0);
}

function dotted(high: number, low: number): string {
  return [high >> 8, high & 0xff, low >> 8, low & 0xff].join('.');
}
