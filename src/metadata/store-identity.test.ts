import { copyFile, mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { digestOf } from '../oci/digest.ts';
import { FolderIdentity } from './folder-identity.ts';
import { IndexUnusable } from './index-unusable.ts';
import type { MetadataStore } from './metadata-store.ts';
import { Database } from './sqlite/driver.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';
import { resumeCollecting, STATE_FILE, StoreIdentity, whyNotCollected } from './store-identity.ts';

const INDEX = 'index.db';
let folder: string;
let hasBlobs: boolean;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-identity-'));
  hasBlobs = false;
});

afterEach(() => rm(folder, { recursive: true }));

interface Opened {
  readonly metadata: MetadataStore;
  readonly identity: StoreIdentity;
  close(): Promise<void>;
}

async function openStore(at = folder): Promise<Opened> {
  const identity = await StoreIdentity.look(at, INDEX);
  const { isCopied } = identity.doubts;
  const metadata = await openSqliteMetadataStore(join(at, INDEX), { log: silentLog, isCopied });
  await identity.settle(metadata, async () => hasBlobs, silentLog);
  const close = async (): Promise<void> => {
    await identity.closing();
    await metadata.close();
    await identity.close();
  };
  return { metadata, identity, close };
}

/** Opens it, and says why nothing is collected. */
async function reason(at = folder): Promise<string | undefined> {
  const store = await openStore(at);
  const found = await whyNotCollected(store.metadata);
  await store.close();
  return found?.reason;
}

async function fill(metadata: MetadataStore, count: number, start = 0): Promise<void> {
  const digests = Array.from({ length: count }, (_, at) => digestOf(Buffer.from(`${start + at}`)));
  await Promise.all(digests.map(digest => metadata.putBlob(digest, 1)));
}

const copy = async (to: string, ...suffixes: string[]): Promise<void> => {
  for (const suffix of suffixes) await copyFile(join(folder, INDEX + suffix), join(to, INDEX + suffix));
};

async function elsewhere(): Promise<string> {
  const to = join(folder, 'copy');
  await mkdir(to);
  return to;
}

/** As a killed process leaves the store whose write-ahead log was deleted. */
async function copyWithoutLog(): Promise<string> {
  const to = await elsewhere();
  await copy(to, '');
  const { ino } = await stat(join(to, INDEX));
  const state = JSON.parse(await readFile(join(folder, STATE_FILE), 'utf8'));
  await writeFile(join(to, STATE_FILE), JSON.stringify({ ...state, inode: ino }));
  return to;
}

describe('garbage is collected', () => {
  test('while another process closes the index, and after one was killed in between', async () => {
    const { metadata, identity } = await openStore();
    await fill(metadata, 3);
    await identity.closing();
    await metadata.close();
    expect(await reason()).toBeUndefined();
  });

  test('when one of two processes has closed the index, and then the other one', async () => {
    const [one, other] = [await openStore(), await openStore()];
    await one.close();
    await other.close();
    expect(await reason()).toBeUndefined();
  });

  test('when two processes close the index at once, and the last of them is killed in between', async () => {
    const [one, last] = [await openStore(), await openStore()];
    await fill(one.metadata, 3);
    await one.identity.closing();
    await one.metadata.close();
    await last.identity.closing();
    await one.identity.close();
    await last.metadata.close();
    expect(await reason()).toBeUndefined();
  });

  test('in a new store, in one that is opened again, and in one of an earlier version', async () => {
    expect(await reason()).toBeUndefined();
    hasBlobs = true;
    expect(await reason()).toBeUndefined();
    await rm(join(folder, STATE_FILE));
    const database = new Database(join(folder, INDEX));
    database.exec(`
      DELETE FROM settings WHERE name = 'store-id';
      INSERT INTO blobs (digest, size, created_at_ms, used_at_ms) VALUES ('x', 1, 1, 1)`);
    database.close();
    expect(await reason()).toBeUndefined();
  });

  test('in a complete copy of a stopped store', async () => {
    const store = await openStore();
    await fill(store.metadata, 10);
    await store.close();
    const to = await elsewhere();
    await copy(to, '');
    await copyFile(join(folder, STATE_FILE), join(to, STATE_FILE));
    hasBlobs = true;
    expect((await StoreIdentity.look(to, INDEX)).doubts.isCopied).toBe(true);
    expect(await reason(to)).toBeUndefined();
    expect((await StoreIdentity.look(to, INDEX)).doubts).toEqual({ isCopied: false, reasons: [] });
  });

  test('after a failed start that followed a killed process, as with an older version', async () => {
    const killed = await openStore();
    await fill(killed.metadata, 3);
    const crashed = await elsewhere();
    await copy(crashed, '', '-wal', '-shm');
    await copyFile(join(folder, STATE_FILE), join(crashed, STATE_FILE));
    await killed.close();
    const identity = await StoreIdentity.look(crashed, INDEX);
    const metadata = await openSqliteMetadataStore(join(crashed, INDEX), { log: silentLog });
    await identity.closing();
    await metadata.close();
    await identity.close();
    expect(await reason(crashed)).toBeUndefined();
  });

  test('beside a killed process, and with two that open and close the store in any order', async () => {
    const first = await openStore();
    const second = await openStore();
    await first.close();
    await fill(second.metadata, 3);
    const third = await openStore();
    await second.close();
    expect(await whyNotCollected(third.metadata)).toBeUndefined();
    const to = await elsewhere();
    await copy(to, '', '-wal');
    await third.close();
    expect((await StoreIdentity.look(folder, INDEX)).doubts).toEqual({ isCopied: false, reasons: [] });
  });
});

