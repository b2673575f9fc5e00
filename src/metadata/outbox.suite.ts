import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Lease, LeaseLost } from '../lib/lease.ts';
import { leaseOf } from '../lib/lease.suite.ts';
import { digestOf } from '../oci/digest.ts';
import type { MetadataStore } from './metadata-store.ts';
import type { MetadataPlace } from './metadata-store.suite.ts';
import {
  DROPPED_AT_ONCE,
  MAX_WAITING,
  MAX_WAITING_MINOR,
  type Outbox,
  type OutboxMessage,
} from './outbox.ts';

const REPOSITORY = { upstream: '', name: 'team/app' };
const BYTES = Buffer.from('{"schemaVersion":2}');
const MANIFEST = {
  digest: digestOf(BYTES),
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  bytes: BYTES,
};
const VIEW = {
  kind: 'manifest',
  mediaType: MANIFEST.mediaType,
  artifactType: undefined,
  subject: undefined,
  annotations: {},
  manifests: [],
  blobs: [],
} as const;

const message = (body: string, endpoint = 'ci'): OutboxMessage => ({ endpoint, body, atMs: 1_000 });
const messages = (count: number, more: Partial<OutboxMessage> = {}): OutboxMessage[] =>
  Array.from({ length: count }, (_, index) => ({ ...message(String(index)), ...more }));

