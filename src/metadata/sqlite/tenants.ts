import type { IssuedCredential, KnownTenant } from '../../oci/issued-credential.ts';
import type { Connection, Statement } from './connection.ts';

interface TenantRow {
  readonly name: string;
  readonly uid: string | null;
}

interface IssuedRow {
  readonly id: string;
  readonly tenant: string;
  readonly username: string;
  readonly server: string;
  readonly read_only: number;
  readonly issued_at_ms: number;
  readonly ends_at_ms: number | null;
}

const issued = (condition: string) => `
  SELECT id, tenant, username, server, read_only, issued_at_ms, ends_at_ms
  FROM issued_credentials ${condition} ORDER BY issued_at_ms, id`;

/** Tenants that are recorded in the store, and credentials that were issued to them. */
export class TenantRows {
  readonly #selectTenants: Statement<[], TenantRow>;
  readonly #upsertTenant: Statement<[TenantRow]>;
  readonly #deleteTenant: Statement<[string]>;
  readonly #selectIssued: Statement<[], IssuedRow>;
  readonly #selectIssuedOf: Statement<[string], IssuedRow>;
  readonly #upsertIssued: Statement<[IssuedRow]>;

  constructor(connection: Connection) {
    this.#selectTenants = connection.prepare('SELECT name, uid FROM known_tenants ORDER BY name');
    this.#upsertTenant = connection.prepare(`
      INSERT INTO known_tenants (name, uid) VALUES (@name, @uid)
      ON CONFLICT DO UPDATE SET uid = excluded.uid`);
    this.#deleteTenant = connection.prepare('DELETE FROM known_tenants WHERE name = ?');
    this.#selectIssued = connection.prepare(issued(''));
    // Without an index: reading ten thousand rows takes a millisecond or two, and making objects of them ten times as long.
    this.#selectIssuedOf = connection.prepare(issued('WHERE tenant IN (SELECT value FROM json_each(?))'));
    this.#upsertIssued = connection.prepare(`
      INSERT INTO issued_credentials (id, tenant, username, server, read_only, issued_at_ms, ends_at_ms)
      VALUES (@id, @tenant, @username, @server, @read_only, @issued_at_ms, @ends_at_ms)
      ON CONFLICT DO UPDATE SET tenant = excluded.tenant, username = excluded.username, server = excluded.server,
        read_only = excluded.read_only, issued_at_ms = excluded.issued_at_ms,
        ends_at_ms = coalesce(min(ends_at_ms, excluded.ends_at_ms), ends_at_ms, excluded.ends_at_ms)`);
  }

  list(): readonly KnownTenant[] {
    return this.#selectTenants.all().map(({ name, uid }) => ({ name, uid: uid ?? undefined }));
  }

  put({ name, uid = null }: { readonly name: string; readonly uid: string | null | undefined }): void {
    this.#upsertTenant.run({ name, uid });
  }

  remove(name: string): void {
    this.#deleteTenant.run(name);
  }

  listIssued(tenants?: readonly string[]): readonly IssuedCredential[] {
    const rows =
      tenants === undefined ? this.#selectIssued.all() : this.#selectIssuedOf.all(JSON.stringify(tenants));
    return rows.map(row => ({
      id: row.id,
      tenant: row.tenant,
      username: row.username,
      server: row.server,
      readOnly: row.read_only === 1,
      issuedAtMs: row.issued_at_ms,
      endsAtMs: row.ends_at_ms ?? Number.POSITIVE_INFINITY,
    }));
  }

  putIssued(credential: IssuedCredential): void {
    const { id, tenant, username, server, readOnly, issuedAtMs, endsAtMs } = credential;
    this.#upsertIssued.run({
      id,
      tenant,
      username,
      server,
      read_only: readOnly ? 1 : 0,
      issued_at_ms: issuedAtMs,
      ends_at_ms: endsAtMs === Number.POSITIVE_INFINITY ? null : endsAtMs,
    });
  }
}
