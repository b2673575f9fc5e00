import { beforeEach, expect, it } from 'vitest';
import { MemoryIndex } from '../metadata/memory-metadata-store.fixture.ts';
import { PrefixQuota } from './quota.ts';
import { type QuotaCalls, RemoteQuota, ReservationsOfProcess } from './shared-quota.ts';

const MIB = 1024 * 1024;
const app = { upstream: '', name: 'a/app' };
const free = { upstream: '', name: 'b/app' };

let quota: PrefixQuota;
let processes: readonly { readonly quota: RemoteQuota; readonly reservations: ReservationsOfProcess }[];
let asked: number;

beforeEach(() => {
  asked = 0;
  quota = new PrefixQuota(new MemoryIndex().open(), owner => (owner === 'a' ? 3 * MIB : undefined));
  processes = [1, 2].map(() => {
    const reservations = new ReservationsOfProcess(quota);
    const calls: QuotaCalls = {
      reserve: async request => {
        asked += 1;
        return structuredClone(await reservations.reserve(structuredClone(request)));
      },
      check: request => reservations.check(request),
      hold: request => reservations.hold(request),
      release: key => reservations.release(key),
    };
    return { quota: new RemoteQuota(calls, ({ name }) => name.startsWith('a/')), reservations };
  });
});

const [one, other] = [0, 1].map(at => () => processes[at]!);
const used = async (owner: string) => (await quota.usedBytes([owner])).get(owner);

it('processes cannot exceed a quota together, and are told why as by one', async () => {
  const outcomes = await Promise.allSettled([
    one!().quota.reserve('manifest 1', app, 2 * MIB),
    other!().quota.reserve('manifest 2', app, 2 * MIB),
  ]);
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
  expect(outcomes[1]).toMatchObject({
    reason: { code: 'DENIED', status: 403, detail: { owner: 'a', limitBytes: 3 * MIB } },
  });
  one!().quota.release('manifest 1');
  await other!().quota.reserve('manifest 2', app, 2 * MIB);
  expect(await used('a')).toBe(2 * MIB);
});

it('what a process has reserved is released when it ends, except for uploads, which others may continue', async () => {
  await one!().quota.reserve('manifest 1', app, MIB);
  await one!().quota.reserve('upload-00000000-0000-4000-8000-000000000000', app, MIB);
  one!().reservations.releaseAll();
  expect(await used('a')).toBe(MIB);
});

it('what a process asked for when it ended is not reserved for ever', async () => {
  const { quota: remote, reservations } = one!();
  const asking = remote.reserve('manifest 1', app, 2 * MIB);
  const upload = remote.reserve('upload-00000000-0000-4000-8000-000000000000', app, MIB);
  reservations.releaseAll();
  await Promise.all([asking, upload]);
  expect(await used('a')).toBe(MIB);
});

it('an upload asks once for an owner without a limit', async () => {
  const { quota: remote } = one!();
  for (let bytes = 0; bytes < 5; bytes += 1) await remote.reserve('upload', free, bytes * MIB);
  expect(asked).toBe(1);
  remote.release('upload');
  await remote.reserve('upload', free, 0);
  expect(asked).toBe(2);
});
