import { expect, it } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { type Meter, silentMeter } from '../lib/meter.ts';
import { openMemoryMetadataStore } from '../metadata/memory-metadata-store.fixture.ts';
import { digestOf } from '../oci/digest.ts';
import type { RegistryEvent } from '../oci/event.ts';
import { Announcements, type Subscriber } from './announcements.ts';
import { parseStoredEvent, type StoredEvent } from './stored-event.ts';

const NGINX = { upstream: 'docker.io', name: 'library/nginx' };
const APP = { upstream: '', name: 'team-a/app' };
const DIGEST = digestOf(Buffer.from('manifest'));
const NODE = { name: 'team-a', remote: '192.0.2.1' };

function world(...subscribers: readonly Subscriber[]) {
  const clock = new ManualClock(1_000);
  const { outbox } = openMemoryMetadataStore();
  let overlooked = 0;
  const count: Meter['count'] = (_name, _labels, amount = 1) => {
    overlooked += amount;
  };
  const meter = { ...silentMeter, count };
  const announcements = new Announcements({ subscribers, outbox, clock, log: silentLog, meter });
  const waiting = async (endpoint: string): Promise<readonly StoredEvent[]> =>
    (await outbox.listNext(endpoint, 100_000)).map(({ body }) => parseStoredEvent(body));
  return { announcements, waiting, clock, outbox, overlooked: () => overlooked };
}

const pull = (more: Partial<RegistryEvent> = {}): RegistryEvent => ({
  kind: 'pull',
  repository: NGINX,
  tag: 'latest',
  digest: DIGEST,
  actor: NODE,
  ...more,
});

it('an event becomes a message for each endpoint that wants it', () => {
  const { announcements } = world(
    { name: 'all' },
    { name: 'pulls', events: ['pull'] },
    { name: 'team', events: ['push', 'delete'], repositories: ['team-a/**'] },
    { name: 'others', repositories: ['team-b/**', 'docker.io/library/*'] },
  );
  const endpoints = (event: RegistryEvent) => announcements.announce(event).map(({ endpoint }) => endpoint);
  expect(endpoints({ kind: 'push', repository: APP })).toEqual(['all', 'team']);
  expect(endpoints({ kind: 'push', repository: NGINX })).toEqual(['all', 'others']);
  expect(endpoints({ kind: 'pull', repository: APP })).toEqual(['all', 'pulls']);
});

it('each message has the event with one id of its own', () => {
  const { announcements } = world({ name: 'one' }, { name: 'two' });
  const [one, two] = announcements.announce({ kind: 'delete', repository: NGINX, tag: 'old' });
  expect(parseStoredEvent(one?.body ?? '')).toEqual({
    id: expect.stringMatching(/^[0-9a-f-]{36}$/),
    kind: 'delete',
    atMs: 1_000,
    repository: 'docker.io/library/nginx',
    tag: 'old',
  });
  expect(two?.body).toBe(one?.body);
  const [other] = announcements.announce({ kind: 'delete', repository: NGINX, tag: 'old' });
  expect(other?.body).not.toBe(one?.body);
});

it('equal pulls within a second are one event with their number, and are written together', async () => {
  const { announcements, waiting, clock } = world({ name: 'ci' });
  for (let count = 0; count < 5; count += 1) announcements.note(pull());
  announcements.note(pull({ actor: { ...NODE, remote: '192.0.2.2' } }));
  announcements.note(pull({ tag: undefined }));
  expect(await waiting('ci')).toEqual([]);
  await clock.advance(1_000);
  await announcements.flush();
  const written = await waiting('ci');
  expect(written.map(({ count, tag, actor }) => [count, tag, actor?.remote])).toEqual([
    [5, 'latest', '192.0.2.1'],
    [undefined, 'latest', '192.0.2.2'],
    [undefined, undefined, '192.0.2.1'],
  ]);
});

it('events that differ in more than their reasons are counted apart, in whichever order they come', async () => {
  const { announcements, waiting } = world({ name: 'ci' });
  const different: readonly RegistryEvent[] = [
    pull(),
    pull({ kind: 'download' }),
    pull({ repository: { ...NGINX, name: 'library/other' } }),
    pull({ repository: { ...NGINX, upstream: 'quay.io' } }),
    pull({ repository: undefined }),
    pull({ tag: 'v2' }),
    pull({ digest: digestOf(Buffer.from('another')) }),
    pull({ actor: { ...NODE, name: 'team-b' } }),
    pull({ actor: { ...NODE, remote: '192.0.2.2' } }),
    pull({ actor: { ...NODE, userAgent: 'skopeo' } }),
    pull({ actor: undefined }),
    pull({ upstream: 'docker.io' }),
    pull({ tenant: 'team-a' }),
    pull({ secret: 'registry' }),
    pull({ state: 'loaded' }),
  ];
  for (let round = 0; round < 3; round += 1)
    for (const event of different) {
      announcements.note({ ...event, reason: `${round} bytes` });
      announcements.note(pull());
    }
  await announcements.flush();
  const counts = (await waiting('ci')).map(({ count }) => count);
  expect(counts).toEqual([3 * (different.length + 1), ...different.slice(1).map(() => 3)]);
});

it('pulls are not noted if no endpoint wants them', async () => {
  const { announcements, waiting } = world({ name: 'ci', events: ['push'] });
  announcements.note(pull());
  await announcements.close();
  expect(await waiting('ci')).toEqual([]);
});

it('what was noted is written when it is closed; what does not fit into memory is counted', async () => {
  const { announcements, waiting, overlooked } = world({ name: 'ci' });
  for (let number = 0; number < 10_100; number += 1) announcements.note(pull({ tag: `v${number}` }));
  await announcements.close();
  expect(await waiting('ci')).toHaveLength(10_000);
  expect(overlooked()).toBe(100);
});
