import type { LookupAddress } from 'node:dns';
import { lookup as resolveName } from 'node:dns/promises';

/** Returns all addresses of a host name. */
export type Lookup = (hostname: string) => Promise<readonly LookupAddress[]>;

/** The resolver of this machine: its hosts file, then DNS. */
export async function systemLookup(hostname: string): Promise<LookupAddress[]> {
  return resolveName(hostname, { all: true });
}
