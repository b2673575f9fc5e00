import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { FoundRecord, RecordStore } from './record-store.ts';

export interface RecordPlace {
  open(): Promise<{ readonly records: RecordStore; close(): Promise<void> }>;
  remove(): Promise<void>;
}

/** The contract of RecordStore, as tests for any implementation. */
export function recordStoreSuite(makePlace: () => Promise<RecordPlace>): void {
  describe('a RecordStore', () => {
    let place: RecordPlace;
    let records: RecordStore;
    let close: () => Promise<void>;

    beforeEach(async () => {
      place = await makePlace();
      ({ records, close } = await reopened());
    });

    afterEach(async () => {
      await close();
      await place.remove();
    });

    async function reopened() {
      const opened = await place.open();
      return { records: opened.records, close: () => opened.close() };
    }

    const text = async (name: string) => {
      const bytes = await records.read(name, 1_000_000);
      return bytes && Buffer.from(bytes).toString();
    };
    const listed = async (folder: string, after?: string) => {
      const found: FoundRecord[] = [];
      for await (const record of records.list(folder, after)) found.push(record);
      return found.map(({ name, size }) => [name, size]);
    };

    const from = async (after: string) => (await listed('images', after)).map(([name]) => name);

    test('has nothing at first', async () => {
      expect([await text('images/a/b'), await listed('images')]).toEqual([undefined, []]);
      await records.remove('images/a/b');
    });

    test('keeps records by their names, for the next process, too', async () => {
      await records.put('images/a/one', Buffer.from('first'));
      await records.put('images/a@b/two', Buffer.from(''));
      await records.put('manifests/sha256/ab/three', Buffer.alloc(500_000, 'x'));
      await close();
      ({ records, close } = await reopened());
      expect([await text('images/a/one'), await text('images/a@b/two')]).toEqual(['first', '']);
      expect(await text('manifests/sha256/ab/three')).toHaveLength(500_000);
      expect(await listed('images')).toEqual([
        ['images/a/one', 5],
        ['images/a@b/two', 0],
      ]);
      expect(await listed('manifests')).toEqual([['manifests/sha256/ab/three', 500_000]]);
    });

    test('lists in ASCII order, and from a name on that need not be one of them', async () => {
      const names = ['a-b/1', 'a.b/1', 'a/1', 'a/10', 'a/2', 'a@b/1', 'ab/1', 'b/0'].map(
        name => `images/${name}`,
      );
      for (const name of names.toReversed()) await records.put(name, Buffer.from('x'));
      expect(await from('')).toEqual(names);
      for (const [at, name] of names.entries()) expect(await from(name)).toEqual(names.slice(at + 1));
      expect(await from('images/a/11')).toEqual(names.slice(4));
      expect(await from('images/a.')).toEqual(names.slice(1));
      expect(await from('images/b/1')).toEqual([]);
    });

    test('replaces and removes records, and may have them again', async () => {
      await records.put('images/a/one', Buffer.from('first'));
      await records.put('images/a/one', Buffer.from('second'));
      expect(await text('images/a/one')).toBe('second');
      await records.remove('images/a/one');
      await records.remove('images/a/one');
      expect([await text('images/a/one'), await listed('images')]).toEqual([undefined, []]);
      await records.put('images/a/one', Buffer.from('third'));
      expect(await text('images/a/one')).toBe('third');
    });

    test('takes many at once, some of which are the same', async () => {
      const names = Array.from({ length: 40 }, (_, at) => `images/${at % 3}/${at % 20}`);
      await Promise.all(names.map(name => records.put(name, Buffer.from(name))));
      expect(await listed('images')).toHaveLength(new Set(names).size);
      await Promise.all(names.map(name => records.remove(name)));
      expect(await listed('images')).toEqual([]);
    });

    test('reads none that is larger than expected', async () => {
      await records.put('images/a/one', Buffer.alloc(11));
      await expect(records.read('images/a/one', 10)).rejects.toThrow('images/a/one is too large');
      expect(await records.read('images/a/one', 11)).toHaveLength(11);
    });

    test('has no names that lead elsewhere', async () => {
      for (const name of ['one', '../a', 'images/../a', 'images//a', '/images/a', 'images/.a', 'images/a/']) {
        await expect(records.put(name, Buffer.from('x'))).rejects.toThrow('not the name of a record');
      }
    });
  });
}
