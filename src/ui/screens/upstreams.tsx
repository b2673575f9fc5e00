// The registries that are mirrored: do they answer, what do they still allow, do they accept our login.
import type { BudgetDocument, UpstreamDocument, UpstreamsDocument } from '../../admin/documents/upstreams.ts';
import { addressOf } from '../address.ts';
import { useDocument } from '../use-document.ts';
import { numberText, quantityText, spanText } from '../format.ts';
import { Loaded } from '../parts/loaded.tsx';
import { type Column, Table } from '../parts/table.tsx';
import { Ago, Badge, Empty, ShareBar, type Tone } from '../parts/text.tsx';

export function UpstreamsScreen() {
  const shown = useDocument<UpstreamsDocument>('upstreams', {
    upstreams: ({ entries }, { changed }) => ({
      entries: entries.map(each => changed.find(({ name }) => name === each.name) ?? each),
    }),
  });
  return (
    <section class="card">
      <Loaded shown={shown}>
        {({ entries }) => (
          <Table
            caption="Upstreams"
            rows={entries}
            keyOf={({ name }) => name}
            columns={COLUMNS}
            textOf={({ name, url, state }) => `${name} ${url} ${state}`}
            empty={
              <Empty title="No upstream is configured">
                <p>
                  Add one under upstreams in the configuration file; then its images can be pulled through
                  this server.
                </p>
              </Empty>
            }
          />
        )}
      </Loaded>
    </section>
  );
}

const STATES: Readonly<Record<UpstreamDocument['state'], readonly [Tone, string]>> = {
  ok: ['good', 'answers'],
  failing: ['bad', 'failing'],
  limited: ['warn', 'rate limit'],
  unknown: ['idle', 'not asked yet'],
};

const COLUMNS: readonly Column<UpstreamDocument>[] = [
  {
    key: 'name',
    label: 'Upstream',
    by: ({ name }) => name,
    cell: ({ name, url, mirrors }) => (
      <div>
        <strong>{name}</strong>
        <div class="small faint">{[...mirrors, url].join(', then ')}</div>
      </div>
    ),
  },
  {
    key: 'state',
    label: 'State',
    by: ({ state }) => state,
    cell: ({ state, backoffs }) => (
      <div>
        <Badge tone={STATES[state][0]}>{STATES[state][1]}</Badge>
        {backoffs > 0 && (
          <div class="small">
            <a href={addressOf('now')}>{quantityText(backoffs, 'back-off')}</a>
          </div>
        )}
      </div>
    ),
  },
  {
    key: 'answered',
    label: 'Last answer',
    by: ({ lastAnswer }) => lastAnswer ?? '',
    cell: ({ lastAnswer }) => <Ago at={lastAnswer} />,
  },
  {
    key: 'error',
    label: 'Last failure',
    by: ({ lastError }) => lastError?.at ?? '',
    cell: ({ lastError }) =>
      lastError === null ? (
        <span class="faint">none</span>
      ) : (
        <div>
          <Ago at={lastError.at} />
          <div class="small reason">
            {lastError.reason} <span class="faint">({lastError.repository})</span>
          </div>
        </div>
      ),
  },
  {
    key: 'first-byte',
    label: 'First byte',
    by: ({ firstBytes }) => firstBytes.at(-1)?.p50Ms ?? 0,
    cell: ({ firstBytes }) =>
      firstBytes.length === 0 ? (
        <span class="faint">–</span>
      ) : (
        <div class="small" title="Half, and 99 % of the answers of the last hour">
          {firstBytes.map(({ outcome, p50Ms, p99Ms }) => (
            <div key={outcome}>
              <span class="whole">
                {outcome} {spanText(p50Ms)}
              </span>{' '}
              <span class="faint whole">99 %: {spanText(p99Ms)}</span>
            </div>
          ))}
        </div>
      ),
  },
  {
    key: 'budget',
    label: 'Pulls left',
    by: ({ budgets }) => Math.min(...budgets.map(({ remaining }) => remaining ?? Number.MAX_VALUE)),
    cell: ({ budgets }) =>
      budgets.length === 0 ? (
        <span class="faint">not limited</span>
      ) : (
        budgets.map(each => <Budget key={each.credential} {...each} />)
      ),
  },
  {
    key: 'login',
    label: 'Our login',
    cell: ({ login }) =>
      login === null ? (
        <span class="faint">none</span>
      ) : (
        <div>
          {login.username}{' '}
          <Badge tone={login.state === 'accepted' ? 'good' : login.state === 'refused' ? 'bad' : 'idle'}>
            {login.state === 'unknown' ? 'not used yet' : login.state}
          </Badge>
          {login.at !== null && (
            <div class="small faint">
              <Ago at={login.at} />
            </div>
          )}
        </div>
      ),
  },
];

function Budget({ credential, limit, remaining, windowSeconds, blockedUntil, exhaustedAt }: BudgetDocument) {
  return (
    <div class="small">
      {remaining !== null && limit !== null && limit > 0 && (
        <ShareBar value={remaining / limit} label="Pulls that remain" />
      )}
      {remaining === null ? 'unknown' : numberText(remaining)}
      {limit !== null && ` of ${numberText(limit)}`}
      {windowSeconds !== null && ` per ${spanText(windowSeconds * 1000)}`}
      {credential !== '' && (
        <span class="faint">
          {' '}
          with <code>{credential}</code>
        </span>
      )}
      {exhaustedAt !== null && (
        <div class="warn">
          runs out <Ago at={exhaustedAt} />
        </div>
      )}
      {blockedUntil !== null && (
        <div class="bad">
          not asked until <Ago at={blockedUntil} />
        </div>
      )}
    </div>
  );
}
