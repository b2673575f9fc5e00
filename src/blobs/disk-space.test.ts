import { tmpdir } from 'node:os';
import { expect, test, vi } from 'vitest';
import { DiskSpace } from './disk-space.ts';
import { isStorageFull } from './storage-full.ts';

/** More than any disk has. */
const EVERYTHING = 2 ** 60;

test('a write that leaves enough free space is admitted', async () => {
  const space = new DiskSpace(tmpdir(), () => 0);
  const makeRoom = vi.fn<typeof space.makeRoom>();
  space.roomMaker = makeRoom;
  await space.admit(0);
  await space.admit(1);
  await space.admit(1);
  expect(makeRoom).not.toHaveBeenCalled();
  const { freeBytes, minFreeBytes } = await space.look();
  expect([freeBytes > 0, minFreeBytes]).toEqual([true, 0]);
});

test('a write that does not is refused as if the disk were full, after eviction was tried; an empty write is admitted', async () => {
  const space = new DiskSpace(tmpdir(), () => EVERYTHING);
  const wanted: number[] = [];
  space.roomMaker = async bytes => void wanted.push(bytes);
  await space.admit(0);
  const error = await space.admit(1).catch((reason: unknown) => reason);
  expect(isStorageFull(error)).toBe(true);
  expect(String(error)).toContain('storage.minFree');
  expect(wanted).toEqual([1]);
  // It was in vain a moment ago.
  await expect(space.admit(1)).rejects.toThrow('storage.minFree');
  expect(wanted).toEqual([1]);
});

test('what is too large for what is free above the minimum is refused with its size', async () => {
  const space = new DiskSpace(tmpdir(), () => 0);
  await expect(space.admit(EVERYTHING)).rejects.toThrow(
    /free: .* more would leave less than storage\.minFree/,
  );
});

test('room is made once for all who wait, and each gets what it needs', async () => {
  let minFree = EVERYTHING;
  const space = new DiskSpace(tmpdir(), () => minFree);
  const makeRoom = vi.fn<typeof space.makeRoom>(async () => {
    minFree = 0;
  });
  space.roomMaker = makeRoom;
  await Promise.all([space.admit(1), space.admit(2), space.admit(3)]);
  expect(makeRoom).toHaveBeenCalledTimes(1);
});

test('a share of the disk is a share of its size', async () => {
  const space = new DiskSpace(tmpdir(), diskBytes => diskBytes / 20);
  const { minFreeBytes } = await space.look();
  expect(minFreeBytes).toBeGreaterThan(0);
});

test('whether a write would be admitted is told without making room, by a measurement of the last second', async () => {
  let minFreeBytes = 0;
  const minFree = vi.fn<() => number>(() => minFreeBytes);
  const space = new DiskSpace(tmpdir(), minFree);
  const makeRoom = vi.fn<typeof space.makeRoom>(async () => {
    minFreeBytes = 0;
  });
  space.roomMaker = makeRoom;
  for (let time = 0; time < 20; time += 1) expect(await space.mayAdmit(1)).toBe(true);
  expect(await space.mayAdmit(EVERYTHING)).toBe(false);
  expect(minFree).toHaveBeenCalledTimes(1);
  expect(makeRoom).not.toHaveBeenCalled();

  minFreeBytes = EVERYTHING;
  await space.look();
  expect(await space.mayAdmit(1)).toBe(false);
  await space.admit(1);
  minFreeBytes = EVERYTHING;
  await space.look();
  expect(await space.mayAdmit(1)).toBe(true);
  makeRoom.mockImplementation(async () => {});
  await expect(space.admit(1)).rejects.toThrow('storage.minFree');
  expect(await space.mayAdmit(1)).toBe(false);
});

test('listeners hear that room was made before the write that needed it measures again', async () => {
  let minFree = EVERYTHING;
  const told: string[] = [];
  const space = new DiskSpace(tmpdir(), () => {
    told.push('look');
    return minFree;
  });
  space.roomMaker = async () => {
    minFree = 0;
    told.push('made');
  };
  const stop = space.onRoomMade(() => told.push('told'));
  await space.admit(1);
  expect(told.slice(told.indexOf('made'))).toEqual(['made', 'told', 'look']);
  stop();
  await space.makeRoom(1);
  expect(told.filter(each => each === 'told')).toHaveLength(1);
});
