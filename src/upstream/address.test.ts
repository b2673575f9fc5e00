import { describe, expect, it } from 'vitest';
import { FakeUpstream } from '../../test/support/fake-upstream.ts';
import { alice, anonymous, client, failure, fake } from '../../test/support/upstream-client.ts';
import { digestOf } from '../oci/digest.ts';
import { AddressRules, type AddressScope, scopeOf } from './address.ts';

const digest = digestOf(Buffer.from('any'));

const NAMES: Readonly<Record<string, readonly string[]>> = {
  'registry.test': ['203.0.113.7'],
  'private.test': ['10.1.2.3'],
  'local.test': ['127.0.0.1'],
  'both.test': ['203.0.113.7', '10.1.2.3'],
};

async function lookup(hostname: string) {
  return (NAMES[hostname] ?? []).map(address => ({ address, family: 4 }));
}

async function admits(home: string, address: string, hostname = 'other.test', allow: string[] = []) {
  try {
    await new AddressRules({ home, allow, lookup }).admit(address, hostname);
    return true;
  } catch {
    return false;
  }
}

describe('scopeOf', () => {
  it.each<[AddressScope, readonly string[]]>([
    [
      'public',
      [
        '1.1.1.1',
        '172.32.0.1',
        '100.128.0.1',
        '2606:4700::1111',
        '::ffff:1.1.1.1',
        '64:ff9b::1.1.1.1',
        '2002:101:101::',
      ],
    ],
    [
      'private',
      [
        '10.0.0.1',
        '172.16.0.1',
        '172.31.255.255',
        '192.168.1.1',
        '100.64.0.1',
        '198.18.0.1',
        'fd12::1',
        'fec0::1',
      ],
    ],
    [
      'private',
      ['::ffff:10.0.0.1', '::ffff:a00:1', '::10.0.0.1', '64:ff9b::a00:1', '2002:a00:1::1', '64:ff9b:1::1'],
    ],
    [
      'loopback',
      [
        '127.0.0.1',
        '127.255.255.254',
        '0.0.0.0',
        '::',
        '::1',
        '::ffff:127.0.0.1',
        '::ffff:0:0',
        '64:ff9b::127.0.0.1',
        '2002:7f00:1::',
      ],
    ],
    [
      'never',
      [
        '169.254.169.254',
        'fe80::1',
        'fe80::1%eth0',
        'febf::1',
        '::ffff:169.254.169.254',
        '64:ff9b::a9fe:a9fe',
        '2002:a9fe:a9fe::',
      ],
    ],
    [
      'never',
      [
        '100.100.100.200',
        '192.0.0.192',
        'fd00:ec2::254',
        '224.0.0.1',
        '255.255.255.255',
        '240.0.0.1',
        'ff02::1',
        '0.1.2.3',
      ],
    ],
    ['never', ['2001::1', '100::1', '4000::1', 'localhost', '', '1.2.3']],
  ])('finds %s', (scope, addresses) => {
    for (const address of addresses) expect([address, scopeOf(address)]).toEqual([address, scope]);
  });
});

describe('AddressRules', () => {
  it.each([
    ['registry.test', '1.1.1.1', true],
    ['registry.test', '10.1.2.3', false],
    ['registry.test', '127.0.0.1', false],
    ['private.test', '10.9.9.9', true],
    ['private.test', '127.0.0.1', false],
    ['local.test', '127.0.0.1', true],
    ['local.test', '10.1.2.3', false],
    ['127.0.0.1', '::1', true],
    ['both.test', '10.1.2.3', false],
    ['unresolvable.test', '10.1.2.3', false],
    ['private.test', '169.254.169.254', false],
  ])('from %s to %s: %s', async (home, address, admitted) => {
    expect(await admits(home, address)).toBe(admitted);
  });

  it('allow the upstream itself any address but those that no registry has', async () => {
    expect(await admits('registry.test', '10.1.2.3', 'registry.test')).toBe(true);
    expect(await admits('registry.test', '169.254.169.254', 'registry.test')).toBe(false);
  });

  it('have exceptions by block, but none for addresses that no registry has', async () => {
    expect(await admits('registry.test', '10.1.2.3', 'cdn.test', ['10.1.0.0/16'])).toBe(true);
    expect(await admits('registry.test', '::ffff:10.1.2.3', 'cdn.test', ['10.1.0.0/16'])).toBe(true);
    expect(await admits('registry.test', '10.2.0.1', 'cdn.test', ['10.1.0.0/16'])).toBe(false);
    expect(await admits('registry.test', '169.254.169.254', 'cdn.test', ['0.0.0.0/0'])).toBe(false);
    expect(() => new AddressRules({ home: 'x', allow: ['ten'], lookup })).toThrow(TypeError);
  });

  it('depend on the address that was really connected to', async () => {
    const rules = new AddressRules({ home: 'both.test', allow: [], lookup });
    rules.connected('10.1.2.3', 'both.test');
    await expect(rules.admit('10.9.9.9', 'cdn.test')).resolves.toBeUndefined();
    rules.connected('203.0.113.7', 'both.test');
    await expect(rules.admit('10.9.9.9', 'cdn.test')).rejects.toThrow('allowAddresses');
  });
});

describe('an upstream on another machine', () => {
  it('cannot make us connect to this machine by the name or address of a mirror', async () => {
    const [byName, byAddress] = [await fake(), await fake()];
    const upstream = client('http://registry.test', {
      mirrors: [{ url: `http://local.test:${byName.port}` }, { url: byAddress.url }],
      lookup,
    });
    const error = await failure(
      upstream.fetchBlob('team/app', digest, { ...anonymous, skipEndpoints: new Set([0]) }),
    );
    expect([error.kind, error.message]).toEqual(['invalid', expect.stringContaining('allowAddresses')]);
    expect([byName, byAddress].map(({ requests }) => requests.length)).toEqual([0, 0]);
    expect(await Promise.all([byName.connections(), byAddress.connections()])).toEqual([0, 0]);
  });
});

describe('an endpoint that may be on this machine', () => {
  it('may not redirect to another port here', async () => {
    const mirror = await fake();
    const upstream = client('http://registry.test', {
      mirrors: [{ url: mirror.url }],
      allowAddresses: ['127.0.0.1'],
      lookup,
    });
    for (const target of ['http://127.0.0.2/', 'http://[::1]/', 'http://0.0.0.0/']) {
      mirror.misbehave({ redirectTo: target });
      const error = await failure(
        upstream.fetchBlob('team/app', digest, { ...anonymous, skipEndpoints: new Set([0]) }),
      );
      expect([error.kind, error.message]).toEqual(['invalid', expect.stringContaining('loopback address')]);
    }
    expect(mirror.requests.length).toBe(3);
  });
});

describe('an upstream on this machine', () => {
  it('may not redirect to cloud metadata, nor into the network', async () => {
    for (const target of [
      'http://169.254.169.254/latest/meta-data/',
      'http://10.0.0.1/',
      'http://[::ffff:169.254.169.254]/',
    ]) {
      const registry = await FakeUpstream.start();
      registry.misbehave({ redirectTo: target });
      const error = await failure(
        client(registry.url, { lookup }).headManifest('team/app', '1.0', { credential: alice }),
      );
      expect(error.kind).toBe('invalid');
      await registry.stop();
    }
  });
});
