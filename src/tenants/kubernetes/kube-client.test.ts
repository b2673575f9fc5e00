import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:https';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { makeTempFolder, removeFolder } from '../../../test/support/temp-folder.ts';
import { silentLog } from '../../lib/log.ts';
import { KubeClient } from './kube-client.ts';

interface Pair {
  readonly cert: string;
  readonly key: string;
}

let folder: string;
let first: Pair;
let second: Pair;

async function makePair(name: string): Promise<Pair> {
  const [key, cert] = [join(folder, `${name}.key`), join(folder, `${name}.crt`)];
  const kind = [
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '30',
  ];
  const names = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1'];
  execFileSync('openssl', ['req', ...kind, ...names, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  return { cert: await readFile(cert, 'utf8'), key: await readFile(key, 'utf8') };
}

beforeAll(async () => {
  folder = await makeTempFolder('kube-client');
  [first, second] = [await makePair('first'), await makePair('second')];
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