/** The contract of Outbox, and of the writes of a MetadataStore that put messages into it. */
export function outboxSuite(makePlace: () => Promise<MetadataPlace>): void {
  describe('an Outbox', () => {
    let place: MetadataPlace;
    let store: MetadataStore;
    let outbox: Outbox;
    let lease: Lease;

    const bodies = async (endpoint = 'ci') =>
      (await outbox.listNext(endpoint, 1_000)).map(({ body }) => body);

    beforeEach(async () => {
      place = await makePlace();
      store = await place.open();
      if (store.outbox === undefined) throw new Error('it has no outbox');
      outbox = store.outbox;
      lease = await leaseOf(store, 'sender');
    });

    afterEach(async () => {
      await store.close();
      await place.remove();
    });

    test('an endpoint that never got a message has nothing', async () => {
      expect(await bodies()).toEqual([]);
      expect(await outbox.readState('ci')).toEqual({ waiting: 0, oldestAtMs: undefined, dropped: 0 });
    });

    test('messages wait in the order in which they were put, for each endpoint', async () => {
      await outbox.put([message('1'), message('a', 'other'), message('2')]);
      await outbox.put([message('3')]);
      expect(await bodies()).toEqual(['1', '2', '3']);
      expect(await bodies('other')).toEqual(['a']);
      expect((await outbox.listNext('ci', 2)).map(({ body }) => body)).toEqual(['1', '2']);
      expect(await outbox.readState('ci')).toEqual({ waiting: 3, oldestAtMs: 1_000, dropped: 0 });
    });

    test('every process sees them', async () => {
      const other = await place.open();
      await other.outbox?.put([message('1')]);
      expect(await bodies()).toEqual(['1']);
      await other.close();
    });

    test('what was received is removed, of its endpoint alone', async () => {
      await outbox.put([message('1'), message('a', 'other'), message('2'), message('3')]);
      const [, second] = await outbox.listNext('ci', 2);
      await outbox.remove('ci', second?.position ?? 0, lease);
      expect(await bodies()).toEqual(['3']);
      expect(await bodies('other')).toEqual(['a']);
      expect((await outbox.readState('ci')).waiting).toBe(1);
    });

    test('a position is not used again, so that nothing is removed that was not sent', async () => {
      await outbox.put([message('1')]);
      const [first] = await outbox.listNext('ci', 1);
      await outbox.remove('ci', first?.position ?? 0, lease);
      await outbox.put([message('2')]);
      await outbox.remove('ci', first?.position ?? 0, lease);
      expect(await bodies()).toEqual(['2']);
    });

    test('nothing is removed by a process that has lost the Lease', async () => {
      await outbox.put([message('1')]);
      await store.release(lease);
      const other = await place.open();
      await leaseOf(other, 'sender');
      const [first] = await outbox.listNext('ci', 1);
      await expect(outbox.remove('ci', first?.position ?? 0, lease)).rejects.toThrow(LeaseLost);
      expect(await bodies()).toEqual(['1']);
      await other.close();
    });

    test('too many are dropped and counted, the minor ones when half of the room is taken', async () => {
      await outbox.put(messages(MAX_WAITING_MINOR - 1));
      await outbox.put(messages(3, { isMinor: true }));
      expect(await outbox.readState('ci')).toMatchObject({ waiting: MAX_WAITING_MINOR, dropped: 2 });
      await outbox.put(messages(MAX_WAITING - MAX_WAITING_MINOR));
      await outbox.put([message('one too many'), message('of another', 'other')]);
      expect(await outbox.readState('ci')).toMatchObject({ waiting: MAX_WAITING, dropped: 3 });
      expect(await bodies('other')).toEqual(['of another']);
      const [first] = await outbox.listNext('ci', 1);
      await outbox.remove('ci', first?.position ?? 0, lease);
      await outbox.put([message('room again')]);
      expect(await outbox.readState('ci')).toMatchObject({ waiting: MAX_WAITING, dropped: 3 });
    });

    test('what has waited too long is dropped and counted', async () => {
      await outbox.put([
        { ...message('old'), atMs: 10 },
        { ...message('old', 'other'), atMs: 10 },
      ]);
      await outbox.put([{ ...message('new'), atMs: 20 }]);
      expect(await outbox.dropBefore(20)).toBe(2);
      expect(await outbox.dropBefore(20)).toBe(0);
      expect(await bodies()).toEqual(['new']);
      expect(await outbox.readState('ci')).toEqual({ waiting: 1, oldestAtMs: 20, dropped: 1 });
      expect(await outbox.readState('other')).toEqual({ waiting: 0, oldestAtMs: undefined, dropped: 1 });
    });

    test('what is skipped is removed, of its endpoint alone, and does not count as dropped', async () => {
      await outbox.put([message('1'), message('a', 'other'), message('2'), message('3')]);
      const [, second] = await outbox.listNext('ci', 2);
      const from = second?.position ?? 0;
      expect(await outbox.skip('ci', { from, to: from })).toBe(1);
      expect(await outbox.skip('ci', { from, to: from })).toBe(0);
      expect(await bodies()).toEqual(['1', '3']);
      expect(await outbox.skip('ci', { from: 0, to: Number.MAX_SAFE_INTEGER })).toBe(2);
      expect(await bodies('other')).toEqual(['a']);
      expect(await outbox.readState('ci')).toEqual({ waiting: 0, oldestAtMs: undefined, dropped: 0 });
    });

    test('of many, a transaction skips the oldest', async () => {
      await outbox.put(messages(DROPPED_AT_ONCE + 1));
      const all = { from: 0, to: Number.MAX_SAFE_INTEGER };
      expect(await outbox.skip('ci', all)).toBe(DROPPED_AT_ONCE);
      expect(await bodies()).toEqual([String(DROPPED_AT_ONCE)]);
      expect(await outbox.skip('ci', all)).toBe(1);
    });

    test('a write puts its messages if it changes something', async () => {
      const lacking = [{ digest: digestOf(Buffer.from('layer')), size: 5 }];
      const put = { atMs: 1, messages: [message('pushed')] };
      await store.putManifest(REPOSITORY, MANIFEST, VIEW, { ...put, required: lacking });
      expect(await bodies()).toEqual([]);
      await store.putManifest(REPOSITORY, MANIFEST, VIEW, { ...put, tag: 'v1' });
      const row = { digest: MANIFEST.digest, checkedAtMs: 1 };
      await store.putTag(REPOSITORY, 'v2', row, { messages: [message('tagged')] });
      expect(await bodies()).toEqual(['pushed', 'tagged']);
      const along = { messages: [message('removed')] };
      for (let attempt = 0; attempt < 2; attempt += 1) await store.removeTag(REPOSITORY, 'v1', along);
      for (let attempt = 0; attempt < 2; attempt += 1)
        await store.unlinkManifest(REPOSITORY, MANIFEST.digest, along);
      expect(await bodies()).toEqual(['pushed', 'tagged', 'removed', 'removed']);
    });

    test('the removal of a repository puts its messages if there was one', async () => {
      const along = { messages: [message('removed')] };
      await store.removeRepository(REPOSITORY, along);
      expect(await bodies()).toEqual([]);
      await store.putManifest(REPOSITORY, MANIFEST, VIEW, { atMs: 1 });
      await store.removeRepository(REPOSITORY, along);
      expect(await bodies()).toEqual(['removed']);
    });
  });
}
