// Who did what, from the audit log.
import type { AuditDocument, AuditEntry } from '../../admin/documents/audit.ts';
import { useDocument } from '../use-document.ts';
import { List } from '../parts/loaded.tsx';
import type { Column } from '../parts/table.tsx';
import { Ago, Badge, Empty, Name } from '../parts/text.tsx';

export function ActivityScreen() {
  const { document } = useDocument<AuditDocument>('audit?limit=1');
  return (
    <section class="card">
      {document?.covers === 'changes' && (
        <p class="faint small">
          {document.output === 'none'
            ? 'No audit log is written, so this is only what was changed here since the server started. To see pulls and pushes, set audit.output to a file.'
            : 'The audit log is not written to a file, so this is only what was changed here since the server started.'}
        </p>
      )}
      <List<AuditEntry>
        caption="Activity"
        path="audit"
        isSearched
        updates={{ audit: () => undefined }}
        keyOf={({ id }) => id}
        columns={COLUMNS}
        empty={
          <Empty
            title={document?.covers === 'changes' ? 'Nothing was changed here yet' : 'The audit log is empty'}
          />
        }
      />
    </section>
  );
}

const COLUMNS: readonly Column<AuditEntry>[] = [
  { key: 'at', label: 'When', cell: ({ at }) => <Ago at={at} /> },
  {
    key: 'who',
    label: 'Who',
    cell: ({ who, remote }) => (
      <div>
        {who}
        <div class="small faint">{remote}</div>
      </div>
    ),
  },
  { key: 'action', label: 'Action', cell: ({ action }) => action },
  {
    key: 'subject',
    label: 'What',
    isLong: true,
    cell: ({ subject }) => <Name of={subject ?? '–'} />,
  },
  {
    key: 'outcome',
    label: 'Outcome',
    isLong: true,
    cell: ({ outcome, reason }) => (
      <div>
        <Badge tone={outcome === 'allowed' ? 'idle' : 'bad'}>{outcome}</Badge>
        {reason !== null && <div class="small reason">{reason}</div>}
      </div>
    ),
  },
];
