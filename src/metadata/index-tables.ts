/**
 * The index as tables, for moving it from one kind of index to another. Both kinds have the same tables with the same
 * columns; what triggers count is counted again. Leases, processes, uploads and objects stay behind: they belong to the
 * folder or bucket of the store that is left.
 */

type ColumnType = 'text' | 'number' | 'boolean' | 'bytes';

export interface IndexTable {
  readonly name: string;
  /** In the order of the table's key. */
  readonly key: readonly string[];
  /** Those of the key included. */
  readonly columns: Readonly<Record<string, ColumnType>>;
  /** How many rows are read and written at a time. */
  readonly rowsPerPage: number;
}

/** A row by column. */
export type IndexRow = Readonly<Record<string, IndexValue>>;
export type IndexValue = string | number | boolean | Uint8Array | null;

/** What an index is read from. */
export interface IndexReading {
  /** Pages of a table, ordered by its key. */
  rows(table: IndexTable): AsyncIterable<readonly IndexRow[]>;
}

/** An index that others may use. Each page has what is committed when it is read. The caller closes it. */
export interface IndexSource extends IndexReading {
  /** Calls `work` with the index as it is at one moment, whatever others write meanwhile. */
  read<T>(work: (reading: IndexReading) => Promise<T>): Promise<T>;
  close(): unknown;
}

/**
 * An index that is being filled under a Lease, and that nothing else uses. Each write rejects with LeaseLost once another
 * process has the Lease, since the index may then be in use. The caller closes it.
 */
export interface IndexTarget extends IndexReading {
  /** Removes all rows but those of `settings` and blobs. */
  clear(): Promise<void>;
  /**
   * Adds rows, which are durable when it resolves. Call it for all tables in the order of TABLES, after `clear`. Settings
   * replace others of the same name. Of blobs, the times are set of those that are there; they are not added.
   */
  add(table: IndexTable, rows: readonly IndexRow[]): Promise<void>;
  /** Call at the end. */
  finish(): Promise<void>;
  close(): unknown;
}

const ROWS = 1_000;
/** Of up to 4 MiB each. */
const DOCUMENTS = 8;

function table(
  name: string,
  key: readonly string[],
  columns: IndexTable['columns'],
  rowsPerPage = ROWS,
): IndexTable {
  return { name, key, columns, rowsPerPage };
}

export const SETTINGS = table('settings', ['name'], { name: 'text', value: 'text' });
export const MANIFESTS = table(
  'manifests',
  ['digest'],
  { digest: 'text', created_at_ms: 'number', used_at_ms: 'number', size: 'number', bytes: 'bytes' },
  DOCUMENTS,
);
export const BLOBS = table('blobs', ['digest'], {
  digest: 'text',
  size: 'number',
  created_at_ms: 'number',
  used_at_ms: 'number',
});
/** Content whose bytes were found damaged. */
export const QUARANTINE = table('quarantine', ['digest'], {
  digest: 'text',
  found_at_ms: 'number',
  reason: 'text',
});

/**
 * Ordered so that triggers of later ones find what they count, and remove nothing: Links come before the readings of
 * manifests, of which a Link removes others, and after all Links come the entries that a Link removes.
 */
export const TABLES: readonly IndexTable[] = [
  SETTINGS,
  table('known_tenants', ['name'], { name: 'text', uid: 'text' }),
  table('issued_credentials', ['id'], {
    id: 'text',
    tenant: 'text',
    username: 'text',
    server: 'text',
    read_only: 'boolean',
    issued_at_ms: 'number',
    ends_at_ms: 'number',
  }),
  table('credential_usage', ['credential_id'], {
    credential_id: 'text',
    used_at_ms: 'number',
    refused_at_ms: 'number',
  }),
  table('repositories', ['id'], { id: 'number', upstream: 'text', name: 'text', created_at_ms: 'number' }),
  table('removed_repositories', ['id'], { id: 'number', name: 'text' }),
  BLOBS,
  MANIFESTS,
  table('links', ['repository_id', 'digest', 'kind'], {
    repository_id: 'number',
    digest: 'text',
    kind: 'text',
    media_type: 'text',
    size: 'number',
    created_at_ms: 'number',
  }),
  table('readings', ['id'], {
    id: 'number',
    digest: 'text',
    media_type: 'text',
    artifact_type: 'text',
    subject: 'text',
    annotations: 'text',
  }),
  table('reading_references', ['reading_id', 'position'], {
    reading_id: 'number',
    position: 'number',
    kind: 'text',
    digest: 'text',
    size: 'number',
    media_type: 'text',
  }),
  table('referrers', ['repository_id', 'digest'], {
    repository_id: 'number',
    digest: 'text',
    subject: 'text',
    artifact_type: 'text',
  }),
  table('tags', ['repository_id', 'tag'], {
    repository_id: 'number',
    tag: 'text',
    digest: 'text',
    checked_at_ms: 'number',
  }),
  table(
    'documents',
    ['repository_id', 'subject'],
    {
      repository_id: 'number',
      subject: 'text',
      media_type: 'text',
      checked_at_ms: 'number',
      bytes: 'bytes',
    },
    DOCUMENTS,
  ),
  table('grants', ['repository_id', 'credential_id'], {
    repository_id: 'number',
    credential_id: 'text',
    verified_at_ms: 'number',
  }),
  table('preloads', ['repository_id', 'digest', 'grantee'], {
    repository_id: 'number',
    digest: 'text',
    grantee: 'text',
    created_at_ms: 'number',
  }),
  table('pins', ['repository_id', 'reference'], {
    repository_id: 'number',
    reference: 'text',
    created_at_ms: 'number',
  }),
  QUARANTINE,
  table('uncollected', ['digest', 'kind'], { digest: 'text', kind: 'text', owner: 'text', size: 'number' }),
  table('outbox', ['position'], { position: 'number', endpoint: 'text', at_ms: 'number', body: 'text' }),
  table('outbox_endpoints', ['endpoint'], { endpoint: 'text', waiting: 'number', dropped: 'number' }),
];

/** Those that are filled from nothing. */
export const FILLED: readonly IndexTable[] = TABLES.filter(one => one !== SETTINGS && one !== BLOBS);
