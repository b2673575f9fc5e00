// What is wrong first; then what it saved, and how full it is.
import type { ComponentChildren } from 'preact';
import type { DayDocument, OverviewDocument } from '../../admin/documents/overview.ts';
import { addressOf } from '../address.ts';
import { useDocument } from '../use-document.ts';
import { bytesText, exampleImage, hostOf, numberText, quantityText, shareText, spanText } from '../format.ts';
import { shellWord } from '../shell.ts';
import { DayBars } from '../parts/day-bars.tsx';
import { Loaded } from '../parts/loaded.tsx';
import { StoreFacts } from '../parts/store-facts.tsx';
import { TableRows } from '../parts/table.tsx';
import { Ago, CommandLine, Empty, exactTime } from '../parts/text.tsx';

export function OverviewScreen() {
  const shown = useDocument<OverviewDocument>('overview', {
    overview: (document, { today, ...data }) => ({
      ...document,
      ...data,
      days: today === null ? document.days : withDay(document.days, today),
    }),
  });
  return (
    <Loaded shown={shown}>
      {document => (
        <>
          <Problems {...document} />
          <Figures {...document} />
          <Days days={document.days} />
          <div class="columns">
            <section class="card">
              <h2>Store</h2>
              <StoreFacts store={document.store} />
            </section>
            <PointHere {...document} />
          </div>
        </>
      )}
    </Loaded>
  );
}

/** With the last day as it is now. */
function withDay(days: readonly DayDocument[], last: DayDocument): readonly DayDocument[] {
  return [...days.filter(({ day }) => day !== last.day), last];
}

/** The screen on which somebody sees more about a problem, and can do something: its name and label. */
const SEEN_ON: Readonly<Record<OverviewDocument['problems'][number]['kind'], readonly [string, string]>> = {
  server: ['upkeep', 'Upkeep'],
  replica: ['now', 'Now'],
  secret: ['tenants', 'Tenants'],
  damage: ['upkeep', 'Upkeep'],
  backoff: ['now', 'Now'],
  prepull: ['air-gap', 'Air gap'],
  budget: ['upstreams', 'Upstreams'],
};

function Problems({ ready, problems, offline }: OverviewDocument) {
  return (
    <section aria-label="What is wrong">
      <ul class="notes">
        {ready !== null && <li class="note bad">Not serving: {ready}</li>}
        {problems.map(({ kind, text }) => (
          <li class="note warn" key={`${kind} ${text}`}>
            <LocalTimes of={text} />{' '}
            <a href={addressOf(SEEN_ON[kind][0])}>
              Show<span class="hidden"> {SEEN_ON[kind][1]}</span>
            </a>
          </li>
        ))}
        {ready === null && problems.length === 0 && <li class="note good">Nothing is wrong.</li>}
        {offline && <li class="note">Offline: no upstream is asked; only what is stored is served.</li>}
      </ul>
    </section>
  );
}

const TIME = /(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)/;

/** A text of the server in which times are those of the reader. */
function LocalTimes({ of }: { readonly of: string }) {
  return <>{of.split(TIME).map(part => (TIME.test(part) ? exactTime(Date.parse(part)) : part))}</>;
}

function Figures({ saved, days, now, firstBytes }: OverviewDocument) {
  const sumOf = (key: 'hits' | 'misses' | 'pulls') => days.reduce((sum, day) => sum + day[key], 0);
  const hits = sumOf('hits');
  const answers = hits + sumOf('misses');
  const period = days.length === 0 ? 'so far' : `on ${quantityText(days.length, 'day')}`;
  return (
    <dl class="figures">
      <Figure label="Saved" value={bytesText(saved.inAll.savedBytes)}>
        sent without fetching it, since <Ago at={saved.inAll.since} />
      </Figure>
      <Figure label="Sent to clients" value={bytesText(saved.inAll.sentBytes)}>
        {bytesText(saved.inAll.fetchedBytes)} fetched from upstreams
      </Figure>
      <Figure label="Answered from the store" value={shareText(hits / answers)}>
        {numberText(hits)} of {quantityText(answers, 'answer')} {period}
      </Figure>
      <Figure label="Pulls" value={numberText(sumOf('pulls'))}>
        {period}
      </Figure>
      <FirstByte firstBytes={firstBytes} />
      <Figure label="Downloading now" value={numberText(now.downloading)}>
        <a href={addressOf('now')}>
          {numberText(now.queued)} waiting, {quantityText(now.readers, 'reader')}
        </a>
      </Figure>
    </dl>
  );
}

