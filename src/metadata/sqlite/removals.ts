import type { Digest } from '../../oci/digest.ts';
import type { Repository } from '../../oci/repository.ts';
import type { Content, Damage } from '../metadata-store.ts';
import type { Connection, Statement } from './connection.ts';
import * as reachability from './reachability.ts';

/** Columns with the time of a last use. Each has an index, so no query scans a table. */
const TIMES = [
  ['blobs', 'digest', 'used_at_ms'],
  ['manifests', 'digest', 'used_at_ms'],
  ['uploads', 'id', 'touched_at_ms'],
] as const;
/** For each table, in one transaction of some milliseconds. */
const LOWERED_AT_ONCE = 20;

/** Removals by upkeep. Each checks in its own transaction that nothing needs the content by now. */
export class Removals {
  readonly #deleteLink: Statement<[{ upstream: string; name: string; digest: Digest; sinceMs: number }]>;
  readonly #deleteUnlinkedManifest: Statement<[{ digest: Digest; sinceMs: number }]>;
  readonly #deleteUnneededBlob: Statement<[{ digest: Digest; sinceMs: number }]>;
  readonly #deleteUnlinkedBlob: Statement<[{ digest: Digest; sinceMs: number }]>;
  readonly #selectImportingSince: Statement<[], { ms: number }>;
  readonly #evictBlob: Statement<[{ digest: Digest; sinceMs: number }]>;
  readonly #evictManifest: Statement<[{ digest: Digest; sinceMs: number }]>;
  readonly #deleteBlob: Statement<[Digest]>;
  readonly #deleteManifest: Statement<[Digest]>;
  readonly #forgetReadings: Statement<[Digest]>;
  readonly #deleteReadings: Statement<[Digest]>;
  readonly #selectIsHosted: Statement<[{ digest: Digest }], { hosted: number }>;
  readonly #selectIsStray: Statement<[{ digest: Digest }], { stray: number }>;
  readonly #insertDamage: Statement<[Digest, number, string]>;
  readonly #deleteDamage: Statement<[Digest]>;
  readonly #selectDamage: Statement<[Digest], { found_at_ms: number; reason: string }>;
  readonly #selectDamaged: Statement<[], { damaged: number }>;
  readonly #selectLater: Statement<[{ thanMs: number }]>;
  readonly #lower: readonly Statement<[{ laterThanMs: number; toMs: number }]>[];

