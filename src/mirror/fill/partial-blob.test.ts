import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, it, vi } from 'vitest';
import { Latch } from '../../../test/support/latch.ts';
import { MemoryIngests, MemorySpool } from '../../blobs/memory-spool.fixture.ts';
import { steadyLease } from '../../lib/lease.suite.ts';
import { silentLog } from '../../lib/log.ts';
import { digestOf } from '../../oci/digest.ts';
import { OtherParts, type OtherPartsOptions } from './other-parts.ts';
import { PartialBlob } from './partial-blob.ts';

// oxlint-disable-next-line typescript/no-unsafe-type-assertion -- what is only needed for requests
const UNUSED = undefined as never;
const SIZE = 1_000;

async function partialBlob() {
  const spool = new MemorySpool(new MemoryIngests());
  const other = { key: 'part1-a', epoch: 2, isHeld: true };
  const findHolders = vi.fn<OtherPartsOptions['findHolders']>(async () => [{ ...other }]);
  const openOther = vi.fn<OtherPartsOptions['open']>(({ key, epoch }) => spool.savedParts(key, epoch));
  const others = new OtherParts({
    ownKey: 'part0-a',
    size: SIZE,
    findHolders,
    open: openOther,
    endIfDead: async () => {},
  });
  const parts = await spool.parts(steadyLease('part0-a', 1), SIZE);
  const theirs = await spool.parts(steadyLease(other.key, other.epoch), SIZE);
  const blob = new PartialBlob({
    asking: UNUSED,
    links: UNUSED,
    queue: UNUSED,
    meter: UNUSED,
    log: silentLog,
    digest: digestOf(Buffer.alloc(SIZE)),
    size: SIZE,
    parts,
    space: { take: async () => {}, leave: () => {} },
    others,
    ranged: () => {},
    requests: () => {},
  });
  return { blob, spool, theirs, other, findHolders, openOther };
}

it('has what another process saves, and waits for what that has received', async () => {
  const { blob, theirs } = await partialBlob();
  await theirs.write(0, Buffer.alloc(10, 'x'));
  await theirs.announce([{ start: 0, end: 10, state: 'received' }]);
  const saved = blob.othersSaved();
  await theirs.save();
  await theirs.announce([]);
  await saved;
  expect(blob.next(0)).toEqual({ start: 0, end: 10 });
  const buffer = Buffer.alloc(20);
  expect([await blob.read(buffer, 0), buffer[9]]).toEqual([10, 'x'.charCodeAt(0)]);
  await blob.close();
});

it('has what another process has saved while the next one takes that over', async () => {
  const { blob, theirs, other, openOther } = await partialBlob();
  await theirs.write(0, Buffer.alloc(10));
  await theirs.save();
  await blob.othersSaved();
  other.epoch += 1;
  const [looked, taking] = [new Latch(), new Latch()];
  openOther.mockImplementationOnce(async () => {
    looked.open();
    await taking.opened;
    return undefined;
  });
  const looking = blob.othersSaved();
  await looked.opened;
  expect(await blob.read(Buffer.alloc(20), 0)).toBe(10);
  taking.open();
  await looking;
  expect(await blob.read(Buffer.alloc(20), 0)).toBe(10);
  await blob.close();
});

it('has no more than it had once it is closed, however often it is asked', async () => {
  const { blob, theirs } = await partialBlob();
  await blob.close();
  await theirs.write(0, Buffer.alloc(10));
  await theirs.save();
  for (let times = 0; times < 3; times += 1) {
    await blob.look();
    await blob.othersSaved();
  }
  expect(blob.next(0)).toBeUndefined();
});

it('saves parts when there are many, however small they are', async () => {
  const { blob, spool } = await partialBlob();
  for (let at = 0; at < 200; at += 1) await blob.keep(at * 3, Buffer.alloc(1));
  const saved = await spool.savedParts('part0-a', 1);
  expect(saved?.extents.count).toBeGreaterThanOrEqual(100);
  await saved?.close();
  await blob.close();
});

it('looks for what another process brings once at a time, however often somebody begins to follow that', async () => {
  const { blob, findHolders } = await partialBlob();
  const looked = new Latch();
  findHolders.mockImplementation(async () => {
    looked.open();
    return [];
  });
  for (let times = 0; times < 10; times += 1) blob.follow()();
  const unfollow = blob.follow();
  await looked.opened;
  await nextTurn();
  expect(findHolders).toHaveBeenCalledTimes(1);
  unfollow();
  await blob.close();
});
