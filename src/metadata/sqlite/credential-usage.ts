import type { CredentialUsage } from '../../oci/credential.ts';
import type { Connection, Statement } from './connection.ts';

interface Row {
  readonly credential_id: string;
  readonly used_at_ms: number | null;
  readonly refused_at_ms: number | null;
}

/** When credentials were last used and refused. */
export class CredentialUsages {
  readonly #select: Statement<[], Row>;
  readonly #upsert: Statement<[Row]>;
  readonly #delete: Statement<[string]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare(
      'SELECT credential_id, used_at_ms, refused_at_ms FROM credential_usage ORDER BY credential_id',
    );
    this.#upsert = connection.prepare(`
      INSERT INTO credential_usage (credential_id, used_at_ms, refused_at_ms)
      VALUES (@credential_id, @used_at_ms, @refused_at_ms)
      ON CONFLICT DO UPDATE SET
        used_at_ms = nullif(max(coalesce(used_at_ms, 0), coalesce(excluded.used_at_ms, 0)), 0),
        refused_at_ms = nullif(max(coalesce(refused_at_ms, 0), coalesce(excluded.refused_at_ms, 0)), 0)`);
    this.#delete = connection.prepare('DELETE FROM credential_usage WHERE credential_id = ?');
  }

  list(): readonly CredentialUsage[] {
    return this.#select.all().map(({ credential_id: credentialId, used_at_ms, refused_at_ms }) => ({
      credentialId,
      ...(used_at_ms !== null && { usedAtMs: used_at_ms }),
      ...(refused_at_ms !== null && { refusedAtMs: refused_at_ms }),
    }));
  }

  put({ credentialId, usedAtMs, refusedAtMs }: CredentialUsage): void {
    this.#upsert.run({
      credential_id: credentialId,
      used_at_ms: usedAtMs ?? null,
      refused_at_ms: refusedAtMs ?? null,
    });
  }

  remove(credentialId: string): void {
    this.#delete.run(credentialId);
  }
}
