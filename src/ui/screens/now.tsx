// What is in progress: each download, other replicas, who waits, what upstreams have refused and until when, unfinished pushes.
import { useRef } from 'preact/hooks';
import type { BackoffDocument } from '../../admin/documents/backoffs.ts';
import type { EventData } from '../../admin/documents/events.ts';
import type { FillDocument, FillsDocument } from '../../admin/documents/fills.ts';
import type { QueueDocument } from '../../admin/documents/queue.ts';
import type { PartialStatus } from '../../admin/documents/status.ts';
import type { UploadDocument } from '../../admin/documents/uploads.ts';
import { addressOf } from '../address.ts';
import { ask } from '../admin.ts';
import { nowMs } from '../clock.ts';
import { useDocument } from '../use-document.ts';
import { bytesText, numberText, quantityText, rateText, shareText, spanText } from '../format.ts';
import { List, Loaded } from '../parts/loaded.tsx';
import { ReplicaTable } from '../parts/replica-table.tsx';
import { type Column, Table } from '../parts/table.tsx';
import { Ago, Badge, Empty, Name, ShareBar, ShortDigest } from '../parts/text.tsx';

/** What one request may ask for. */
const MAX_FILLS = 500;
/** Rows that are held: a thousand nodes that start at once have fewer layers in progress. */
const MAX_SHOWN = 2_000;

/** How long a download that has ended stays where it was. */
const ENDED_FOR_MS = 20_000;

type Ended = FillsDocument['ended'][number];
/** `ended` and `stored`: of one that has ended. */
type Shown = FillDocument & Partial<Pick<Ended, 'ended' | 'stored'>>;

export function NowScreen() {
  const unfinished = useRef(0);
  return (
    <>
      <Fills />
      <ReplicaTable />
      <div class="columns">
        <Queue />
        <section class="card">
          <h2>Unfinished pushes</h2>
          <List<UploadDocument>
            name="uploads"
            caption="Unfinished pushes"
            path="uploads"
            updates={{
              overview: (page, { store }) => {
                // A push that has begun, as something else may that is not finished.
                const isNews = page.entries.length > 0 || store.unfinishedBytes !== unfinished.current;
                unfinished.current = store.unfinishedBytes;
                return isNews ? undefined : page;
              },
            }}
            keyOf={({ id }) => id}
            columns={UPLOADS}
            empty={<Empty title="Nobody is pushing" />}
          />
        </section>
      </div>
      <section class="card">
        <h2>Held in parts</h2>
        <p class="faint small">
          Layers of which clients have requested ranges, and downloads that were interrupted. A pull uses
          these parts and downloads the rest.
        </p>
        <List<PartialStatus>
          name="partial"
          caption="Layers that are held in parts"
          path="partial"
          updates={{ fills: (page, { gone }) => (gone.length > 0 ? undefined : page) }}
          keyOf={({ kind, repository, digest }) => `${kind} ${repository} ${digest}`}
          columns={PARTIALS}
          empty={<Empty title="Everything stored is complete" />}
        />
      </section>
      <section class="card">
        <h2>Back-offs</h2>
        <p class="faint small">
          Failures of upstreams that are remembered: until then, the same answer is given without asking
          again.
        </p>
        <List<BackoffDocument>
          name="backoffs"
          caption="Back-offs"
          path="backoffs"
          updates={{ backoffs: () => undefined }}
          keyOf={({ id }) => id}
          columns={BACKOFFS}
          empty={<Empty title="No failures are remembered" />}
        />
      </section>
    </>
  );
}

/** All pages, up to `MAX_SHOWN`. */
async function askFills(path: string, until: AbortSignal): Promise<FillsDocument> {
  let page = await ask<FillsDocument>(path, until);
  const entries = [...page.entries];
  while (page.next !== null && entries.length < MAX_SHOWN) {
    page = await ask<FillsDocument>(`${path}&after=${page.next}`, until);
    entries.push(...page.entries);
  }
  // By this machine's clock, which may differ from the server's.
  const now = new Date().toISOString();
  return { ...page, entries, ended: page.ended.map(fill => ({ ...fill, ended: now })) };
}

/** The list after an event; `undefined` if the event does not tell everything. */
function withChanges(
  document: FillsDocument,
  { changed, gone, total, more }: EventData<'fills'>,
): FillsDocument | undefined {
  if (more) return undefined;
  const stored = new Map(gone.map(each => [each.id, each.stored]));
  const running = document.entries.filter(({ id }) => !stored.has(id));
  const entries = new Map([...running, ...changed].map(fill => [fill.id, fill]));
  const now = new Date().toISOString();
  const justEnded = document.entries.flatMap(fill => {
    const isStored = stored.get(fill.id);
    return isStored === undefined ? [] : { ...fill, ended: now, stored: isStored };
  });
  return {
    ...document,
    total,
    entries: [...entries.values()],
    ended: [...recent(document.ended), ...justEnded],
  };
}

