import { once } from 'node:events';
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ClusterKeys } from './cluster-keys.ts';
import { ReplicaServer } from './replica-server.ts';

// What is waited for ends after 10 s.
test('a connection without a handshake does not delay the end of the port', { timeout: 9_000 }, async () => {
  const server = await ReplicaServer.open({
    address: { host: '127.0.0.1', port: 0 },
    tls: new ClusterKeys('a key of the cluster, long enough to use'),
    ledFill: async () => undefined,
    own: () => undefined,
    flights: () => undefined,
    about: () => undefined,
    log: silentLog,
  });
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
