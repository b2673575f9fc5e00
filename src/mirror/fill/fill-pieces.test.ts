import { expect, it } from 'vitest';
import { Latch } from '../../../test/support/latch.ts';
import { ManualClock } from '../../lib/manual-clock.fixture.ts';
import { silentLog } from '../../lib/log.ts';
import { FillPieces, type FillPiecesOptions } from './fill-pieces.ts';

const SIZE = 1_000;

/** The pieces of a Fill, while another process keeps some: each use of them, which is to be left. */
function piecesElsewhere() {
  const clock = new ManualClock();
  let used = 0;
  const use = () => {
    used += 1;
    return {
      blob: { size: SIZE, isOver: false, look: async () => {}, othersSaved: async () => {} },
      leave: () => void (used -= 1),
    };
  };
  const partials = {
    keyOf: () => 'key',
    find: async (): Promise<unknown> => undefined,
    peek: () => undefined,
    openIfElsewhere: async () => use(),
  };
  const options = {
    fill: { size: SIZE, digest: 'sha256:a' },
    sharing: { mayTakePieces: true, starter: undefined },
    partials,
    trials: undefined,
    asking: { clock },
    log: silentLog,
  };
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion -- as much of each as pieces use
  const pieces = new FillPieces(options as unknown as FillPiecesOptions);
  const look = async (): Promise<void> => {
    clock.skip(1_000);
    await pieces.look();
  };
  return { pieces, look, use, partials, used: () => used };
}

it('are looked for in other processes as long as the download goes on, also when it does so a second time', async () => {
  const { pieces, look, used } = piecesElsewhere();
  for (let times = 0; times < 2; times += 1) {
    await pieces.find();
    await look();
    expect([pieces.blob?.size, used()]).toEqual([SIZE, 1]);
    pieces.end();
    await look();
    expect([pieces.blob, used()]).toEqual([undefined, 0]);
  }
});

it('are used once, though they are also found while they are still being looked for in other processes', async () => {
  const { pieces, look, use, partials, used } = piecesElsewhere();
  await pieces.find();
  pieces.end();
  const found = new Latch();
  partials.find = async () => {
    await found.opened;
    return use();
  };
  const finding = pieces.find();
  await look();
  found.open();
  await finding;
  expect(used()).toBe(1);
  pieces.end();
  expect(used()).toBe(0);
});
