import { type Lease, LeaseLost } from '../lib/lease.ts';
import {
  BLOBS,
  FILLED,
  type IndexReading,
  type IndexRow,
  type IndexSource,
  type IndexTable,
  type IndexTarget,
  type IndexValue,
  SETTINGS,
} from './index-tables.ts';
import { Connection, type Statement } from './sqlite/connection.ts';
import { Writer } from './sqlite/writer.ts';

type SqliteValue = string | number | Uint8Array | null;
type SqliteRow = Readonly<Record<string, SqliteValue>>;

/** What comes before the digest in the name of a document. */
const REFERRERS_OF = 'referrers ';

/** Where SQLite has a column under another name or form. */
const SELECTED: Readonly<Record<string, string>> = {
  'documents.subject': `substr(name, ${REFERRERS_OF.length + 1}) AS subject`,
};

const CONDITIONS: Readonly<Record<string, string>> = {
  // One that upstream has yet to prove gives no right, and no other kind of index has such.
  links: 'NOT is_unproved',
  // A row that only takes space.
  settings: "name <> 'room'",
};

/** The index in the file `path`, on a connection of its own. */
export async function openSqliteSource(path: string): Promise<IndexSource> {
  const connection = await Connection.openReadOnly(path);
  const reading = readingOf(connection);
  return {
    rows: table => reading.rows(table),
    read: async work => {
      // From its first statement on, it reads what was committed then.
      connection.execute('BEGIN');
      try {
        return await work(reading);
      } finally {
        connection.execute('ROLLBACK');
      }
    },
    close: () => connection.close(),
  };
}

function readingOf(connection: Connection): IndexReading {
  return {
    rows: async function* (table) {
      const { key, columns, rowsPerPage } = table;
      const select = connection.prepare<SqliteValue[], SqliteRow>(pageOf(table));
      let after: SqliteRow | undefined;
      for (;;) {
        const from = key.map(column => after?.[column] ?? beginning(columns[column]));
        const page = await connection.read(() => select.all(...from));
        if (page.length > 0) yield page.map(row => toIndexRow(row, columns));
        if (page.length < rowsPerPage) return;
        after = page.at(-1);
      }
    },
  };
}

function pageOf({ name, key, columns, rowsPerPage }: IndexTable): string {
  const selected = Object.keys(columns).map(column => SELECTED[`${name}.${column}`] ?? column);
  const condition = CONDITIONS[name] ?? 'true';
  const keys = key.join(', ');
  return `SELECT * FROM (SELECT ${selected.join(', ')} FROM ${name} WHERE ${condition})
    WHERE (${keys}) > (${key.map(() => '?').join(', ')}) ORDER BY ${keys} LIMIT ${rowsPerPage}`;
}

/** Less than any value of a key. */
function beginning(type: string | undefined): SqliteValue {
  return type === 'number' ? -1 : '';
}

function toIndexRow(row: SqliteRow, columns: IndexTable['columns']): IndexRow {
  return Object.fromEntries(
    Object.entries(columns).map(([column, type]) => {
      const value = row[column] ?? null;
      return [column, type === 'boolean' ? value === 1 : value];
    }),
  );
}

/** The index in the existing file `path`, on a connection of its own. `lease`: the one under which it is filled. */
export async function openSqliteTarget(path: string, lease: Lease): Promise<IndexTarget> {
  return new SqliteTarget(await Connection.open(path), lease);
}

class SqliteTarget implements IndexTarget {
  readonly #connection: Connection;
  readonly #writer: Writer;
  readonly #lease: Lease;
  readonly #selectLease: Statement<[number]>;
  readonly #inserts = new Map<string, Statement<[SqliteRow]>>();

  constructor(connection: Connection, lease: Lease) {
    this.#connection = connection;
    this.#writer = new Writer(connection);
    this.#lease = lease;
    this.#selectLease = connection.prepare('SELECT 1 FROM leases WHERE epoch = ?');
  }

  rows(table: IndexTable): AsyncIterable<readonly IndexRow[]> {
    return readingOf(this.#connection).rows(table);
  }

  clear(): Promise<void> {
    return this.#write(() => {
      // Triggers add rows to what was emptied before: twice.
      for (const { name } of [...FILLED.toReversed(), ...FILLED])
        this.#connection.execute(`DELETE FROM ${name}`);
      this.#connection.execute('DELETE FROM owners');
    });
  }

  add(table: IndexTable, rows: readonly IndexRow[]): Promise<void> {
    const insert = this.#insertInto(table);
    return this.#write(() => {
      for (const row of rows) insert.run(toSqliteRow(row));
    });
  }

  /** SQLite continues with ids behind the largest one by itself. */
  async finish(): Promise<void> {}

  async close(): Promise<void> {
    await this.#writer.close();
    this.#connection.close();
  }

  #write(work: () => void): Promise<void> {
    const { key, epoch } = this.#lease;
    return this.#writer.write(() => {
      if (this.#selectLease.get(epoch) === undefined) throw new LeaseLost(key);
      work();
    });
  }

  #insertInto(table: IndexTable): Statement<[SqliteRow]> {
    const known = this.#inserts.get(table.name);
    const insert = known ?? this.#connection.prepare<[SqliteRow]>(insertInto(table));
    this.#inserts.set(table.name, insert);
    return insert;
  }
}

function insertInto(table: IndexTable): string {
  const { name, columns } = table;
  if (table === BLOBS) {
    return 'UPDATE blobs SET created_at_ms = @created_at_ms, used_at_ms = @used_at_ms WHERE digest = @digest';
  }
  const into = Object.keys(columns).map(column =>
    name === 'documents' && column === 'subject' ? 'name' : column,
  );
  const values = Object.keys(columns).map(column =>
    name === 'documents' && column === 'subject' ? `'${REFERRERS_OF}' || @subject` : `@${column}`,
  );
  const replacing = table === SETTINGS ? 'ON CONFLICT (name) DO UPDATE SET value = excluded.value' : '';
  return `INSERT INTO ${name} (${into.join(', ')}) VALUES (${values.join(', ')}) ${replacing}`;
}

function toSqliteRow(row: IndexRow): SqliteRow {
  return Object.fromEntries(Object.entries(row).map(([column, value]) => [column, toSqliteValue(value)]));
}

function toSqliteValue(value: IndexValue): SqliteValue {
  return typeof value === 'boolean' ? Number(value) : value;
}
