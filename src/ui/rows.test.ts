import { expect, it } from 'vitest';
import { inOrder, matching } from './rows.ts';

interface Row {
  readonly name: string;
  readonly size: number;
}

const rows: readonly Row[] = [
  { name: 'app:v10', size: 3 },
  { name: 'app:v9', size: 1 },
  { name: 'Base:v1', size: 3 },
];
const columns = [
  { key: 'name', by: ({ name }: Row) => name },
  { key: 'size', by: ({ size }: Row) => size },
  { key: 'other' },
];

const namesOf = (found: readonly Row[]) => found.map(({ name }) => name);

it('rows are found by all words of the filter, in any case and order', () => {
  const find = (filter: string) => namesOf(matching(rows, ({ name, size }) => `${name} ${size}`, filter));
  expect(find('')).toEqual(namesOf(rows));
  expect(find(' 3  APP ')).toEqual(['app:v10']);
  expect(find('base')).toEqual(['Base:v1']);
  expect(find('app base')).toEqual([]);
});

it('rows are sorted by a column, numbers in names as numbers, and equal ones stay as they are', () => {
  expect(namesOf(inOrder(rows, columns, 'name'))).toEqual(['app:v9', 'app:v10', 'Base:v1']);
  expect(namesOf(inOrder(rows, columns, '-size'))).toEqual(['app:v10', 'Base:v1', 'app:v9']);
});

it('rows stay as they are if the address names no column, or one that does not sort', () => {
  for (const sort of ['', 'other', '-nothing']) expect(inOrder(rows, columns, sort)).toBe(rows);
});
