// A table that sorts, filters and pages. What it shows is in the address; what it holds may be thousands of rows, of
// which one page is in the document.
import type { ComponentChildren } from 'preact';
import { param, setParams } from '../address.ts';
import { numberText } from '../format.ts';
import { inOrder, matching } from '../rows.ts';

export interface Column<Row> {
  readonly key: string;
  readonly label: string;
  readonly cell: (row: Row) => ComponentChildren;
  /** What rows are sorted by; without it the column does not sort. */
  readonly by?: (row: Row) => string | number;
  readonly isNumber?: boolean;
  /** Whether its text may be broken anywhere: names and digests. */
  readonly isLong?: boolean;
}

export interface TableProps<Row> {
  /** Tells the tables of a screen apart in the address; empty for the only one. */
  readonly name?: string;
  readonly caption: string;
  readonly columns: readonly Column<Row>[];
  readonly rows: readonly Row[];
  readonly keyOf: (row: Row) => string;
  /** What the filter looks through; without it there is no filter. */
  readonly textOf?: (row: Row) => string;
  /** The column that it is sorted by at first; with `-` from the largest. */
  readonly sort?: string;
  /** Instead of a table without rows. */
  readonly empty: ComponentChildren;
}

/** Rows in the document at once: some screens full. */
const PAGE_ROWS = 50;

export function Table<Row>(props: TableProps<Row>) {
  const { name = '', caption, columns, rows, keyOf, textOf, empty } = props;
  const key = (part: string) => (name === '' ? part : `${name}.${part}`);
  if (rows.length === 0) return <>{empty}</>;
  const filter = param(key('filter'));
  const found = textOf === undefined ? rows : matching(rows, textOf, filter);
  const sort = param(key('sort')) || (props.sort ?? '');
  const sorted = inOrder(found, columns, sort);
  const pages = Math.max(1, Math.ceil(sorted.length / PAGE_ROWS));
  const page = Math.min(pages, Math.max(1, Math.trunc(Number(param(key('page')))) || 1));
  const shown = sorted.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
  const sortBy = (next: string) => setParams({ [key('sort')]: next, [key('page')]: undefined });
  return (
    <div class="table">
      {textOf !== undefined && (rows.length > 5 || filter !== '') && (
        <Filter
          label={`Filter: ${caption}`}
          value={filter}
          onChange={text => setParams({ [key('filter')]: text, [key('page')]: undefined })}
          found={`${numberText(found.length)} of ${numberText(rows.length)}`}
        />
      )}
      <TableRows {...{ caption, columns, keyOf, sort, sortBy }} rows={shown} />
      {found.length === 0 && <p class="faint">Nothing matches “{filter}”.</p>}
      {pages > 1 && (
        <Pages
          caption={caption}
          text={`Page ${numberText(page)} of ${numberText(pages)}`}
          first={page > 1 ? () => setParams({ [key('page')]: undefined }) : undefined}
          previous={page > 1 ? () => setParams({ [key('page')]: String(page - 1) }) : undefined}
          next={page < pages ? () => setParams({ [key('page')]: String(page + 1) }) : undefined}
        />
      )}
    </div>
  );
}

export interface RowsProps<Row> {
  readonly caption: string;
  readonly columns: readonly Column<Row>[];
  readonly rows: readonly Row[];
  readonly keyOf: (row: Row) => string;
  readonly sort?: string | undefined;
  readonly sortBy?: ((sort: string) => void) | undefined;
}

/** The table itself. Its roles are explicit: on narrow screens rows look like cards, which are no tables to browsers. */
export function TableRows<Row>({ caption, columns, rows, keyOf, sort = '', sortBy }: RowsProps<Row>) {
  return (
    <table role="table">
      <caption class="hidden">{caption}</caption>
      <thead role="rowgroup">
        <tr role="row">
          {columns.map(column => (
            <Head {...{ column, sort, sortBy }} key={column.key} />
          ))}
        </tr>
      </thead>
      <tbody role="rowgroup">
        {rows.map(row => (
          <tr role="row" key={keyOf(row)}>
            {columns.map(({ key, label, cell, isNumber, isLong }) => (
              <td role="cell" key={key} data-label={label} class={isNumber ? 'number' : isLong ? 'long' : ''}>
                {cell(row)}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function Head<Row>({
  column: { key, label, by, isNumber },
  sort,
  sortBy,
}: { readonly column: Column<Row> } & Pick<RowsProps<Row>, 'sort' | 'sortBy'>) {
  const order = sort === key ? 'ascending' : sort === `-${key}` ? 'descending' : undefined;
  const className = isNumber ? 'number' : '';
  if (by === undefined || sortBy === undefined) {
    return (
      <th role="columnheader" scope="col" class={className}>
        {label}
      </th>
    );
  }
  // Numbers are looked at from the largest.
  const next = order === undefined ? (isNumber ? `-${key}` : key) : order === 'ascending' ? `-${key}` : key;
  return (
    <th role="columnheader" scope="col" class={className} aria-sort={order ?? 'none'}>
      <button type="button" onClick={() => sortBy(next)}>
        {label}
      </button>
    </th>
  );
}

export function Filter({
  label,
  value,
  onChange,
  found,
  placeholder = 'Filter',
  isEmpty = false,
  children,
}: {
  readonly label: string;
  readonly value: string;
  readonly onChange: (text: string) => void;
  readonly found?: string;
  readonly placeholder?: string;
  /** Whether there is nothing to search; what was typed can still be cleared. */
  readonly isEmpty?: boolean;
  /** At the other end of the line. */
  readonly children?: ComponentChildren;
}) {
  return (
    <p class="filter">
      {(!isEmpty || value !== '') && (
        <input
          type="search"
          aria-label={label}
          placeholder={placeholder}
          value={value}
          onInput={event => onChange(event.currentTarget.value)}
        />
      )}
      {found !== undefined && (
        <span class="faint" role="status">
          {found}
        </span>
      )}
      {children}
    </p>
  );
}

export function Pages({
  caption,
  text,
  first,
  previous,
  next,
}: {
  readonly caption: string;
  readonly text: string;
  readonly first: (() => void) | undefined;
  readonly previous: (() => void) | undefined;
  readonly next: (() => void) | undefined;
}) {
  return (
    <nav class="pages" aria-label={`Pages: ${caption}`}>
      <button type="button" aria-disabled={first === undefined} onClick={first}>
        First
      </button>
      <button type="button" aria-disabled={previous === undefined} onClick={previous}>
        Previous
      </button>
      <span role="status">{text}</span>
      <button type="button" aria-disabled={next === undefined} onClick={next}>
        Next
      </button>
    </nav>
  );
}
