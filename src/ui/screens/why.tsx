// Why a pull was refused, or would be: what happened last, and what would happen for whom.
import { useState } from 'preact/hooks';
import type { ExplainDocument } from '../../admin/documents/explain.ts';
import type { RefusalDocument } from '../../admin/documents/refusals.ts';
import type { OverviewDocument } from '../../admin/documents/overview.ts';
import { addressOf, goTo, param } from '../address.ts';
import { send } from '../admin.ts';
import { useDocument } from '../use-document.ts';
import { exampleImage, numberText } from '../format.ts';
import { shellWord } from '../shell.ts';
import { ActionButton } from '../parts/action.tsx';
import { List, Loaded } from '../parts/loaded.tsx';
import { type Column, TableRows } from '../parts/table.tsx';
import { Ago, Badge, CommandLine, Empty, Name, ShortDigest } from '../parts/text.tsx';

export function WhyScreen() {
  const reference = param('image');
  const tenant = param('who');
  return (
    <>
      <section class="card">
        <h2>Would this pull succeed?</h2>
        <Question key={`${reference} ${tenant}`} {...{ reference, tenant }} />
        {reference !== '' && <Explanation key={`${reference} ${tenant}`} {...{ reference, tenant }} />}
      </section>
      <section class="card">
        <h2>Last refusals</h2>
        <List<RefusalDocument>
          caption="Last refusals"
          path="refusals"
          isSearched
          updates={{ refusals: () => undefined }}
          keyOf={({ id }) => id}
          columns={REFUSALS}
          empty={
            <Empty title="Nothing was refused since the server started">
              <p>Refused pulls appear here with their reason, as in the log.</p>
            </Empty>
          }
        />
      </section>
    </>
  );
}

function Question({ reference, tenant }: { readonly reference: string; readonly tenant: string }) {
  const [image, setImage] = useState(reference);
  const [who, setWho] = useState(tenant);
  const { document: overview } = useDocument<OverviewDocument>('overview');
  return (
    <form
      class="fields wide"
      onSubmit={event => {
        event.preventDefault();
        goTo(addressOf('why', { image: image.trim(), who: who.trim() }));
      }}
    >
      <label>
        Image
        <input
          required
          value={image}
          placeholder={overview && exampleImage(overview.upstreams)}
          spellcheck={false}
          autocapitalize="off"
          onInput={event => setImage(event.currentTarget.value)}
        />
      </label>
      <label>
        Tenant; empty for no login
        <input
          value={who}
          placeholder="anonymous"
          spellcheck={false}
          autocapitalize="off"
          onInput={event => setWho(event.currentTarget.value)}
        />
      </label>
      <button type="submit" class="main">
        Explain
      </button>
    </form>
  );
}

function Explanation({ reference, tenant }: { readonly reference: string; readonly tenant: string }) {
  const query = new URLSearchParams(tenant === '' ? { reference } : { reference, tenant });
  const shown = useDocument<ExplainDocument>(`explain?${query}`);
  const refresh = async () => {
    const { image } = await send<{ readonly image: string }>('actions/refresh', { reference });
    shown.again();
    return `${image} is up to date`;
  };
  return (
    <Loaded shown={shown}>
      {({ conclusions, attempts, repository }) => (
        <div class="table">
          {/* Without the times and buttons below, with which it would be read out again and again. */}
          <div role="status">
            <ol class="notes">
              {conclusions.map(text => (
                <li class="note" key={text}>
                  {text}
                </li>
              ))}
            </ol>
          </div>
          {attempts.length > 0 && (
            <>
              <h3>Credentials for {repository}, in the order in which they are tried</h3>
              <TableRows
                caption="Credentials"
                rows={attempts}
                keyOf={({ secret, credentialId }) => `${secret} ${credentialId}`}
                columns={ATTEMPTS}
              />
            </>
          )}
          <div class="actions">
            <ActionButton label="Ask upstream now" about={reference} act={refresh} />
            <button type="button" onClick={shown.again}>
              Explain again
            </button>
          </div>
          <CommandLine
            label="The same in a terminal"
            text={`entrepot explain ${shellWord(reference)}${tenant === '' ? '' : ` --tenant ${shellWord(tenant)}`}`}
          />
        </div>
      )}
    </Loaded>
  );
}