describe('no garbage is collected until the operator decides', () => {
  test('when the index was deleted and there are blobs', async () => {
    expect(await reason()).toBeUndefined();
    hasBlobs = true;
    await rm(join(folder, INDEX));
    expect(await reason()).toContain('the index is new, and blobs/ is not empty');
    expect(await reason()).toContain('the index is new');
    const store = await openStore();
    await resumeCollecting(store.metadata);
    await store.close();
    expect(await reason()).toBeUndefined();
  });

  test.each(['rebuilt', 'the index was rebuilt from the files, and does not know yet what is needed'])(
    'when it was rebuilt, also by an earlier version: %s',
    async stored => {
      const store = await openStore();
      await store.metadata.putSetting('collecting-stopped', stored);
      expect(await whyNotCollected(store.metadata)).toMatchObject({
        reason: 'the index was rebuilt from the files, and does not know yet what is needed',
        waysOut: expect.stringContaining('run `entrepot gc --force` once everything'),
        isExpected: true,
      });
      await store.close();
    },
  );

  test('when a store of an earlier version has lost its index', async () => {
    hasBlobs = true;
    expect(await reason()).toContain('the index is new');
  });

  describe.each(['putSetting', 'initSetting'] as const)(
    'though the process that found it ended before %s',
    write => {
      /** Opens the index at `path` by a process that ends before it can record anything there. */
      async function endEarly(
        path: string,
        settle: (metadata: MetadataStore) => Promise<unknown>,
      ): Promise<void> {
        const metadata = await openSqliteMetadataStore(path, { log: silentLog });
        vi.spyOn(metadata, write).mockRejectedValue(new Error('the process was killed'));
        await expect(settle(metadata)).rejects.toThrow('killed');
        await metadata.close();
      }

      test('when the index is new and there are blobs', async () => {
        hasBlobs = true;
        const identity = await StoreIdentity.look(folder, INDEX);
        await endEarly(join(folder, INDEX), metadata =>
          identity.settle(metadata, async () => hasBlobs, silentLog),
        );
        expect(await reason()).toContain('the index is new');
      });

      test('when the index in a database is new and there are blobs', async () => {
        const [own, index] = [await elsewhere(), join(folder, INDEX)];
        const settle = async (metadata: MetadataStore) =>
          (await FolderIdentity.look(own)).settle(
            metadata,
            { areThere: async () => true, belongHere: true },
            silentLog,
          );
        await endEarly(index, settle);
        const metadata = await openSqliteMetadataStore(index, { log: silentLog });
        await settle(metadata);
        expect((await whyNotCollected(metadata))?.reason).toContain('the index is new');
        await metadata.close();
      });
    },
  );

  test('when its write-ahead log was deleted, though the process that found it was killed before it said so', async () => {
    const store = await openStore();
    await fill(store.metadata, 3);
    const to = await copyWithoutLog();
    await store.close();
    await StoreIdentity.look(to, INDEX);
    const killed = await openSqliteMetadataStore(join(to, INDEX), { log: silentLog });
    const after = await openStore(to);
    expect((await whyNotCollected(after.metadata))?.reason).toContain('index.db-wal is missing');
    await resumeCollecting(after.metadata);
    await after.close();
    await killed.close();
    expect(await reason(to)).toBeUndefined();
  });

  test('when the index belongs to another store', async () => {
    expect(await reason()).toBeUndefined();
    const other = await elsewhere();
    const store = await openStore(other);
    await fill(store.metadata, 1);
    await store.close();
    await copyFile(join(other, INDEX), join(folder, INDEX));
    expect(await reason()).toContain('to a different store');
  });

  test('when the write-ahead log of a killed process was deleted', async () => {
    const store = await openStore();
    await fill(store.metadata, 3);
    const to = await copyWithoutLog();
    await store.close();
    expect(await reason(to)).toContain('index.db-wal is missing');
  });

  test('when it was deleted, and another process had closed the index beside the killed one', async () => {
    const [one, stays] = [await openStore(), await openStore()];
    await fill(one.metadata, 3);
    await one.close();
    await stays.identity.stay();
    const to = await copyWithoutLog();
    await stays.close();
    await stays.identity.stay();
    expect(await reason()).toBeUndefined();
    expect(await reason(to)).toContain('index.db-wal is missing');
  });

  test('when the write-ahead log is damaged before its end, but not when only its end is incomplete', async () => {
    const store = await openStore();
    await fill(store.metadata, 20);
    const to = await elsewhere();
    for (const [at, expected] of [
      [0.5, 'index.db-wal is damaged,'],
      [0.99, ''],
    ] as const) {
      await copy(to, '', '-wal');
      const wal = join(to, `${INDEX}-wal`);
      const { size } = await stat(wal);
      const file = await open(wal, 'r+');
      await file.write(Buffer.from('????'), 0, 4, Math.floor(size * at));
      await file.close();
      const { reasons } = (await StoreIdentity.look(to, INDEX)).doubts;
      expect(
        reasons
          .join()
          .slice(0, expected.length + 1)
          .trimEnd(),
      ).toBe(expected);
    }
    await store.close();
  });

  test('but not when a power failure kept later commits of Leases and lost an earlier one', async () => {
    const store = await openStore();
    await fill(store.metadata, 20);
    const wal = join(folder, `${INDEX}-wal`);
    const to = await elsewhere();
    const doubtsDamagedAt = async (at: number): Promise<readonly string[]> => {
      await copy(to, '', '-wal');
      const file = await open(join(to, `${INDEX}-wal`), 'r+');
      // In the content of a page, behind the headers of the log and of the frame.
      await file.write(Buffer.from('????'), 0, 4, at - ((at - 32) % (24 + 4_096)) + 1_000);
      await file.close();
      return (await StoreIdentity.look(to, INDEX)).doubts.reasons;
    };
    const { size: before } = await stat(wal);
    for (let at = 0; at < 20; at += 1) await store.metadata.acquireLease(`ingest-${at}`);
    const { size: after } = await stat(wal);
    expect(await doubtsDamagedAt((before + after) / 2)).toEqual([]);
    expect(await doubtsDamagedAt(before - 4_096)).toEqual([
      expect.stringContaining('index.db-wal is damaged'),
    ]);
    await fill(store.metadata, 1, 20);
    await store.metadata.acquireLease('later');
    expect(await doubtsDamagedAt((before + after) / 2)).toEqual([
      expect.stringContaining('index.db-wal is damaged'),
    ]);
    await store.close();
  });
});

