import type { CredentialUsage } from '../../oci/credential.ts';
import type { PostgresSession, Rows } from './session.ts';

interface Row {
  readonly credential_id: string;
  readonly used_at_ms: number | null;
  readonly refused_at_ms: number | null;
}

export async function listCredentialUsage(on: Rows): Promise<readonly CredentialUsage[]> {
  const rows = await on.rows<Row>(
    'SELECT credential_id, used_at_ms, refused_at_ms FROM @credential_usage ORDER BY credential_id',
  );
  return rows.map(({ credential_id: credentialId, used_at_ms, refused_at_ms }) => ({
    credentialId,
    ...(used_at_ms !== null && { usedAtMs: used_at_ms }),
    ...(refused_at_ms !== null && { refusedAtMs: refused_at_ms }),
  }));
}

export async function putCredentialUsage(
  on: PostgresSession,
  { credentialId, usedAtMs, refusedAtMs }: CredentialUsage,
): Promise<void> {
  await on.changes(
    // Of NULL and a time, `greatest` is the time.
    `INSERT INTO @credential_usage AS u (credential_id, used_at_ms, refused_at_ms) VALUES ($1, $2, $3)
    ON CONFLICT (credential_id) DO UPDATE SET
      used_at_ms = greatest(u.used_at_ms, excluded.used_at_ms),
      refused_at_ms = greatest(u.refused_at_ms, excluded.refused_at_ms)`,
    [credentialId, usedAtMs ?? null, refusedAtMs ?? null],
  );
}

export async function removeCredentialUsage(
  on: PostgresSession,
  credentialIds: readonly string[],
): Promise<void> {
  await on.changes('DELETE FROM @credential_usage WHERE credential_id = ANY($1)', [credentialIds]);
}
