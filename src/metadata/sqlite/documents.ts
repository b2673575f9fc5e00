import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Document } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';

interface Row {
  readonly media_type: string;
  readonly checked_at_ms: number;
  readonly bytes: Buffer;
}

interface NewRow extends Repository, Document {
  readonly subject: Digest;
}

/** The manifest `@subject`, if it is stored and linked in the repository. */
const SUBJECT = `
  FROM repositories r
  JOIN links l ON l.repository_id = r.id AND l.kind = 'manifest' AND l.media_type IS NOT NULL
  JOIN manifests m ON m.digest = l.digest
  WHERE r.upstream = @upstream AND r.name = @name AND l.digest = @subject AND NOT l.is_unproved`;

/**
 * Documents of upstreams other than manifests: lists of referrers. Triggers remove each with the manifest that it is
 * about, so there is none without that.
 */
export class Documents {
  readonly #select: Statement<[Repository & { subject: Digest }], Row>;
  readonly #hasSubject: Statement<[Repository & { subject: Digest }], object>;
  readonly #upsert: Statement<[NewRow]>;

  constructor(connection: Connection) {
    this.#select = connection.prepare(`
      SELECT d.media_type, d.checked_at_ms, d.bytes
      FROM repositories r JOIN documents d ON d.repository_id = r.id
      WHERE r.upstream = @upstream AND r.name = @name AND d.name = 'referrers ' || @subject`);
    this.#hasSubject = connection.prepare(`SELECT 1 ${SUBJECT}`);
    this.#upsert = connection.prepare(`
      INSERT INTO documents (repository_id, name, media_type, checked_at_ms, bytes)
      SELECT r.id, 'referrers ' || l.digest, @mediaType, @checkedAtMs, @bytes
      ${SUBJECT}
      ON CONFLICT DO UPDATE
      SET media_type = excluded.media_type, checked_at_ms = excluded.checked_at_ms, bytes = excluded.bytes`);
  }

  readReferrers({ upstream, name }: Repository, subject: Digest): Document | undefined {
    const row = this.#select.get({ upstream, name, subject });
    return row && { mediaType: row.media_type, checkedAtMs: row.checked_at_ms, bytes: row.bytes };
  }

  /** Whether `putReferrers` would write anything. */
  hasSubject({ upstream, name }: Repository, subject: Digest): boolean {
    return this.#hasSubject.get({ upstream, name, subject }) !== undefined;
  }

  /** Writes nothing unless the manifest is stored and linked. */
  putReferrers({ upstream, name }: Repository, subject: Digest, list: Document): void {
    const { mediaType, checkedAtMs, bytes } = list;
    this.#upsert.run({ upstream, name, subject, mediaType, checkedAtMs, bytes });
  }
}
