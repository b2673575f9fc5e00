import { expect, it } from 'vitest';
import { shareUnfinished } from './unfinished-news.ts';

it('tells the other processes what making room has freed before whoever wanted it looks again', async () => {
  const told: number[] = [];
  const space = {
    look: async () => ({ freeBytes: 0, minFreeBytes: 0 }),
    mayAdmit: async () => true,
    admit: async () => {},
    makeRoom: async () => spool.countUnfinished(100),
  };
  const spool = {
    unfinishedBytes: 1_000,
    countUnfinished: (bytes: number) => void (spool.unfinishedBytes = bytes),
    space,
  };
  const sharing = shareUnfinished(spool, { tell: bytes => told.push(bytes), listen: () => () => {} });
  await space.makeRoom();
  expect(told).toEqual([-900]);
  sharing.close();
});
