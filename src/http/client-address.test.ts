import type { IncomingMessage } from 'node:http';
import { describe, expect, it } from 'vitest';
import { ClientAddresses, type ClientAddressOptions } from './client-address.ts';

function seen(
  peer: string,
  headers: Record<string, string>,
  options: ClientAddressOptions = {},
  encrypted = false,
) {
  const socket = { remoteAddress: peer, encrypted };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- the two parts of a request that are read
  return new ClientAddresses(options).of({ socket, headers } as unknown as IncomingMessage);
}

const behindProxy = { trustedProxies: ['10.0.0.0/8', '::1'], externalUrl: 'https://registry.example' };

describe("a client's address", () => {
  it('is that of the connection', () => {
    expect(seen('192.0.2.7', {})).toEqual({
      remote: '192.0.2.7',
      secure: false,
      loopback: false,
      proxied: false,
    });
    expect(seen('192.0.2.7', {}, {}, true).secure).toBe(true);
    expect(seen('::ffff:127.0.0.1', {})).toEqual({
      remote: '127.0.0.1',
      secure: false,
      loopback: true,
      proxied: false,
    });
    expect(seen('::1', {}).loopback).toBe(true);
  });

  it('is not what an untrusted client claims', () => {
    const claims = { 'x-forwarded-for': '127.0.0.1', 'x-forwarded-proto': 'https' };
    expect(seen('192.0.2.7', claims, behindProxy)).toEqual({
      remote: '192.0.2.7',
      secure: false,
      loopback: false,
      proxied: false,
    });
  });

  it("is the last one that is not a trusted proxy's", () => {
    const { remote, proxied } = seen(
      '10.0.0.1',
      { 'x-forwarded-for': '127.0.0.1, 198.51.100.9, 10.0.0.2' },
      behindProxy,
    );
    expect([remote, proxied]).toEqual(['198.51.100.9', true]);
  });

  it('is that of an entry with a port, too', () => {
    for (const entry of ['198.51.100.9:4711', '[2001:db8::9]:4711', '[2001:db8::9]', '::ffff:198.51.100.9']) {
      const { remote } = seen('10.0.0.1', { 'x-forwarded-for': `203.0.113.5, ${entry}` }, behindProxy);
      expect(remote).toBe(entry.includes('2001') ? '2001:db8::9' : '198.51.100.9');
    }
  });

  it("is the proxy's if the last entry is no address: what comes before it may be the client's claim", () => {
    for (const entry of ['unknown', '_hidden', '', '198.51.100.9:x', '198.51.100.999']) {
      const { remote } = seen('10.0.0.1', { 'x-forwarded-for': `203.0.113.5, ${entry}` }, behindProxy);
      expect(remote).toBe('10.0.0.1');
    }
  });

  it('never becomes loopback through a proxy, trusted or not', () => {
    expect(seen('::1', { 'x-forwarded-for': '127.0.0.1' }, behindProxy).loopback).toBe(false);
    expect(seen('127.0.0.1', { 'x-forwarded-for': '198.51.100.9' }).loopback).toBe(false);
    expect(seen('127.0.0.1', { forwarded: 'for=198.51.100.9' }).loopback).toBe(false);
    for (const name of ['via', 'x-real-ip', 'x-forwarded-host', 'x-forwarded-proto']) {
      expect(seen('127.0.0.1', { [name]: 'anything' }).loopback).toBe(false);
    }
  });

  it('counts as TLS behind a trusted proxy with an https external URL, unless the proxy says http', () => {
    expect(seen('10.0.0.1', {}, behindProxy).secure).toBe(true);
    expect(seen('10.0.0.1', { 'x-forwarded-proto': 'http' }, behindProxy).secure).toBe(false);
    expect(seen('10.0.0.1', { 'x-forwarded-proto': 'https' }, { trustedProxies: ['10.0.0.1'] }).secure).toBe(
      true,
    );
    expect(seen('192.0.2.7', {}, behindProxy).secure).toBe(false);
  });
});
