import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Lease, Leases, LeftLease } from './lease.ts';

/** A place where Leases are kept. Each call of `open` is another process on it. */
export interface LeasesPlace {
  open(): Promise<OpenLeases>;
  remove(): Promise<void>;
}

export interface OpenLeases {
  readonly leases: Leases;
  /** Ends the process in an orderly way: it writes nothing any more. */
  close(): Promise<void>;
}

/** The contract of Leases, as tests for any implementation. */
export function leasesSuite(makePlace: () => Promise<LeasesPlace>): void {
  describe('a Lease', () => {
    let place: LeasesPlace;
    let [mine, other]: OpenLeases[] = [];
    let leases: Leases;
    let others: Leases;

    beforeEach(async () => {
      place = await makePlace();
      [mine, other] = [await place.open(), await place.open()];
      leases = mine.leases;
      others = other.leases;
    });

    afterEach(async () => {
      await mine?.close();
      await other?.close();
      await place.remove();
    });

    test('belongs to one process until that gives it up or ends, and each has a greater epoch', async () => {
      const first = await leaseOf(leases, 'fill-1');
      expect(first).toMatchObject({ key: 'fill-1', left: undefined });
      expect(await leases.acquireLease('fill-1')).toBeUndefined();
      expect(await others.acquireLease('fill-1')).toBeUndefined();
      const held = { epoch: first.epoch, isHeld: true, holder: expect.stringMatching(/process/) };
      expect(await others.readLease('fill-1')).toMatchObject(held);
      await others.release(first);
      expect(await others.acquireLease('fill-1')).toBeUndefined();
      await leases.release(first);
      expect(await others.readLease('fill-1')).toBeUndefined();
      const second = await leaseOf(others, 'fill-1');
      expect(second.epoch).toBeGreaterThan(first.epoch);
      expect(second.left).toBeUndefined();
      await leases.release(first);
      expect(await others.readLease('fill-1')).toMatchObject({ epoch: second.epoch, isHeld: true });
      await other?.close();
      const left = { epoch: second.epoch, isHeld: false, holder: undefined };
      expect(await leases.readLease('fill-1')).toMatchObject(left);
      expect((await leaseOf(leases, 'fill-1')).left).toEqual({ epoch: second.epoch, mayWrite: false });
    });

    test('that is held is described to a process that tries to acquire it', async () => {
      const lease = await leaseOf(leases, 'fill-1');
      for (const each of [leases, others]) {
        const seen: unknown[] = [];
        expect(await each.acquireLease('fill-1', held => seen.push(held))).toBeUndefined();
        expect(seen).toEqual([await each.readLease('fill-1')]);
        expect(seen).toMatchObject([{ epoch: lease.epoch, isHeld: true }]);
      }
      await leases.setAside(lease);
      const seen: unknown[] = [];
      expect(await others.acquireLease('fill-1', held => seen.push(held))).toBeDefined();
      expect(seen).toEqual([]);
    });

    test('that was set aside tells the next holder where the work is', async () => {
      const first = await leaseOf(leases, 'upload-1');
      await leases.setAside(first);
      expect(await leases.readLease('upload-1')).toMatchObject({ epoch: first.epoch, isHeld: false });
      const second = await leaseOf(leases, 'upload-1');
      expect(second.left).toEqual({ epoch: first.epoch, mayWrite: false });
      await leases.setAside(first);
      expect(await others.readLease('upload-1')).toMatchObject({ epoch: second.epoch, isHeld: true });
    });

    test('goes to one of many who want it at once, and no other key with it', async () => {
      const wanted = Array.from({ length: 20 }, (_, index) =>
        (index % 2 === 0 ? leases : others).acquireLease('fill-1'),
      );
      expect((await Promise.all(wanted)).filter(Boolean)).toHaveLength(1);
      expect(await others.readLease('fill-2')).toBeUndefined();
      await leaseOf(others, 'fill-2');
    });

    test('is confirmed as long as it is held', async () => {
      const lease = await leaseOf(leases, 'fill-1');
      await lease.confirm();
      expect((await leaseOf(others, 'fill-2')).epoch).toBeGreaterThan(lease.epoch);
      await lease.confirm();
    });
  });
}

/** Acquires a Lease that nobody holds. */
export async function leaseOf(leases: Leases, key: string): Promise<Lease> {
  const lease = await leases.acquireLease(key);
  if (lease === undefined) throw new Error(`${key} is held`);
  return lease;
}

/** A Lease that is never lost, for tests. `left`: the previous holder's. */
export function steadyLease(key: string, epoch = 1, left?: LeftLease): Lease {
  return { key, epoch, left, confirm: () => undefined };
}
