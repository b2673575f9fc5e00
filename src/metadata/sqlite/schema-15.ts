/** What content of this size counts: MIN_COUNTED_BYTES when this was written, since a migration never changes. */
const counted = (size: string) => `max(${size}, 4096)`;

/** The first component of a hosted repository's name. */
const ownerOf = (name: string) => `substr(${name}, 1, instr(${name} || '/', '/') - 1)`;

/**
 * A Link that is written again has its new size; before, it kept that of the first time, even if an upstream had been
 * wrong about it. And content that loses its last Link with its whole repository counts for the owner until it is
 * collected, too; before, only content that was unlinked did. `name` is that of a removed hosted repository, and NULL
 * for one of a mirror or of an earlier version.
 */
export const SCHEMA_15 = `
CREATE TRIGGER links_resized AFTER UPDATE OF size ON links WHEN old.size <> new.size BEGIN
  UPDATE repositories SET bytes = bytes + ${counted('new.size')} - ${counted('old.size')} WHERE id = new.repository_id;
END;

ALTER TABLE removed_repositories ADD COLUMN name TEXT;
DROP TRIGGER repositories_removed;
CREATE TRIGGER repositories_removed AFTER DELETE ON repositories BEGIN
  UPDATE totals SET repositories = repositories - (old.entries > 0);
  INSERT INTO removed_repositories (id, name) VALUES (old.id, iif(old.upstream = '', old.name, NULL));
END;

DROP TRIGGER links_charged;
CREATE TRIGGER links_charged BEFORE DELETE ON links
WHEN NOT EXISTS (
    SELECT 1 FROM links l
    WHERE l.digest = old.digest AND l.kind = old.kind AND l.repository_id <> old.repository_id)
  AND (EXISTS (SELECT 1 FROM blobs WHERE digest = old.digest AND old.kind = 'blob')
    OR EXISTS (SELECT 1 FROM manifests WHERE digest = old.digest AND old.kind = 'manifest'))
BEGIN
  DELETE FROM uncollected WHERE digest = old.digest AND kind = old.kind;
  INSERT INTO uncollected (digest, kind, owner, size)
    SELECT old.digest, old.kind, ${ownerOf('o.name')}, old.size FROM (
      SELECT name FROM repositories WHERE id = old.repository_id AND upstream = ''
      UNION ALL
      SELECT name FROM removed_repositories WHERE id = old.repository_id AND name IS NOT NULL) o;
END;
`;
