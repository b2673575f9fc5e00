import { expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { digestOf } from '../oci/digest.ts';
import { IndexAway } from './index-away.ts';
import { LastUsed, type Use } from './last-used.ts';

const DIGEST = digestOf(Buffer.from('content'));

function openLastUsed() {
  const index = { failure: undefined as Error | undefined, written: [] as Use[] };
  const used = new LastUsed({
    write: async uses => {
      if (index.failure !== undefined) throw index.failure;
      index.written.push(...uses);
    },
    maxUsesPerWrite: 10,
    log: silentLog,
  });
  return { index, used };
}

test('a use that somebody relies on is written when the index is there again', async () => {
  const { index, used } = openLastUsed();
  index.failure = new IndexAway('away');
  await used.put(DIGEST);
  await used.flush();
  expect(used.isNoted(DIGEST)).toBe(true);
  index.failure = undefined;
  await used.flush();
  expect(index.written.map(([digest]) => digest)).toEqual([DIGEST]);
  expect(used.isNoted(DIGEST)).toBe(false);
  await used.close();
});

test('a use that a full disk refuses keeps nothing from being removed', async () => {
  const { index, used } = openLastUsed();
  index.failure = Object.assign(new Error('full'), { code: 'ENOSPC' });
  await used.put(DIGEST);
  expect(used.isNoted(DIGEST)).toBe(true);
  await used.flush();
  expect(used.isNoted(DIGEST)).toBe(false);
  await used.close();
});
