// Connections to a server that misbehaves on them, and to a replica whose certificates are replaced.
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { makeCertificate } from '../../test/support/certificates.ts';
import { Latch } from '../../test/support/latch.ts';
import { makeTempFolder, removeFolder } from '../../test/support/temp-folder.ts';
import type { HttpResponse } from '../lib/http-message.ts';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { ClusterCertificates } from './cluster-certificates.ts';
import { ClusterKeys } from './cluster-keys.ts';
import type { ClusterTls } from './cluster-tls.ts';
import { ReplicaConnections } from './replica-connections.ts';
import { ReplicaServer } from './replica-server.ts';

const KEYS = new ClusterKeys('a key of the cluster, long enough to use');

let clock: ManualClock;
let server: Server;
let address: string;
let connections: ReplicaConnections;
/** How many connections the server has accepted. */
let accepted: number;
/** The paths that it was asked for. */
let paths: string[];
/** What the server does with a request; by default, it answers. */
let behave: (req: IncomingMessage, res: ServerResponse) => void;

beforeEach(async () => {
  clock = new ManualClock();
  [accepted, paths] = [0, []];
  behave = (_req, res) => void res.end('answer');
  server = createServer(KEYS.forServer, (req, res) => {
    paths.push(req.url ?? '');
    behave(req, res);
  });
  server.on('secureConnection', () => (accepted += 1));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- it listens on a port
  address = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  connections = new ReplicaConnections(KEYS, clock);
});

afterEach(() => {
  vi.useRealTimers();
  connections.close();
  server.close();
  server.closeAllConnections();
});

/** Reads a response to its end, after which its connection can be used again. */
async function textOf(response: Promise<HttpResponse>): Promise<string> {
  const bytes = Buffer.concat(await (await response).body.toArray());
  await new Promise(setImmediate);
  return bytes.toString();
}

const get = (path: string) => textOf(connections.get(address, path));

it('those that were prepared are used, and reused', async () => {
  await connections.prepare(address);
  const prepared = accepted;
  expect(prepared).toBeGreaterThan(1);
  await new Promise(setImmediate);
  expect(await Promise.all([get('/one'), get('/two')])).toEqual(['answer', 'answer']);
  expect(await get('/three')).toBe('answer');
  await connections.prepare(address);
  expect(accepted).toBe(prepared);
});

it('one that the other side closes just when it is used is replaced by another', async () => {
  await get('/before');
  behave = req => {
    behave = (_req, res) => void res.end('at last');
    req.socket.destroy();
  };
  expect(await get('/now')).toBe('at last');
  expect(paths).toEqual(['/before', '/now', '/now']);
  expect(accepted).toBe(2);
});

it('one over which nothing arrives any more is replaced by another', async () => {
  await get('/before');
  const asked = new Latch();
  behave = () => {
    behave = (_req, res) => void res.end('at last');
    asked.open();
  };
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const answer = get('/now');
  await asked.opened;
  await vi.advanceTimersByTimeAsync(3_000);
  expect(await answer).toBe('at last');
  expect(paths).toEqual(['/before', '/now', '/now']);
  expect(accepted).toBe(2);
});

it('a new one that breaks is not replaced', async () => {
  behave = req => void req.socket.destroy();
  await expect(get('/now')).rejects.toMatchObject({ name: 'ReplicaAway' });
  expect(paths).toEqual(['/now']);
});

it('a request that may be sent only once gets a new one', async () => {
  await get('/before');
  behave = req => void req.socket.destroy();
  const sent = connections.send(address, { method: 'POST', path: '/now' }, to => to.end());
  await expect(sent).rejects.toMatchObject({ name: 'ReplicaAway' });
  expect(paths).toEqual(['/before', '/now']);
  expect(accepted).toBe(2);
});

it('all name their host in the handshake, if it has a name', async () => {
  const names: unknown[] = [];
  server.on('secureConnection', ({ servername }) => names.push(servername));
  const port = address.split(':')[1];
  const at = `localhost:${port}`;
  await textOf(connections.get(at, '/kept'));
  (await connections.send(at, { path: '/single' }, to => to.end())).resume();
  await get('/by-address');
  expect(names).toEqual(['localhost', 'localhost', false]);
});

/** Two replicas that trust each other; each can be given keys or certificates that the other one does or does not trust. */
interface Pair {
  readonly asking: ClusterTls;
  readonly answering: ClusterTls;
  readonly renew: (which: 'asking' | 'answering', to: 'first' | 'second') => void;
}

async function pairWithCertificates(): Promise<Pair> {
  const folder = await makeTempFolder('cluster');
  try {
    const materialOf = async (ca: string) => {
      const { cert } = await makeCertificate(folder, ca);
      return { ...(await makeCertificate(folder, `${ca}-leaf`, 'DNS:replicas.example', ca)), ca: cert };
    };
    const materials = { first: await materialOf('first'), second: await materialOf('second') };
    const sides = {
      asking: new ClusterCertificates(materials.first),
      answering: new ClusterCertificates(materials.first),
    };
    return { ...sides, renew: (which, to) => sides[which].renew(materials[to]) };
  } finally {
    await removeFolder(folder);
  }
}

async function pairWithKeys(): Promise<Pair> {
  const texts = { first: 'a'.repeat(32), second: 'b'.repeat(32) };
  const sides = { asking: new ClusterKeys(texts.first), answering: new ClusterKeys(texts.first) };
  return { ...sides, renew: (which, to) => sides[which].renew(texts[to]) };
}

it.each([
  ['certificates', pairWithCertificates],
  ['keys', pairWithKeys],
])('none outlives the %s with which it was made', async (_what, makePair) => {
  const { asking, answering, renew } = await makePair();
  const [arrived, held] = [new Latch(), new Latch()];
  const replica = await ReplicaServer.open({
    address: { host: '127.0.0.1', port: 0 },
    tls: answering,
    ledFill: async () => {
      arrived.open();
      await held.opened;
      return undefined;
    },
    own: () => undefined,
    flights: () => undefined,
    about: () => ({ id: 'one', startedAtMs: 1, downloads: [] }),
    log: silentLog,
  });
  const kept = new ReplicaConnections(asking, clock);
  const at = `127.0.0.1:${replica.port}`;
  const about = () => textOf(kept.get(at, '/about'));
  const distrusted = { isDistrusted: true };
  try {
    await about();
    renew('asking', 'second');
    await expect(about()).rejects.toMatchObject(distrusted);
    renew('asking', 'first');
    const waiting = textOf(kept.get(at, '/ingests/fill-1/1?from=0'));
    await arrived.opened;
    await about();
    // One connection is idle now, and one is in use.
    renew('answering', 'second');
    await expect(about()).rejects.toMatchObject(distrusted);
    held.open();
    await waiting;
    await expect(about()).rejects.toMatchObject(distrusted);
  } finally {
    kept.close();
    await replica.close();
  }
});
