// Documents on their way, and lists that come in pages.
import type { ComponentChildren } from 'preact';
import { useRef } from 'preact/hooks';
import { param, setParams } from '../address.ts';
import { type Updates, type ShownDocument, useAgain, useDocument } from '../use-document.ts';
import { ask } from '../admin.ts';
import { numberText } from '../format.ts';
import { type Column, Filter, Pages, TableRows } from './table.tsx';

/** What is made of a document once it is there; until then, and if it cannot be had, why. */
export function Loaded<Document>({
  shown,
  children,
}: {
  readonly shown: ShownDocument<Document>;
  readonly children: (document: Document) => ComponentChildren;
}) {
  const { document, problem, again } = shown;
  return (
    <>
      {problem !== undefined && (
        <div class="note bad" role="alert">
          {problem}{' '}
          <button type="button" class="quiet" onClick={again}>
            Try again
          </button>
        </div>
      )}
      {document !== undefined && children(document)}
      {document === undefined && problem === undefined && <p class="faint">Loading…</p>}
    </>
  );
}

/** A page of a list, as the server sends it. */
interface Page<Entry> {
  readonly entries: readonly Entry[];
  readonly next: string | null;
  /** Whether another answer will soon be better. */
  readonly partial?: boolean;
}

const PAGE_ENTRIES = 50;

/** A search through a large list is answered in steps: how many of them make a page, if little is found. */
const MAX_STEPS = 20;

const PARTIAL =
  'Only the images examined so far are in order; the order changes until all have been examined.';

/** The number of a page and the cursor it begins after, as they are in the address: `3.CURSOR`. */
function placeOf(text: string): { readonly number: number; readonly cursor: string } {
  const [, number = '1', cursor = ''] = /^([1-9]\d{0,8})\.(.+)$/.exec(text) ?? [];
  return { number: Number(number), cursor };
}

/** A page, of as many answers as it takes to fill it. */
async function askPage<Entry>(path: string, until: AbortSignal): Promise<Page<Entry>> {
  let page = await ask<Page<Entry>>(path, until);
  const all = [...page.entries];
  for (let step = 1; page.next !== null && all.length < PAGE_ENTRIES && step < MAX_STEPS; step += 1) {
    const further = new URLSearchParams(path.slice(path.indexOf('?')));
    further.set('after', page.next);
    further.set('limit', String(PAGE_ENTRIES - all.length));
    page = await ask<Page<Entry>>(`${path.slice(0, path.indexOf('?'))}?${further}`, until);
    all.push(...page.entries);
  }
  return { ...page, entries: all };
}

export interface ListProps<Entry> {
  /** Tells the lists of a screen apart in the address; empty for the only one. */
  readonly name?: string;
  readonly caption: string;
  /** Of the list, below `/admin/v1/`. */
  readonly path: string;
  /** Further parameters of the request. */
  readonly query?: Readonly<Record<string, string | undefined>>;
  /** Whether the list can be searched. */
  readonly isSearched?: boolean;
  /** Beside the search. */
  readonly tools?: ComponentChildren;
  readonly updates?: Updates<Page<Entry>>;
  readonly columns: readonly Column<Entry>[];
  readonly keyOf: (entry: Entry) => string;
  readonly empty: ComponentChildren;
}

/** A table of a list that the server searches and pages, however long it is. */
export function List<Entry>(props: ListProps<Entry>) {
  const { name = '', caption, path, query = {}, isSearched, tools, updates, columns, keyOf, empty } = props;
  const key = (part: string) => (name === '' ? part : `${name}.${part}`);
  const search = param(key('search'));
  const { number, cursor } = placeOf(param(key('after')));
  // The places of the pages that were seen, so that one can go back. All of them would be too long for an address.
  const seen = useRef(new Map<number, string>()).current;
  seen.set(number, cursor);
  const text = new URLSearchParams({ limit: String(PAGE_ENTRIES) });
  const all = { ...query, q: search, after: cursor };
  for (const [each, value] of Object.entries(all)) if (value) text.set(each, value);
  const shown = useDocument<Page<Entry>>(`${path}?${text}`, updates, askPage);
  const isPartial = shown.document?.partial === true;
  useAgain(shown, isPartial);
  const turnTo = (to: number, from: string) =>
    setParams({ [key('after')]: to === 1 ? undefined : `${to}.${from}` });
  const next = shown.document?.next ?? null;
  const before = seen.get(number - 1);
  // What is looked through by somebody does not go away while he types.
  const hasSearch = useRef(false);
  const count = shown.document?.entries.length ?? 0;
  hasSearch.current ||= search !== '' || number > 1 || next !== null || count > 0;
  return (
    <div class="table">
      {(isSearched || tools !== undefined) && (
        <Filter
          isEmpty={!isSearched || !hasSearch.current}
          label={`Search: ${caption}`}
          value={search}
          onChange={value => setParams({ [key('search')]: value, [key('after')]: undefined })}
          placeholder="Search"
        >
          {tools}
        </Filter>
      )}
      <Loaded shown={shown}>
        {({ entries }) => (
          <>
            {isPartial && <p class="faint">{PARTIAL}</p>}
            {entries.length > 0 && <TableRows {...{ caption, columns, keyOf }} rows={entries} />}
            {entries.length === 0 &&
              next === null &&
              (search === '' ? empty : <p class="faint">Nothing matches “{search}”.</p>)}
            {entries.length === 0 && next !== null && (
              <p class="faint">Nothing on this page, but there are more.</p>
            )}
          </>
        )}
      </Loaded>
      {(next !== null || number > 1) && (
        <Pages
          caption={caption}
          text={`Page ${numberText(number)}`}
          first={number > 1 ? () => turnTo(1, '') : undefined}
          previous={before === undefined ? undefined : () => turnTo(number - 1, before)}
          next={next === null ? undefined : () => turnTo(number + 1, next)}
        />
      )}
    </div>
  );
}
