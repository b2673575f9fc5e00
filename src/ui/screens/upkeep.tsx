// What keeps the store small and undamaged: what was removed, what will be next, what is broken.
import type { NextStatus } from '../../admin/documents/status.ts';
import type { UpkeepDocument } from '../../admin/documents/upkeep.ts';
import { addressOf } from '../address.ts';
import { useAgain, useDocument } from '../use-document.ts';
import { bytesText, rateText } from '../format.ts';
import { ActionButton, begin, Tasks } from '../parts/action.tsx';
import { Loaded } from '../parts/loaded.tsx';
import { NotificationEndpoints } from '../parts/notification-endpoints.tsx';
import { StoreFacts } from '../parts/store-facts.tsx';
import { type Column, Table } from '../parts/table.tsx';
import { Ago, Empty, Name, ShortDigest } from '../parts/text.tsx';

export function UpkeepScreen() {
  const shown = useDocument<UpkeepDocument>('upkeep', {
    images: () => undefined,
    task: (document, { state }) => (state === 'running' ? document : undefined),
  });
  const isLooking = shown.document?.store.next === null && !shown.document.store.indexLost;
  useAgain(shown, isLooking);
  return (
    <>
      <Tasks actions={['gc', 'scrub', 'rm']} />
      <Loaded shown={shown}>
        {({ store, collection, eviction, scrub, lost, moreLost }) => (
          <>
            {lost.length > 0 && (
              <section class="card">
                <h2>Damaged, and not replaced</h2>
                <p class="small faint">
                  Push again what is hosted; what comes from an upstream is fetched when somebody pulls it.
                </p>
                <Table
                  name="lost"
                  caption="Damaged content"
                  rows={lost}
                  keyOf={({ digest }) => digest}
                  columns={LOST}
                  empty={null}
                />
                {moreLost && (
                  <p class="small faint">
                    And more. <a href={addressOf('images', { state: 'damaged' })}>All images with damage</a>
                  </p>
                )}
              </section>
            )}
            <div class="columns">
              <section class="card">
                <h2>Store</h2>
                <StoreFacts store={store} />
                <p class="small faint">
                  <code>{store.path}</code>
                </p>
              </section>
              <section class="card">
                <h2>Garbage</h2>
                {collection.stopped !== null && <p class="note bad">{collection.stopped}</p>}
                <p>
                  {collection.interval === null
                    ? 'Collected only by hand'
                    : `Collected every ${collection.interval}`}
                  ; what nothing needs stays for {collection.gracePeriod}.
                </p>
                <div class="actions">
                  <ActionButton label="What would be removed?" act={() => begin('gc', { dryRun: true })} />
                  <ActionButton label="Collect now" kind="main" act={() => begin('gc', {})} />
                </div>
              </section>
              <section class="card">
                <h2>Scrub</h2>
                <p>
                  {scrub.interval === null ? 'Only by hand' : `Every ${scrub.interval}`}, at{' '}
                  {rateText(scrub.bytesPerSecond)}.{' '}
                  {scrub.finished === null ? (
                    'Not everything was verified yet.'
                  ) : (
                    <>
                      Everything was verified <Ago at={scrub.finished} />.
                    </>
                  )}
                </p>
                <div class="actions">
                  <ActionButton label="Verify everything now" act={() => begin('scrub', {})} />
                </div>
              </section>
            </div>
            <section class="card">
              <h2>Evicted next</h2>
              <p class={eviction.due ? 'warn' : 'faint'}>
                {eviction.due
                  ? `The limit is exceeded by ${bytesText(eviction.overBytes)}. ${DUE[store.next?.length === 0 ? 'stuck' : 'going']}`
                  : 'No limit is exceeded. When one is, the least recently used is evicted first:'}
              </p>
              <Table
                name="next"
                caption="Evicted next"
                rows={store.next ?? []}
                keyOf={({ digest }) => digest}
                columns={NEXT}
                empty={
                  <Empty
                    title={store.next === null ? NOT_KNOWN[`${store.indexLost}`] : 'Nothing can be evicted'}
                  />
                }
              />
            </section>
          </>
        )}
      </Loaded>
      <NotificationEndpoints />
    </>
  );
}

/** What happens while a limit is exceeded. */
const DUE = {
  going: 'Being evicted now:',
  stuck:
    'Nothing can be evicted: hosted and pinned images stay, and anything else on the disk is not part of the store. Make room, or raise the limit.',
} as const;

/** Why it is not known what is evicted next, by whether the index is lost. */
const NOT_KNOWN = {
  true: 'The index is lost: the overview says what to do',
  false: 'Looking: in a large store this takes a while',
} as const;

const NEXT: readonly Column<NextStatus>[] = [
  { key: 'kind', label: 'Kind', cell: ({ kind }) => kind },
  { key: 'digest', label: 'Digest', cell: ({ digest }) => <ShortDigest of={digest} /> },
  { key: 'size', label: 'Size', isNumber: true, cell: ({ size }) => bytesText(size) },
  {
    key: 'repositories',
    label: 'Of',
    isLong: true,
    cell: ({ repositories }) =>
      repositories.length === 0
        ? '–'
        : repositories.map(repository => (
            <div key={repository}>
              <Name of={repository} />
            </div>
          )),
  },
];

const LOST: readonly Column<UpkeepDocument['lost'][number]>[] = [
  { key: 'kind', label: 'Kind', cell: ({ kind }) => kind },
  { key: 'digest', label: 'Digest', cell: ({ digest }) => <ShortDigest of={digest} /> },
  { key: 'reason', label: 'Reason', isLong: true, cell: ({ reason }) => <div class="reason">{reason}</div> },
];
