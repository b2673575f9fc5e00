/** Notes that the image `digest` of the hosted repository with the id of `row` has to be recorded. */
const note = (row: 'old' | 'new', digest: string) => `
  INSERT INTO unrecorded (repository, digest, change)
    SELECT o.name, i.digest, hex(randomblob(8)) FROM (
      SELECT name FROM repositories WHERE id = ${row}.repository_id AND upstream = ''
      UNION
      SELECT name FROM removed_repositories WHERE id = ${row}.repository_id AND name IS NOT NULL) o,
      (SELECT ${digest} AS digest) i
    WHERE i.digest IS NOT NULL
    ON CONFLICT DO UPDATE SET change = excluded.change;`;

/** What a pin is on: a digest, or what a tag means. */
const pinned = (row: 'old' | 'new') => `iif(instr(${row}.reference, ':') > 0, ${row}.reference, (
  SELECT t.digest FROM tags t WHERE t.repository_id = ${row}.repository_id AND t.tag = ${row}.reference))`;

/**
 * Images of hosted repositories whose records, which are kept beside the blobs, are not of the last state. Triggers write
 * the rows, so that no writer forgets it.
 */
export const SCHEMA_18 = `
CREATE TABLE unrecorded (
  repository TEXT NOT NULL,
  digest TEXT NOT NULL,
  change TEXT NOT NULL, -- another one after each change
  PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER images_linked AFTER INSERT ON links WHEN new.kind = 'manifest' BEGIN
  ${note('new', 'new.digest')}
END;
CREATE TRIGGER images_relinked AFTER UPDATE ON links WHEN new.kind = 'manifest' BEGIN
  ${note('new', 'new.digest')}
END;
CREATE TRIGGER images_unlinked AFTER DELETE ON links WHEN old.kind = 'manifest' BEGIN
  ${note('old', 'old.digest')}
END;
CREATE TRIGGER images_tagged AFTER INSERT ON tags BEGIN
  ${note('new', 'new.digest')}
END;
CREATE TRIGGER images_retagged AFTER UPDATE ON tags BEGIN
  ${note('new', 'new.digest')}
  ${note('old', 'old.digest')}
END;
CREATE TRIGGER images_untagged AFTER DELETE ON tags BEGIN
  ${note('old', 'old.digest')}
END;
CREATE TRIGGER images_pinned AFTER INSERT ON pins BEGIN
  ${note('new', pinned('new'))}
END;
CREATE TRIGGER images_unpinned AFTER DELETE ON pins BEGIN
  ${note('old', pinned('old'))}
END;
`;
