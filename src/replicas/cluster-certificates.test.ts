// Real connections with certificates that openssl makes.
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { makeCertificate } from '../../test/support/certificates.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import { silentLog } from '../lib/log.ts';
import { ClusterCertificates, type ClusterMaterial } from './cluster-certificates.ts';
import type { ClusterTls } from './cluster-tls.ts';
import { ReplicaClient } from './replica-client.ts';
import { ReplicaServer } from './replica-server.ts';

const NAMES = 'DNS:replicas.example,IP:10.0.7.12';

let folder: string;
let cas: { readonly first: string; readonly second: string };
let server: ReplicaServer | undefined;

beforeAll(async () => {
  folder = await makeTempFolder('cluster');
  const [first, second] = [await makeCertificate(folder, 'first'), await makeCertificate(folder, 'second')];
  cas = { first: first.cert, second: second.cert };
});
afterAll(() => removeFolder(folder));
afterEach(async () => {
  await server?.close();
  server = undefined;
});

/** A certificate of that CA, which trusts it, and perhaps others. */
async function of(ca: 'first' | 'second', names = NAMES, trusted = cas[ca]): Promise<ClusterMaterial> {
  return { ...(await makeCertificate(folder, `${ca}-leaf`, names, ca)), ca: trusted };
}

/** In place of the last one. */
async function serve(tls: ClusterTls): Promise<string> {
  await server?.close();
  server = await ReplicaServer.open({
    address: { host: '127.0.0.1', port: 0 },
    tls,
    ledFill: async () => undefined,
    own: () => undefined,
    flights: () => undefined,
    about: () => ({ id: 'one', startedAtMs: 1, downloads: [] }),
    log: silentLog,
  });
  return `127.0.0.1:${server.port}`;
}

/** What a replica learns of the one at `address`. */
async function asked(address: string, tls: ClusterTls): Promise<unknown> {
  const client = new ReplicaClient(tls);
  try {
    return (await client.about(address))?.id;
  } finally {
    client.close();
  }
}

/** Somebody with these who accepts everybody. */
function careless(material: Partial<ClusterMaterial>): ClusterTls {
  const options = { ...material, minVersion: 'TLSv1.3', rejectUnauthorized: false } as const;
  return {
    forServer: { ...options, requestCert: true },
    forClient: { ...options, checkServerIdentity: () => undefined },
    admits: () => true,
    version: 0,
    isDistrust: () => false,
    follow: () => {},
  };
}

it('replicas connect with certificates of one CA that have a name in common, whatever their addresses', async () => {
  const address = await serve(new ClusterCertificates(await of('first', `DNS:one.example,${NAMES}`)));
  expect(await asked(address, new ClusterCertificates(await of('first')))).toBe('one');
});

it('neither side accepts a certificate of another CA, or without that name', async () => {
  const right = new ClusterCertificates(await of('first'));
  const strangers = [
    careless(await of('second', NAMES, `${cas.first}${cas.second}`)),
    careless(await of('first', 'DNS:other.example')),
    // A wildcard is no name.
    careless(await of('first', 'DNS:*.example')),
  ];
  for (const stranger of strangers) {
    expect(await asked(await serve(stranger), stranger)).toBe('one');
    const distrusted = { name: 'ReplicaAway', isDistrusted: true, isRefused: false };
    await expect(asked(await serve(stranger), right)).rejects.toMatchObject(distrusted);
    await expect(asked(await serve(right), stranger)).rejects.toMatchObject({ name: 'ReplicaAway' });
  }
});

it('a client without a certificate is not answered', async () => {
  const address = await serve(new ClusterCertificates(await of('first')));
  await expect(asked(address, careless({}))).rejects.toMatchObject({ name: 'ReplicaAway' });
});

it('CA and certificate are replaced one replica after the other, while both run', async () => {
  const one = new ClusterCertificates(await of('first'));
  const other = new ClusterCertificates(await of('first'));
  const address = await serve(one);
  const both = `${cas.first}${cas.second}`;
  for (const next of [await of('first', NAMES, both), await of('second', NAMES, both), await of('second')]) {
    for (const each of [one, other]) {
      each.renew(next);
      expect(await asked(address, other)).toBe('one');
    }
  }
  await expect(asked(address, new ClusterCertificates(await of('first', NAMES, both)))).rejects.toMatchObject(
    {
      isDistrusted: true,
    },
  );
});

it('a certificate without a DNS name is none of a replica', async () => {
  const nameless = await of('first', 'IP:127.0.0.1');
  expect(() => new ClusterCertificates(nameless)).toThrow(/DNS name/);
  const tls = new ClusterCertificates(await of('first'));
  expect(() => tls.renew(nameless)).toThrow(/DNS name/);
  expect(await asked(await serve(tls), tls)).toBe('one');
});
