import { expect, it } from 'vitest';
import { PagePool } from './page-pool.ts';

const MIB = 1024 * 1024;

it('uses a page again when its owner has given it', () => {
  const pool = new PagePool();
  const page = pool.take();
  pool.give(page);
  expect(pool.take() === page).toBe(true);
});

it('uses a lent page again when its owner has given it and all borrowers have given it back, in any order', () => {
  const pool = new PagePool();
  const page = pool.take();
  const [one, another] = [pool.lend(page.subarray(0, 10)), pool.lend(page.subarray(5))];
  one?.giveBack();
  pool.give(page);
  const other = pool.take();
  expect(other === page).toBe(false);
  another?.giveBack();
  expect(pool.take() === page).toBe(true);

  pool.lend(other)?.giveBack();
  expect(pool.take() === other).toBe(false);
  pool.give(other);
  expect([pool.take() === other, pool.take() === other]).toEqual([true, false]);
});

it.each(['before', 'after'])('never uses a page again that was abandoned %s its owner gave it', when => {
  const pool = new PagePool();
  const page = pool.take();
  const lent = pool.lend(page);
  if (when === 'before') lent?.abandon();
  pool.give(page);
  if (when === 'after') lent?.abandon();
  expect(pool.take() === page).toBe(false);
  expect(pool.lend(page)).toBeUndefined();
});

it('lends 16 MiB at most, however many borrow a page, and nothing of other memory', () => {
  const pool = new PagePool();
  const pages = Array.from({ length: 17 }, () => pool.take());
  expect(pages[0]).toHaveLength(MIB);
  const lent = pages.map(page => pool.lend(page));
  expect(lent.map(Boolean)).toEqual([...Array.from({ length: 16 }, () => true), false]);
  const [first, last] = [pages[0], pages[16]];
  if (first === undefined || last === undefined) throw new Error('no pages');
  expect(pool.lend(first)).toBeDefined();
  lent[1]?.abandon();
  expect(pool.lend(last)).toBeDefined();
  expect(pool.lend(Buffer.alloc(10))).toBeUndefined();
});
