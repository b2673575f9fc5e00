import type { IssuedCredential, KnownTenant } from '../../oci/issued-credential.ts';
import type { PostgresSession, Rows } from './session.ts';

// Tenants that are recorded in the store, and credentials that were issued to them.

export async function listKnownTenants(on: Rows): Promise<readonly KnownTenant[]> {
  const rows = await on.rows<{ name: string; uid: string | null }>(
    'SELECT name, uid FROM @known_tenants ORDER BY name',
  );
  return rows.map(({ name, uid }) => ({ name, uid: uid ?? undefined }));
}

export async function putKnownTenant(on: PostgresSession, { name, uid }: KnownTenant): Promise<void> {
  await on.changes(
    `INSERT INTO @known_tenants (name, uid) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET uid = excluded.uid`,
    [name, uid ?? null],
  );
}

export async function removeKnownTenant(on: PostgresSession, name: string): Promise<void> {
  await on.changes('DELETE FROM @known_tenants WHERE name = $1', [name]);
}

export async function listIssuedCredentials(
  on: Rows,
  tenants?: readonly string[],
): Promise<readonly IssuedCredential[]> {
  const rows = await on.rows<Omit<IssuedCredential, 'endsAtMs'> & { readonly endsAtMs: number | null }>(
    `
    SELECT id, tenant, username, server, read_only AS "readOnly", issued_at_ms AS "issuedAtMs",
      ends_at_ms AS "endsAtMs"
    FROM @issued_credentials WHERE $1::text[] IS NULL OR tenant = ANY($1) ORDER BY issued_at_ms, id`,
    [tenants ?? null],
  );
  return rows.map(row => ({ ...row, endsAtMs: row.endsAtMs ?? Number.POSITIVE_INFINITY }));
}

export async function putIssuedCredential(on: PostgresSession, credential: IssuedCredential): Promise<void> {
  const { id, tenant, username, server, readOnly, issuedAtMs, endsAtMs } = credential;
  await on.changes(
    `INSERT INTO @issued_credentials AS c (id, tenant, username, server, read_only, issued_at_ms, ends_at_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE SET tenant = excluded.tenant, username = excluded.username, server = excluded.server,
      read_only = excluded.read_only, issued_at_ms = excluded.issued_at_ms,
      ends_at_ms = least(c.ends_at_ms, excluded.ends_at_ms)`,
    [
      id,
      tenant,
      username,
      server,
      readOnly,
      issuedAtMs,
      endsAtMs === Number.POSITIVE_INFINITY ? null : endsAtMs,
    ],
  );
}