/** Those that are to be seen: in progress, or ended a moment ago. */
function shownOf({ entries, ended }: FillsDocument): readonly Shown[] {
  const running = new Set(entries.map(({ id }) => id));
  const past = new Map(recent(ended).map(fill => [fill.id, lastOf(fill)]));
  return [...entries, ...[...past.values()].filter(({ id }) => !running.has(id))];
}

function recent(ended: readonly Ended[]): readonly Ended[] {
  const since = new Date(nowMs.value - ENDED_FOR_MS).toISOString();
  return ended.filter(fill => fill.ended >= since);
}

/** Of what is stored, all bytes have arrived since it was last looked at. */
function lastOf(fill: Ended): Ended {
  const { kind, size, bytes, stored } = fill;
  return { ...fill, bytes: stored && kind === 'whole' ? (size ?? bytes) : bytes, readers: 0 };
}

function Fills() {
  const shown = useDocument<FillsDocument>(`fills?limit=${MAX_FILLS}`, { fills: withChanges }, askFills);
  return (
    <section class="card">
      <Loaded shown={shown}>
        {document => {
          const { entries, total } = document;
          return (
            <>
              <h2>
                Downloads{' '}
                <span class="faint">
                  {numberText(total)}
                  {total > entries.length && `, the oldest ${numberText(entries.length)} of them`}
                </span>
              </h2>
              <Table<Shown>
                caption="Downloads"
                rows={shownOf(document)}
                keyOf={({ id }) => id}
                columns={FILLS}
                sort="started"
                textOf={({ kind, repository, digest, requesters, state }) =>
                  [KINDS[kind], repository, digest, ...requesters, state].join(' ')
                }
                empty={
                  <Empty title="Nothing is being downloaded">
                    <p>
                      A download begins when a client pulls, or reads ranges of, what is not stored, or by{' '}
                      <a href={addressOf('images')}>pulling an image</a> ahead.
                    </p>
                  </Empty>
                }
              />
            </>
          );
        }}
      </Loaded>
    </section>
  );
}

/** What comes before the name of a layer. */
const KINDS: Readonly<Record<Shown['kind'], string>> = {
  whole: '',
  ranges: 'ranges of',
  streamed: 'without storing it:',
};

const FILLS: readonly Column<Shown>[] = [
  {
    key: 'repository',
    label: 'Layer',
    isLong: true,
    by: ({ repository }) => repository,
    cell: ({ kind, repository, digest, holder }) => (
      <div>
        {KINDS[kind] !== '' && <span class="faint">{KINDS[kind]} </span>}
        <Name of={repository} /> <ShortDigest of={digest} />
        {holder !== null && <div class="faint small">downloaded by {holder}</div>}
      </div>
    ),
  },
  {
    key: 'progress',
    label: 'Progress',
    by: ({ bytes, size }) => (size ? bytes / size : 0),
    cell: ({ kind, bytes, size, state, ended, stored, repository }) => (
      <div>
        <ShareBar
          value={size === null ? undefined : size === 0 ? 1 : bytes / size}
          label={`Download of ${repository}`}
        />
        <span class="small">
          {stored === true && <Badge tone="good">stored</Badge>}
          {stored === false && kind === 'whole' && <Badge tone="bad">not stored</Badge>}
          {stored === false && kind !== 'whole' && <Badge tone="idle">ended</Badge>}
          {ended === undefined && state === 'queued' && <Badge tone="warn">waiting</Badge>}{' '}
          {size !== null && `${shareText(bytes / size)}, `}
          {bytesText(bytes)} of {size === null ? 'unknown size' : bytesText(size)}
        </span>
      </div>
    ),
  },
  {
    key: 'rate',
    label: 'Rate',
    isNumber: true,
    by: ({ bytesPerSecond }) => bytesPerSecond ?? 0,
    cell: ({ bytesPerSecond, ended }) => (ended === undefined ? rateText(bytesPerSecond) : '–'),
  },
  {
    key: 'left',
    label: 'Remaining',
    isNumber: true,
    by: ({ remainingSeconds }) => remainingSeconds ?? Number.MAX_VALUE,
    cell: ({ remainingSeconds, ended }) =>
      ended !== undefined || remainingSeconds === null ? '–' : spanText(remainingSeconds * 1000),
  },
  {
    key: 'readers',
    label: 'Readers',
    isNumber: true,
    by: ({ readers }) => readers,
    cell: ({ readers }) => numberText(readers),
  },
  {
    key: 'requesters',
    label: 'For',
    by: ({ requesters }) => requesters.join(),
    cell: ({ requesters }) => requesters.join(', '),
  },
  {
    key: 'started',
    label: 'Began',
    by: ({ started }) => started,
    cell: ({ started }) => <Ago at={started} />,
  },
];