const ATTEMPTS: readonly Column<ExplainDocument['attempts'][number]>[] = [
  { key: 'secret', label: 'From', cell: ({ secret, source }) => `${secret} (${source})` },
  { key: 'username', label: 'User', cell: ({ username = '–' }) => username },
  { key: 'key', label: 'Matches', cell: ({ matchedKey = '–' }) => matchedKey },
  {
    key: 'grant',
    label: 'Proof',
    cell: ({ grant }) =>
      grant === undefined ? (
        <span class="faint">none yet</span>
      ) : (
        <>
          <Badge tone={grant.state === 'counts' ? 'good' : 'warn'}>{grant.state}</Badge>{' '}
          <Ago at={new Date(grant.verifiedAtMs).toISOString()} />
        </>
      ),
  },
];

const REFUSALS: readonly Column<RefusalDocument>[] = [
  {
    key: 'at',
    label: 'When',
    cell: ({ at, times }) => (
      <div>
        <Ago at={at} />
        {times > 1 && <div class="faint small">{numberText(times)} times</div>}
      </div>
    ),
  },
  {
    key: 'who',
    label: 'Who',
    cell: ({ requester, remote }) => (
      <div>
        {whoIn(requester) || requester}
        <div class="faint small">{remote}</div>
      </div>
    ),
  },
  {
    key: 'what',
    label: 'Image',
    isLong: true,
    cell: ({ repository, reference, method }) => (
      <div>
        <Name of={repository ?? '–'} />
        {reference !== null &&
          (reference.includes(':') ? (
            <>
              {' '}
              <ShortDigest of={reference} />
            </>
          ) : (
            `:${reference}`
          ))}
        <div class="faint small">{method}</div>
      </div>
    ),
  },
  {
    key: 'answer',
    label: 'Answer',
    cell: ({ status, code }) => (
      <div>
        <Badge tone={status >= 500 ? 'bad' : 'warn'}>{status}</Badge>
        <div class="faint small">{code}</div>
      </div>
    ),
  },
  {
    key: 'reason',
    label: 'Reason',
    isLong: true,
    cell: ({ code, reason }) => <div class="reason">{withoutCode(reason, code)}</div>,
  },
  {
    key: 'explain',
    label: 'More',
    cell: ({ repository, reference, requester }) => {
      const who = whoIn(requester);
      return repository === null || who === undefined ? null : (
        <a href={addressOf('why', { image: nameOf(repository, reference), who })}>
          Explain<span class="hidden"> {nameOf(repository, reference)}</span>
        </a>
      );
    },
  },
];

/** The code is beside it. */
function withoutCode(reason: string, code: string): string {
  return reason.startsWith(`${code}: `) ? reason.slice(code.length + 2) : reason;
}

const TENANT = 'tenant:';
/** Who is not known by a login. */
const NOT_LOGGED_IN: ReadonlySet<string> = new Set(['anonymous', 'unknown']);

/** For whom `explain` is asked: a tenant, or nobody (empty); `undefined` for a login of which no tenant is known. */
function whoIn(requester: string): string | undefined {
  if (requester.startsWith(TENANT)) return requester.slice(TENANT.length);
  return NOT_LOGGED_IN.has(requester) ? '' : undefined;
}

/** An image reference, as `explain` accepts it. */
function nameOf(repository: string | null, reference: string | null): string {
  if (repository === null) return '–';
  if (reference === null) return repository;
  return `${repository}${reference.includes(':') ? '@' : ':'}${reference}`;
}
