import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../lib/clock.ts';
import { silentLog } from '../../lib/log.ts';
import { silentMeter } from '../../lib/meter.ts';
import { ContentReflector } from './content-reflector.ts';
import { FakeApiServer } from './fake-api-server.fixture.ts';
import { KubeClient } from './kube-client.ts';
import { PassedOverObjects } from './passed-over.ts';
import { Reflector } from './reflector.ts';

const MAX_OBJECT_BYTES = 64 * 1024;

let api: FakeApiServer;
let client: KubeClient;

beforeEach(async () => {
  api = await FakeApiServer.start();
  client = new KubeClient({ server: api.url, token: () => Promise.resolve('t') });
});

afterEach(async () => {
  await client.close();
  await api.close();
});

it('a first list is known when it is reported, even an empty one', async () => {
  const known: boolean[] = [];
  const reflector = new Reflector({
    client,
    collection: { path: '/api/v1/namespaces', maxObjectBytes: MAX_OBJECT_BYTES },
    resource: 'namespaces',
    keep: ({ uid }) => uid,
    onChange: () => void known.push(reflector.hasListed),
    onState: () => {},
    clock: systemClock,
    log: silentLog,
  });
  await reflector.start();
  expect(known).toEqual([true]);
  await reflector.close();
});

it('content of a namespace can be read when it is reported that it has to be, and is unknown before', async () => {
  api.put({ collection: 'serviceaccounts', namespace: 'team-a', name: 'default' });
  const read: unknown[] = [];
  const passedOver = new PassedOverObjects(silentLog, silentMeter);
  const reflector = new ContentReflector({
    client,
    collection: { path: '/api/v1/serviceaccounts', maxObjectBytes: MAX_OBJECT_BYTES },
    resource: 'serviceaccounts',
    keep: ({ name }) => name,
    passedOver,
    onChange: ([name = '']) => {
      void reflector.read(name).then(() => read.push(reflector.in(name)));
    },
    onState: () => {},
    clock: systemClock,
    log: silentLog,
  });
  reflector.want('team-a');
  await reflector.read('team-a');
  expect(reflector.in('team-a')).toBe('they have not been read yet');
  await reflector.start();
  await expect.poll(() => read).toEqual([new Map([['default', 'default']])]);
  await reflector.close();
  passedOver.close();
});
