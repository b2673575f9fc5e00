// The servers of one registry: which of them this one reaches, and what each downloads for all.
import type { ReplicaDocument, ReplicasDocument } from '../../admin/documents/replicas.ts';
import { quantityText } from '../format.ts';
import { useDocument } from '../use-document.ts';
import { Loaded } from './loaded.tsx';
import { type Column, Table } from './table.tsx';
import { Ago, Badge, ShortDigest, type Tone } from './text.tsx';

/** Digests that are shown of one replica. */
const SHOWN_DIGESTS = 5;

/** Nothing, if this server is the only one. */
export function ReplicaTable() {
  const shown = useDocument<ReplicasDocument>('replicas', { replicas: (_, document) => document });
  const { document, problem } = shown;
  // Nor until that is known: the rest of the screen would jump.
  if (document === undefined ? problem === undefined : document.entries.length === 0) return null;
  return (
    <section class="card">
      <h2>Replicas</h2>
      <p class="faint small">As this one sees them: a firewall may let only one direction through.</p>
      <Loaded shown={shown}>
        {({ entries }) => (
          <Table
            name="replicas"
            caption="Replicas"
            rows={entries}
            keyOf={({ address }) => address}
            columns={COLUMNS}
            empty={null}
          />
        )}
      </Loaded>
    </section>
  );
}

const STATES: Readonly<Record<ReplicaDocument['state'], readonly [Tone, string]>> = {
  reached: ['good', 'reached'],
  unreachable: ['bad', 'not reached'],
  unknown: ['idle', 'not asked yet'],
  gone: ['bad', 'disappeared'],
};

/** What it means, and which option may be wrong. */
const REASONS: Readonly<Record<NonNullable<ReplicaDocument['reason']>, string>> = {
  unreachable: 'No answer: see its cluster.advertise and cluster.listen, and firewalls between them',
  key: 'It refuses the key of this one, or a certificate is not trusted: see cluster.keyFile and cluster.tls',
  another: 'Something else answers at its address: see its cluster.advertise',
};

const COLUMNS: readonly Column<ReplicaDocument>[] = [
  {
    key: 'address',
    label: 'Replica',
    isLong: true,
    by: ({ address }) => address,
    cell: ({ address, isOwn }) => (
      <div>
        <strong>{address}</strong>
        {isOwn && <div class="small faint">this one</div>}
      </div>
    ),
  },
  {
    key: 'state',
    label: 'State',
    by: ({ isOwn, state }) => (isOwn ? '' : state),
    cell: ({ isOwn, state, reason, since }) =>
      isOwn ? (
        <Badge tone="good">running</Badge>
      ) : (
        <div>
          <Badge tone={STATES[state][0]}>{STATES[state][1]}</Badge> <Ago at={since} />
          {reason !== null && <div class="small">{REASONS[reason]}</div>}
        </div>
      ),
  },
  {
    key: 'started',
    label: 'Started',
    by: ({ started }) => started ?? '',
    cell: ({ started }) => <Ago at={started} absent="unknown" />,
  },
  {
    key: 'downloads',
    label: 'Downloads from upstreams',
    by: ({ downloads }) => downloads.length,
    cell: ({ state, downloads }) =>
      state === 'reached' ? <Downloads of={downloads} /> : <span class="faint">unknown</span>,
  },
];

function Downloads({ of }: { readonly of: readonly string[] }) {
  if (of.length === 0) return <span class="faint">none</span>;
  const others = of.length - SHOWN_DIGESTS;
  return (
    <div class="small">
      {quantityText(of.length, 'layer')}
      {of.slice(0, SHOWN_DIGESTS).map(digest => (
        <div key={digest}>
          <ShortDigest of={digest} />
        </div>
      ))}
      {others > 0 && <div class="faint">and {others} more</div>}
    </div>
  );
}
