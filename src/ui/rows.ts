// Rows of a table: which of them are shown, and in which order.

/** What a table knows of a column to sort by it. */
export interface SortedColumn<Row> {
  readonly key: string;
  readonly by?: (row: Row) => string | number;
}

/** The rows that contain every word of the filter, in any case. */
export function matching<Row>(
  rows: readonly Row[],
  textOf: (row: Row) => string,
  filter: string,
): readonly Row[] {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return rows;
  return rows.filter(row => {
    const text = textOf(row).toLowerCase();
    return words.every(word => text.includes(word));
  });
}

/** Sorted by the column that `sort` names; as they are if there is none. Rows that are equal keep their order. */
export function inOrder<Row>(
  rows: readonly Row[],
  columns: readonly SortedColumn<Row>[],
  sort: string,
): readonly Row[] {
  const isDescending = sort.startsWith('-');
  const by = columns.find(({ key }) => key === (isDescending ? sort.slice(1) : sort))?.by;
  if (by === undefined) return rows;
  const sign = isDescending ? -1 : 1;
  return rows
    .map(row => ({ row, value: by(row) }))
    .sort((one, other) => sign * compare(one.value, other.value))
    .map(({ row }) => row);
}

const COLLATOR = new Intl.Collator('en', { numeric: true });

function compare(one: string | number, other: string | number): number {
  if (typeof one === 'number' && typeof other === 'number') return one - other;
  return COLLATOR.compare(String(one), String(other));
}