/** How long half of the clients waited, in the last hour. */
function FirstByte({ firstBytes }: Pick<OverviewDocument, 'firstBytes'>) {
  const [first, ...others] = firstBytes.map(({ outcome, p50Ms }) => ({ outcome, text: spanText(p50Ms) }));
  return (
    <Figure label="First byte" value={first?.text ?? '–'}>
      {first === undefined
        ? 'no answer in the last hour'
        : [
            `${first.outcome}, median of the last hour`,
            ...others.map(each => `${each.outcome} ${each.text}`),
          ].join('; ')}
    </Figure>
  );
}

function Figure({
  label,
  value,
  children,
}: {
  readonly label: string;
  readonly value: string;
  readonly children: ComponentChildren;
}) {
  return (
    <div class="figure">
      <dt>{label}</dt>
      <dd class="value">{value}</dd>
      <dd>{children}</dd>
    </div>
  );
}

function Days({ days }: { readonly days: readonly DayDocument[] }) {
  if (days.length === 0) {
    return (
      <section class="card">
        <h2>By day</h2>
        <Empty title="Nothing was served yet">
          <p>Pull an image through this server, with one of the commands below.</p>
        </Empty>
      </section>
    );
  }
  return (
    <section class="card">
      <h2>By day</h2>
      <DayBars
        label="Bytes sent to clients and fetched from upstreams by day; the table below has the numbers"
        days={days.map(({ day }) => day)}
        series={[
          { label: 'Sent to clients', bytes: days.map(({ sentBytes }) => sentBytes) },
          { label: 'Fetched from upstreams', bytes: days.map(({ fetchedBytes }) => fetchedBytes) },
        ]}
      />
      <details>
        <summary>The numbers</summary>
        <TableRows
          caption="By day"
          rows={days.toReversed()}
          keyOf={({ day }) => day}
          columns={[
            { key: 'day', label: 'Day (UTC)', cell: ({ day }) => day },
            { key: 'sent', label: 'Sent', isNumber: true, cell: ({ sentBytes }) => bytesText(sentBytes) },
            {
              key: 'fetched',
              label: 'Fetched',
              isNumber: true,
              cell: ({ fetchedBytes }) => bytesText(fetchedBytes),
            },
            { key: 'pulls', label: 'Pulls', isNumber: true, cell: ({ pulls }) => numberText(pulls) },
            {
              key: 'hits',
              label: 'From the store',
              isNumber: true,
              cell: ({ hits, misses }) => shareText(hits / (hits + misses)),
            },
          ]}
        />
      </details>
    </section>
  );
}

function PointHere({
  clientUrl,
  upstreams,
  hostedPrefixes,
  canLogIn,
  push,
  version,
  started,
}: OverviewDocument) {
  const host = shellWord(hostOf(clientUrl));
  const example = exampleImage(upstreams);
  return (
    <section class="card">
      <h2>Use it</h2>
      <dl class="facts">
        <dt>Mirrors</dt>
        <dd>{upstreams.join(', ') || 'no registry'}</dd>
        {hostedPrefixes.length > 0 && (
          <>
            <dt>Hosts</dt>
            <dd>{hostedPrefixes.map(each => `${each}/…`).join(', ')}</dd>
          </>
        )}
      </dl>
      <CommandLine
        label="Point a node here"
        text={`entrepot hosts containerd --server ${shellWord(clientUrl)}`}
      />
      {example !== undefined && (
        <CommandLine label="Pull through it" text={`docker pull ${host}/${example}`} />
      )}
      {canLogIn && <CommandLine label="Log in" text={`docker login ${host}`} />}
      {push !== null && (
        <CommandLine
          label={push.needsLogin ? 'Push to it, after logging in' : 'Push to it'}
          text={`docker push ${host}/${shellWord(push.prefix)}/REPOSITORY:TAG`}
        />
      )}
      <p class="faint small">
        Entrepot {version}, started <Ago at={started} />
      </p>
    </section>
  );
}
