import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ClusterKeys } from './cluster-keys.ts';
import { ReplicaClient } from './replica-client.ts';
import { ReplicaServer } from './replica-server.ts';

const KEYS = new ClusterKeys('a key of the cluster, long enough to use');

function open(): Promise<ReplicaServer> {
  return ReplicaServer.open({
    address: { host: '127.0.0.1', port: 0 },
    tls: KEYS,
    ledFill: async () => undefined,
    own: () => undefined,
    flights: () => undefined,
    about: () => ({ id: 'replica', startedAtMs: 0, downloads: [] }),
    log: silentLog,
  });
}

test('those who do not prove that they are replicas shut none out, and are not kept beyond some', async () => {
  const server = await open();
  const replica = new ReplicaClient(KEYS);
  const strangers: Socket[] = [];
  let ended = 0;
  for (let count = 0; count < 300; count += 1) {
    const stranger = connect(server.port, '127.0.0.1').resume();
    strangers.push(stranger.on('close', () => (ended += 1)));
    await once(stranger, 'connect');
  }
  expect(await replica.about(`127.0.0.1:${server.port}`)).toMatchObject({ id: 'replica' });
  // The oldest make room for the others, and for that replica while it was a stranger.
  await expect.poll(() => ended).toBe(45);
  expect(strangers.slice(0, 45).every(({ destroyed }) => destroyed)).toBe(true);
  replica.close();
  await server.close();
});

// A handshake times out only after 10 s, later than this test.
test('a connection without a handshake does not delay the end of the port', { timeout: 9_000 }, async () => {
  const server = await open();
  const client = connect(server.port, '127.0.0.1');
  await once(client, 'connect');
  // The server has accepted it when it accepts another one.
  const other = connect(server.port, '127.0.0.1').end();
  await once(other.resume(), 'close');
  const left = once(client.resume(), 'close');
  await server.close();
  await left;
  expect(client.destroyed).toBe(true);
});
