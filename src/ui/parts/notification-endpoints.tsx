// Who else is told what happens, and what waits for them; absent where nobody is.
import { useState } from 'preact/hooks';
import type {
  EndpointDocument,
  NotificationsDocument,
  SkippedDocument,
  TestedDocument,
} from '../../admin/documents/notifications.ts';
import { send } from '../admin.ts';
import { numberText, quantityText } from '../format.ts';
import { useDocument } from '../use-document.ts';
import { ActionButton, Dialog, mayChange } from './action.tsx';
import { Loaded } from './loaded.tsx';
import { type Column, TableRows } from './table.tsx';
import { Ago, Badge } from './text.tsx';

export function NotificationEndpoints() {
  const shown = useDocument<NotificationsDocument>('notifications', {
    audit: () => undefined,
    notifications: () => undefined,
  });
  const { document, problem } = shown;
  if (problem === undefined && (document === undefined || document.entries.length === 0)) return null;
  return (
    <section class="card">
      <h2>Notifications</h2>
      <Loaded shown={shown}>
        {({ entries }) => (
          <TableRows
            caption="Endpoints of notifications"
            rows={entries}
            keyOf={({ name }) => name}
            columns={COLUMNS}
          />
        )}
      </Loaded>
    </section>
  );
}

const COLUMNS: readonly Column<EndpointDocument>[] = [
  { key: 'name', label: 'Endpoint', cell: ({ name }) => name },
  {
    key: 'state',
    label: 'State',
    isLong: true,
    cell: ({ reason, refused, sender }) =>
      sender !== null ? (
        <div>
          <Badge tone="idle">another process sends</Badge>
          <div class="small reason">{sender}: its page, and its log, say whether this endpoint accepts</div>
        </div>
      ) : reason === null ? (
        <Badge tone="good">accepts</Badge>
      ) : (
        <div>
          <Badge tone="bad">{refused === null ? 'fails' : 'refuses an event'}</Badge>
          <div class="small reason">{reason}</div>
        </div>
      ),
  },
  { key: 'waiting', label: 'Waiting', isNumber: true, cell: ({ waiting }) => numberText(waiting) },
  { key: 'oldest', label: 'Since', cell: ({ oldest }) => <Ago at={oldest} absent="–" /> },
  { key: 'dropped', label: 'Dropped', isNumber: true, cell: ({ dropped }) => numberText(dropped) },
  {
    key: 'skip',
    label: 'Test, or skip',
    cell: ({ name, refused }) => (
      <div class="actions">
        <ActionButton label="Test" about={name} kind="quiet" act={() => test(name)} />
        {refused !== null && <SkipButton endpoint={name} event={refused} />}
      </div>
    ),
  },
];

/** Whether it accepts an event at all, past those that wait. */
async function test(endpoint: string): Promise<string> {
  const { status, ms } = await send<TestedDocument>('actions/notification-test', { endpoint });
  return `${endpoint} accepted a test event with ${status} in ${numberText(ms)} ms`;
}

function SkipButton({ endpoint, event }: { readonly endpoint: string; readonly event: string }) {
  const [isAsking, setAsking] = useState(false);
  if (!mayChange()) return null;
  const act = async () => {
    const { skipped } = await send<SkippedDocument>('actions/notification-skip', { endpoint, event });
    return `${endpoint}: ${quantityText(skipped, 'event')} skipped`;
  };
  return (
    <>
      <button
        type="button"
        class="quiet danger"
        aria-label={`Skip for ${endpoint}`}
        onClick={() => setAsking(true)}
      >
        Skip…
      </button>
      {isAsking && (
        <Dialog
          title={`Never send this event to ${endpoint}?`}
          close={() => setAsking(false)}
          confirm={{ label: 'Skip', act, isDanger: true }}
        >
          <p>
            Those behind <code>{event}</code> follow at once.
          </p>
        </Dialog>
      )}
    </>
  );
}
