import type { Repository } from '../../oci/repository.ts';
import type { EndedGrants, Grant } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';

/** How many Grants of a credential are removed in one transaction. */
const END_ROWS = 100;

/** How many are examined in one transaction: half a millisecond. */
const LOOK_ROWS = 500;

/** A position in the order of all Grants. */
interface Position {
  readonly repositoryId: number;
  readonly credentialId: string;
}

const START: Position = { repositoryId: -1, credentialId: '' };

interface PositionRow {
  readonly repository_id: number;
  readonly credential_id: string;
  readonly is_over: number;
}

interface Row {
  readonly credential_id: string;
  readonly verified_at_ms: number;
}

/** Remembered proofs that a credential may read a repository. */
export class GrantRows {
  readonly #select: Statement<[string, string], Row>;
  readonly #selectOne: Statement<[string, string, string], Row>;
  readonly #upsert: Statement<[number, string, number]>;
  readonly #delete: Statement<[number, string]>;
  readonly #deleteOf: Statement<[{ credentialId: string }]>;
  readonly #selectBehind: Statement<[{ beforeMs: number } & Position], PositionRow>;

  constructor(connection: Connection) {
    this.#select = connection.prepare(`
      SELECT g.credential_id, g.verified_at_ms
      FROM repositories r JOIN grants g ON g.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ?`);
    this.#selectOne = connection.prepare(`
      SELECT g.credential_id, g.verified_at_ms
      FROM repositories r JOIN grants g ON g.repository_id = r.id
      WHERE r.upstream = ? AND r.name = ? AND g.credential_id = ?`);
    this.#upsert = connection.prepare(`
      INSERT INTO grants (repository_id, credential_id, verified_at_ms) VALUES (?, ?, ?)
      ON CONFLICT DO UPDATE SET verified_at_ms = excluded.verified_at_ms`);
    this.#delete = connection.prepare('DELETE FROM grants WHERE repository_id = ? AND credential_id = ?');
    this.#deleteOf = connection.prepare(`
      DELETE FROM grants WHERE credential_id = @credentialId AND repository_id IN
        (SELECT repository_id FROM grants WHERE credential_id = @credentialId LIMIT ${END_ROWS})`);
    this.#selectBehind = connection.prepare(`
      SELECT repository_id, credential_id, verified_at_ms < @beforeMs AS is_over
      FROM grants WHERE (repository_id, credential_id) > (@repositoryId, @credentialId)
      ORDER BY repository_id, credential_id LIMIT ${LOOK_ROWS}`);
  }

  readAll({ upstream, name }: Repository): readonly Grant[] {
    return this.#select.all(upstream, name).map(toGrant);
  }

  /** The Grants of these credentials: one lookup each, however many the repository has. */
  read({ upstream, name }: Repository, credentialIds: readonly string[]): readonly Grant[] {
    return credentialIds.flatMap(credentialId => {
      const row = this.#selectOne.get(upstream, name, credentialId);
      return row === undefined ? [] : [toGrant(row)];
    });
  }

  put(repositoryId: number, grant: Grant): void {
    this.#upsert.run(repositoryId, grant.credentialId, grant.verifiedAtMs);
  }

  end(repositoryId: number, credentialId: string): boolean {
    return this.#delete.run(repositoryId, credentialId).changes > 0;
  }

  endBefore(beforeMs: number, after?: string): EndedGrants {
    const rows = this.#selectBehind.all({
      beforeMs,
      ...(after === undefined ? START : parsePosition(after)),
    });
    const over = rows.filter(row => row.is_over === 1).map(toPosition);
    for (const { repositoryId, credentialId } of over) this.end(repositoryId, credentialId);
    const last = rows.at(-1);
    return { ended: over.length, next: last && formatPosition(toPosition(last)) };
  }

  /** Removes some of the credential's Grants; false if there was none left. */
  endSomeOf(credentialId: string): boolean {
    return this.#deleteOf.run({ credentialId }).changes > 0;
  }
}

function toPosition(row: PositionRow): Position {
  return { repositoryId: row.repository_id, credentialId: row.credential_id };
}

function formatPosition({ repositoryId, credentialId }: Position): string {
  return `${repositoryId} ${credentialId}`;
}

function parsePosition(text: string): Position {
  const end = text.indexOf(' ');
  return { repositoryId: Number(text.slice(0, end)), credentialId: text.slice(end + 1) };
}

function toGrant(row: Row): Grant {
  return { credentialId: row.credential_id, verifiedAtMs: row.verified_at_ms };
}
