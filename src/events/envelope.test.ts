import { expect, it } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { envelopeOf } from './envelope.ts';
import type { StoredEvent } from './stored-event.ts';

const SOURCE = { uri: 'https://entrepot.example', host: 'node-1' };
const DIGEST = digestOf(Buffer.from('manifest'));
const PUSH: StoredEvent = {
  id: '1',
  kind: 'push',
  atMs: Date.UTC(2026, 0, 2, 3, 4, 5, 6),
  repository: 'team-a/app',
  tag: 'v1',
  digest: DIGEST,
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  size: 8,
  actor: {
    name: 'team-a',
    remote: '192.0.2.1',
    host: 'entrepot.example',
    method: 'PUT',
    userAgent: 'skopeo',
  },
};
const PULL: StoredEvent = { ...PUSH, id: '2', kind: 'pull', count: 3 };
const TEST: StoredEvent = { id: '3', kind: 'test', atMs: PUSH.atMs };

it('the distribution format is the envelope of its notifications, with what it does not know in a member of its own', () => {
  const { contentType, body } = envelopeOf([PUSH, PULL], {
    format: 'distribution',
    single: false,
    source: SOURCE,
  });
  expect(contentType).toBe('application/vnd.docker.distribution.events.v2+json');
  const { events } = JSON.parse(body);
  const alike = {
    timestamp: '2026-01-02T03:04:05.006Z',
    target: {
      mediaType: PUSH.mediaType,
      size: 8,
      length: 8,
      digest: DIGEST,
      repository: 'team-a/app',
      tag: 'v1',
    },
    actor: { name: 'team-a' },
    source: { addr: 'node-1' },
  };
  const request = { addr: '192.0.2.1', host: 'entrepot.example', method: 'PUT', useragent: 'skopeo' };
  expect(events).toEqual([
    { id: '1', action: 'push', ...alike, request: { id: '1', ...request } },
    { id: '2', action: 'pull', ...alike, request: { id: '2', ...request }, entrepot: { count: 3 } },
  ]);
});

it('a single CloudEvent is in structured mode, several are a batch', () => {
  const options = { format: 'cloudevents', source: SOURCE } as const;
  const single = envelopeOf([PUSH], { ...options, single: true });
  expect(single.contentType).toBe('application/cloudevents+json; charset=utf-8');
  expect(JSON.parse(single.body)).toEqual({
    specversion: '1.0',
    id: '1',
    source: 'https://entrepot.example',
    type: 'entrepot.push',
    subject: 'team-a/app:v1',
    partitionkey: 'team-a/app',
    time: '2026-01-02T03:04:05.006Z',
    datacontenttype: 'application/json',
    data: {
      repository: 'team-a/app',
      tag: 'v1',
      digest: DIGEST,
      mediaType: PUSH.mediaType,
      size: 8,
      actor: PUSH.actor,
    },
  });
  const batch = envelopeOf([PUSH, PULL], { ...options, single: false });
  expect(batch.contentType).toBe('application/cloudevents-batch+json; charset=utf-8');
  expect(JSON.parse(batch.body)).toMatchObject([{ id: '1' }, { id: '2', data: { count: 3 } }]);
});

it.each([
  [{ kind: 'upstream', upstream: 'docker.io' }, 'docker.io', 'docker.io'],
  [{ kind: 'secret', tenant: 'team-a', secret: 'pull' }, 'team-a/pull', 'team-a/pull'],
  [{ kind: 'evict', digest: DIGEST }, DIGEST, DIGEST],
  [{ kind: 'quota', repository: 'team-a/app', tenant: 'team-a' }, 'team-a/app', 'team-a/app'],
  [{ kind: 'push', repository: 'team-a/app', digest: DIGEST }, `team-a/app@${DIGEST}`, 'team-a/app'],
] as const)('the subject of %j is what it is about', (event, subject, partitionkey) => {
  const stored = { id: '1', atMs: 0, ...event };
  const { body } = envelopeOf([stored], { format: 'cloudevents', single: true, source: SOURCE });
  expect(JSON.parse(body)).toMatchObject({ type: `entrepot.${event.kind}`, subject, partitionkey });
});

it('an event that is about nothing has no subject', () => {
  const { body } = envelopeOf([TEST], { format: 'cloudevents', single: true, source: SOURCE });
  expect(JSON.parse(body)).not.toHaveProperty('subject');
  expect(JSON.parse(body)).toMatchObject({ type: 'entrepot.test', data: {} });
});
