import type { Digest } from '../../oci/digest.ts';
import {
  type HostedImage,
  type HostedRecord,
  NOTED_AT_ONCE,
  type RecordedTag,
  type UnrecordedImage,
} from '../image-record.ts';
import type { Connection, Statement } from './connection.ts';

/** Which images of hosted repositories are not recorded, and what their records say. */
export class ImageRecordRows {
  readonly #selectUnrecorded: Statement<[string, string, number], UnrecordedImage>;
  readonly #countUnrecorded: Statement<[number], { waiting: number }>;
  readonly #selectReading: Statement<[HostedImage], { id: number; media_type: string }>;
  readonly #selectTags: Statement<[number, Digest], RecordedTag>;
  readonly #selectPins: Statement<[{ id: number; digest: Digest }], { reference: string }>;
  readonly #selectHosted: Statement<[Digest]>;
  readonly #settle: Statement<[UnrecordedImage]>;
  readonly #note: Statement<[HostedImage]>;
  readonly #selectRest: Statement<[HostedImage], HostedImage>;
  readonly #selectOthers: Statement<[{ name: string; limit: number }], HostedImage>;
  readonly #selectIsUnrecorded: Statement<[HostedImage]>;
  readonly #selectIsRemoved: Statement<[HostedImage]>;

  constructor(connection: Connection) {
    this.#selectUnrecorded = connection.prepare(`
      SELECT repository AS name, digest, change FROM unrecorded
      WHERE (repository, digest) > (?, ?) ORDER BY repository, digest LIMIT ?`);
    this.#countUnrecorded = connection.prepare(
      'SELECT count(*) AS waiting FROM (SELECT 1 FROM unrecorded LIMIT ?)',
    );
    this.#selectReading = connection.prepare(`
      SELECT r.id, l.media_type FROM repositories r JOIN links l ON l.repository_id = r.id
      WHERE r.upstream = '' AND r.name = @name AND l.digest = @digest AND l.kind = 'manifest'
        AND l.media_type IS NOT NULL AND NOT l.is_unproved`);
    this.#selectTags = connection.prepare(`
      SELECT tag, checked_at_ms AS atMs FROM tags INDEXED BY tags_by_digest
      WHERE repository_id = ? AND digest = ? ORDER BY tag`);
    this.#selectPins = connection.prepare(`
      SELECT p.reference FROM pins p
      WHERE p.repository_id = @id AND (p.reference = @digest OR EXISTS (
        SELECT 1 FROM tags t WHERE t.repository_id = @id AND t.tag = p.reference AND t.digest = @digest))
      ORDER BY p.reference`);
    this.#selectHosted = connection.prepare(`
      SELECT 1 FROM links l JOIN repositories r ON r.id = l.repository_id
      WHERE l.digest = ? AND l.kind = 'manifest' AND r.upstream = '' LIMIT 1`);
    this.#settle = connection.prepare(
      'DELETE FROM unrecorded WHERE repository = @name AND digest = @digest AND change = @change',
    );
    this.#selectIsUnrecorded = connection.prepare(
      'SELECT 1 FROM unrecorded WHERE repository = @name AND digest = @digest',
    );
    this.#selectIsRemoved = connection.prepare(`
      SELECT 1 FROM removed_repositories o JOIN links l ON l.repository_id = o.id
      WHERE o.name = @name AND l.digest = @digest AND l.kind = 'manifest'`);
    this.#note = connection.prepare(`
      INSERT INTO unrecorded (repository, digest, change) VALUES (@name, @digest, hex(randomblob(8)))
      ON CONFLICT DO UPDATE SET change = excluded.change`);
    this.#selectRest = connection.prepare(`
      SELECT r.name, l.digest FROM repositories r JOIN links l ON l.repository_id = r.id AND l.kind = 'manifest'
      WHERE r.upstream = '' AND r.name = @name AND l.digest > @digest
      ORDER BY l.digest LIMIT ${NOTED_AT_ONCE}`);
    // In an order of which SQLite knows that it need not sort: a repository may have a million links.
    this.#selectOthers = connection.prepare(`
      SELECT r.name, l.digest FROM repositories r JOIN links l ON l.repository_id = r.id AND l.kind = 'manifest'
      WHERE r.upstream = '' AND r.name > @name
      ORDER BY r.upstream, r.name, r.id, l.digest LIMIT @limit`);
  }

  list(limit: number, after: HostedImage | undefined): readonly UnrecordedImage[] {
    return this.#selectUnrecorded.all(after?.name ?? '', after?.digest ?? '', limit);
  }

  count(most: number): number {
    return this.#countUnrecorded.get(most)?.waiting ?? 0;
  }

  read({ name, digest }: HostedImage): HostedRecord | undefined {
    const reading = this.#selectReading.get({ name, digest });
    if (reading === undefined) return undefined;
    const { id, media_type: mediaType } = reading;
    const pins = this.#selectPins.all({ id, digest }).map(({ reference }) => reference);
    return { mediaType, tags: this.#selectTags.all(id, digest), pins };
  }

  isUnrecorded({ name, digest }: HostedImage): boolean {
    if (this.#selectIsUnrecorded.get({ name, digest }) !== undefined) return true;
    // Images of a removed repository become unrecorded as their rows are removed, a few at a time.
    return this.#selectIsRemoved.get({ name, digest }) !== undefined;
  }

  isHostedManifest(digest: Digest): boolean {
    return this.#selectHosted.get(digest) !== undefined;
  }

  /** Call within a write. */
  settle(image: UnrecordedImage): void {
    if (this.#settle.run(image).changes === 0 && this.#selectIsUnrecorded.get(image) === undefined)
      this.note(image);
  }

  /** Call within a write. */
  note({ name, digest }: HostedImage): void {
    this.#note.run({ name, digest });
  }

  /** Call within a write. Returns where to continue. */
  noteSome(after: HostedImage | undefined): HostedImage | undefined {
    const rest = after === undefined ? [] : this.#selectRest.all(after);
    const limit = NOTED_AT_ONCE - rest.length;
    const images = [...rest, ...this.#selectOthers.all({ name: after?.name ?? '', limit })];
    for (const image of images) this.note(image);
    return images.length < NOTED_AT_ONCE ? undefined : images.at(-1);
  }
}