/** Opens an index in a database whose folder is at `path`; `belongHere`: whether its blobs are there. */
async function settleAt(path: string, index: MetadataStore, belongHere: boolean): Promise<void> {
  const identity = await FolderIdentity.look(path);
  await identity.settle(index, { areThere: async () => false, belongHere }, silentLog);
}

test('a folder of another store stops collection if blobs belong there, but not if it only caches a bucket', async () => {
  const [own, reused] = [join(folder, 'own'), join(folder, 'reused')];
  await Promise.all([mkdir(own), mkdir(reused)]);
  const metadata = await openSqliteMetadataStore(join(folder, INDEX), { log: silentLog });
  const other = await openSqliteMetadataStore(join(folder, 'other.db'), { log: silentLog });
  await settleAt(own, metadata, false);
  await settleAt(reused, other, false);

  await settleAt(reused, metadata, false);
  expect(await whyNotCollected(metadata)).toBeUndefined();
  await settleAt(reused, other, true);
  expect((await whyNotCollected(other))?.reason).toContain('to a different store');
  await metadata.close();
  await other.close();
});

test('a copy whose pages are from different moments is refused, with a message about what to do', async () => {
  const store = await openStore();
  await fill(store.metadata, 400);
  const to = await elsewhere();
  await copyFile(join(folder, STATE_FILE), join(to, STATE_FILE));
  // As a copy does that is overtaken by a checkpoint: the first half of the file is of now, the second of later.
  const database = new Database(join(folder, INDEX));
  database.pragma('wal_checkpoint(TRUNCATE)');
  const early = await readFile(join(folder, INDEX));
  await fill(store.metadata, 2_000, 400);
  database.pragma('wal_checkpoint(TRUNCATE)');
  database.close();
  const late = await readFile(join(folder, INDEX));
  const half = Math.floor(early.length / 8_192) * 4_096;
  await writeFile(
    join(to, INDEX),
    Buffer.concat([late.subarray(0, half), early.subarray(half), late.subarray(early.length)]),
  );
  const opening = openStore(to);
  await expect(opening).rejects.toBeInstanceOf(IndexUnusable);
  await expect(opening).rejects.toThrow('entrepot restore');
  await store.close();
});

test('of a store in a database, what identifies the folder is private before the index is open', async () => {
  await FolderIdentity.look(folder);
  expect((await stat(join(folder, STATE_FILE))).mode & 0o077).toBe(0);
});
