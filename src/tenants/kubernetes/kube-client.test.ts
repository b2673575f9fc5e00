import { createServer, type Server } from 'node:https';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Certificate, makeCertificate } from '../../../test/support/certificates.ts';
import { makeTempFolder, removeFolder } from '../../../test/support/temp-folder.ts';
import { silentLog } from '../../lib/log.ts';
import { KubeClient } from './kube-client.ts';

let folder: string;
let first: Certificate;
let second: Certificate;

beforeAll(async () => {
  folder = await makeTempFolder('kube-client');
  [first, second] = [await makeCertificate(folder, 'first'), await makeCertificate(folder, 'second')];
});

afterAll(() => removeFolder(folder));

describe('the certificate of an API server', () => {
  let server: Server;
  let client: KubeClient;
  let ca: string;
  let told: string[];

  beforeEach(async () => {
    server = createServer({ ...first }, (_request, response) => response.end('{"kind":"Status"}'));
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    ca = first.cert;
    told = [];
    client = new KubeClient(
      {
        server: new URL(`https://127.0.0.1:${address.port}`),
        trust: () => Promise.resolve({ ca }),
        token: () => Promise.resolve(undefined),
      },
      { log: { ...silentLog, info: (_fields, message) => void told.push(message) } },
    );
  });

  afterEach(async () => {
    await client.close();
    server.closeAllConnections();
    await new Promise(resolve => server.close(resolve));
  });

  it('of a renewed CA is trusted as soon as the file contains it, without a restart, and not before', async () => {
    expect(await client.read('/healthz')).toEqual({ kind: 'Status' });
    server.setSecureContext(second);
    server.closeAllConnections();
    await expect(client.read('/healthz')).rejects.toThrow(/cannot connect to .*certificate/);
    ca = second.cert;
    expect(await client.read('/healthz')).toEqual({ kind: 'Status' });
    expect(told).toEqual(['the certificates for the cluster have changed: reconnecting']);
  });

  it('of a CA that is no longer trusted ends open requests', async () => {
    await client.read('/healthz');
    ca = second.cert;
    await expect(client.read('/healthz')).rejects.toThrow(/cannot connect to .*certificate/);
  });
});