  constructor(connection: Connection) {
    this.#deleteLink = connection.prepare(`
      DELETE FROM links AS l
      WHERE l.repository_id = (SELECT id FROM repositories WHERE upstream = @upstream AND name = @name)
        AND l.digest = @digest AND l.kind = 'blob' AND l.created_at_ms < @sinceMs
        AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = @digest AND b.used_at_ms >= @sinceMs)
        AND NOT ${reachability.isPinnedIn('l.repository_id', 'l.digest')}
        AND NOT ${reachability.isMaimed('l.repository_id')}
        AND NOT ${reachability.isNamedIn('l.repository_id', 'l.digest')}`);
    this.#deleteUnlinkedManifest = connection.prepare(`
      DELETE FROM manifests
      WHERE digest = @digest AND used_at_ms < @sinceMs AND NOT ${reachability.isKeptManifest('@digest')}`);
    this.#deleteUnneededBlob = connection.prepare(`
      DELETE FROM blobs
      WHERE digest = @digest AND used_at_ms < @sinceMs AND NOT ${reachability.isKeptByLink('@digest')}
        AND NOT ${reachability.isNamed('@digest')} AND NOT ${reachability.isBeingFilled('@digest')}`);
    this.#deleteUnlinkedBlob = connection.prepare(`
      DELETE FROM blobs
      WHERE digest = @digest AND used_at_ms < @sinceMs AND NOT ${reachability.isLinked('@digest')}
        AND NOT ${reachability.isNamed('@digest')} AND NOT ${reachability.isBeingFilled('@digest')}`);
    this.#selectImportingSince = connection.prepare(`SELECT ${reachability.importingSinceMs} AS ms`);
    this.#evictBlob = connection.prepare(
      `DELETE FROM blobs WHERE digest = @digest AND used_at_ms < @sinceMs AND ${reachability.isEvictable('@digest')}`,
    );
    this.#evictManifest = connection.prepare(
      `DELETE FROM manifests WHERE digest = @digest AND used_at_ms < @sinceMs AND ${reachability.isEvictable('@digest')}`,
    );
    this.#deleteBlob = connection.prepare('DELETE FROM blobs WHERE digest = ?');
    this.#deleteManifest = connection.prepare('DELETE FROM manifests WHERE digest = ?');
    this.#forgetReadings = connection.prepare(
      "UPDATE links SET media_type = NULL WHERE digest = ? AND kind = 'manifest'",
    );
    this.#deleteReadings = connection.prepare('DELETE FROM readings WHERE digest = ?');
    this.#selectIsHosted = connection.prepare(`SELECT ${reachability.isHosted('@digest')} AS hosted`);
    this.#selectIsStray = connection.prepare(`
      SELECT NOT EXISTS (SELECT 1 FROM blobs WHERE digest = @digest)
        AND NOT EXISTS (SELECT 1 FROM quarantine WHERE digest = @digest)
        AND NOT ${reachability.isHostedBlob('@digest')}
        AND NOT ${reachability.isBeingFilled('@digest')} AS stray`);
    this.#insertDamage = connection.prepare(
      'INSERT INTO quarantine (digest, found_at_ms, reason) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    );
    this.#deleteDamage = connection.prepare('DELETE FROM quarantine WHERE digest = ?');
    this.#selectDamage = connection.prepare('SELECT found_at_ms, reason FROM quarantine WHERE digest = ?');
    this.#selectLater = connection.prepare(
      TIMES.map(([table, , time]) => `SELECT 1 FROM ${table} WHERE ${time} > @thanMs`).join(' UNION ALL '),
    );
    this.#lower = TIMES.map(([table, key, time]) =>
      connection.prepare(`
        UPDATE ${table} SET ${time} = @toMs
        WHERE ${key} IN (SELECT ${key} FROM ${table} WHERE ${time} > @laterThanMs LIMIT ${LOWERED_AT_ONCE})`),
    );
    this.#selectDamaged = connection.prepare('SELECT count(*) AS damaged FROM quarantine');
  }

  /** Removes the Link of a blob that no manifest of its repository names. */
  removeLink({ upstream, name }: Repository, digest: Digest, sinceMs: number): boolean {
    return this.#deleteLink.run({ upstream, name, digest, sinceMs }).changes > 0;
  }

  removeUnneeded({ kind, digest }: Content, sinceMs: number): boolean {
    if (kind === 'blob') return this.#deleteUnneededBlob.run({ digest, sinceMs }).changes > 0;
    return this.#removeManifest(this.#deleteUnlinkedManifest, digest, sinceMs);
  }

  removeUnlinked({ kind, digest }: Content, sinceMs: number): boolean {
    if (kind === 'blob') return this.#deleteUnlinkedBlob.run({ digest, sinceMs }).changes > 0;
    return this.#removeManifest(this.#deleteUnlinkedManifest, digest, sinceMs);
  }

  /** When the oldest of the imports that are running began; later than any time if none is. */
  importingSinceMs(): number {
    return this.#selectImportingSince.get()?.ms ?? Number.MAX_SAFE_INTEGER;
  }

  evict({ kind, digest }: Content, sinceMs: number): boolean {
    if (kind === 'blob') return this.#evictBlob.run({ digest, sinceMs }).changes > 0;
    return this.#removeManifest(this.#evictManifest, digest, sinceMs);
  }

  /** Whether nothing says that bytes of this digest should be stored. */
  isStray(digest: Digest): boolean {
    return this.#selectIsStray.get({ digest })?.stray === 1;
  }

  /**
   * Removes the row, so that the content is not served; returns who has lost it, `undefined` if there was no row. What
   * a manifest names is still needed, since the manifest may be stored again.
   */
  quarantine({ kind, digest }: Content, reason: string): 'hosted' | 'mirrored' | undefined {
    const statement = kind === 'blob' ? this.#deleteBlob : this.#deleteManifest;
    if (statement.run(digest).changes === 0) {
      return undefined;
    }
    this.#insertDamage.run(digest, Date.now(), reason);
    return this.#selectIsHosted.get({ digest })?.hosted === 1 ? 'hosted' : 'mirrored';
  }

  readDamage(digest: Digest): Damage | undefined {
    const row = this.#selectDamage.get(digest);
    return row && { foundAtMs: row.found_at_ms, reason: row.reason };
  }

  countDamaged(): number {
    return this.#selectDamaged.get()?.damaged ?? 0;
  }

  hasLaterUses(thanMs: number): boolean {
    return this.#selectLater.get({ thanMs }) !== undefined;
  }

  lowerUses(laterThanMs: number, toMs: number): number {
    return this.#lower.reduce((count, statement) => count + statement.run({ laterThanMs, toMs }).changes, 0);
  }

  /** Call when the content was stored again, or is not needed any more. */
  endDamage(digest: Digest): void {
    this.#deleteDamage.run(digest);
  }

  /** Removes the bytes with all their readings. */
  #removeManifest(
    statement: Statement<[{ digest: Digest; sinceMs: number }]>,
    digest: Digest,
    sinceMs: number,
  ): boolean {
    const isRemoved = statement.run({ digest, sinceMs }).changes > 0;
    if (isRemoved) {
      this.#forgetReadings.run(digest);
      this.#deleteReadings.run(digest);
    }
    return isRemoved;
  }
}