function Queue() {
  const shown = useDocument<QueueDocument>('queue', { queue: (_, document) => document });
  return (
    <section class="card">
      <h2>Queue</h2>
      <Loaded shown={shown}>
        {({ running, waiting, maxConnections, maxImagePulls, requesters }) => (
          <>
            <ShareBar value={running / maxConnections} label="Connections to upstreams in use" />
            <dl class="facts">
              <dt>In use</dt>
              <dd>
                {numberText(running)} of {quantityText(maxConnections, 'connection')}
              </dd>
              <dt>Waiting</dt>
              <dd>{numberText(waiting)}</dd>
              <dt>Images at once</dt>
              <dd>{maxImagePulls === null ? 'no limit' : `at most ${numberText(maxImagePulls)}`}</dd>
            </dl>
            {requesters.length > 0 && (
              <Table
                name="queue"
                caption="Who downloads and waits"
                rows={requesters}
                keyOf={({ requester }) => requester}
                columns={REQUESTERS}
                empty={null}
              />
            )}
          </>
        )}
      </Loaded>
    </section>
  );
}

const REQUESTERS: readonly Column<QueueDocument['requesters'][number]>[] = [
  { key: 'who', label: 'Who', by: ({ requester }) => requester, cell: ({ requester }) => requester },
  {
    key: 'running',
    label: 'Connections',
    isNumber: true,
    by: ({ running }) => running,
    cell: ({ running }) => numberText(running),
  },
  {
    key: 'waiting',
    label: 'Waiting',
    isNumber: true,
    by: ({ waiting }) => waiting,
    cell: ({ waiting }) => numberText(waiting),
  },
];

const UPLOADS: readonly Column<UploadDocument>[] = [
  {
    key: 'repository',
    label: 'Repository',
    isLong: true,
    cell: ({ repository }) => <Name of={repository} />,
  },
  { key: 'who', label: 'Who', cell: ({ requester }) => requester },
  { key: 'bytes', label: 'Received', isNumber: true, cell: ({ bytes }) => bytesText(bytes) },
  { key: 'touched', label: 'Last byte', cell: ({ touched }) => <Ago at={touched} /> },
];

const PARTIALS: readonly Column<PartialStatus>[] = [
  {
    key: 'repository',
    label: 'Layer',
    isLong: true,
    cell: ({ repository, digest }) => (
      <div>
        {repository === null ? <span class="faint">of an unknown repository</span> : <Name of={repository} />}{' '}
        <ShortDigest of={digest} />
      </div>
    ),
  },
  { key: 'kind', label: 'As', cell: ({ kind }) => (kind === 'ranges' ? 'ranges' : 'interrupted download') },
  {
    key: 'bytes',
    label: 'There',
    isNumber: true,
    cell: ({ bytes, size }) => `${bytesText(bytes)}${size === null ? '' : ` of ${bytesText(size)}`}`,
  },
  { key: 'used', label: 'Last used', cell: ({ lastUsed }) => <Ago at={lastUsed} /> },
];

const BACKOFFS: readonly Column<BackoffDocument>[] = [
  {
    key: 'what',
    label: 'Question',
    isLong: true,
    cell: ({ upstream, repository, reference }) => (
      <div>
        <Name of={repository.startsWith(`${upstream}/`) ? repository : `${upstream}/${repository}`} />{' '}
        <span class="faint">{reference}</span>
      </div>
    ),
  },
  {
    key: 'kind',
    label: 'Answer',
    cell: ({ kind }) => <Badge tone={kind === 'unknown' ? 'idle' : 'warn'}>{BACKOFF_WORDS[kind]}</Badge>,
  },
  { key: 'reason', label: 'Reason', isLong: true, cell: ({ reason }) => <div class="reason">{reason}</div> },
  {
    key: 'with',
    label: 'Asked with',
    cell: ({ credential }) => (credential === '' ? 'no login' : <code>{credential}</code>),
  },
  { key: 'until', label: 'Asked again', cell: ({ until }) => <Ago at={until} /> },
];

const BACKOFF_WORDS: Readonly<Record<BackoffDocument['kind'], string>> = {
  unknown: 'does not exist',
  denied: 'denied',
  refused: 'login refused',
  lockedOut: 'locked out',
  limited: 'rate limit',
  unavailable: 'unavailable',
  invalid: 'invalid',
};
