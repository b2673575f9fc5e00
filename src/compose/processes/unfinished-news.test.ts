import { expect, it } from 'vitest';
import { Changes } from '../../lib/changes.ts';
import { shareUnfinished } from './unfinished-news.ts';

it('tells the other processes what making room has freed before the write that needed it measures again', () => {
  const told: number[] = [];
  const roomMade = new Changes();
  const spool = {
    unfinishedBytes: 1_000,
    countUnfinished: (bytes: number) => void (spool.unfinishedBytes = bytes),
    space: { onRoomMade: (listener: () => void) => roomMade.listen(listener) },
  };
  const sharing = shareUnfinished(spool, { tell: bytes => told.push(bytes), listen: () => () => {} });
  spool.countUnfinished(100);
  roomMade.tell();
  expect(told).toEqual([-900]);
  sharing.close();
  spool.countUnfinished(50);
  roomMade.tell();
  expect(told).toEqual([-900]);
});
