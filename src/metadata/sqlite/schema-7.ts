/**
 * Preloads: what was imported into a mirrored repository, and for whom. Before, an import made a Grant for the whole
 * repository, which also gave access to what others pulled there later. Of earlier imports only the pins are known, so
 * everything below a pin becomes a preload, unless a credential has proved a right to the repository: then the content
 * may have come by that, and upstream is asked again.
 */
export const SCHEMA_7 = `
CREATE TABLE preloads (
  repository_id INTEGER NOT NULL,
  digest TEXT NOT NULL,
  grantee TEXT NOT NULL, -- '': everybody
  created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (repository_id, digest, grantee)
) STRICT, WITHOUT ROWID;
CREATE INDEX preloads_by_grantee ON preloads (grantee, repository_id, digest);

INSERT INTO preloads (repository_id, digest, grantee, created_at_ms)
WITH RECURSIVE imported (repository_id, grantee, at_ms) AS (
  SELECT i.repository_id, i.credential_id, i.verified_at_ms FROM grants i
  WHERE i.origin = 'import' AND NOT EXISTS (
    SELECT 1 FROM grants u
    WHERE u.repository_id = i.repository_id AND u.origin = 'upstream' AND u.credential_id NOT IN ('', 'public'))),
under (repository_id, grantee, at_ms, digest) AS (
  SELECT i.repository_id, i.grantee, i.at_ms, coalesce(t.digest, p.reference)
  FROM imported i JOIN pins p ON p.repository_id = i.repository_id
  LEFT JOIN tags t ON t.repository_id = p.repository_id AND t.tag = p.reference
  UNION
  SELECT u.repository_id, u.grantee, u.at_ms, n.digest
  FROM under u
  JOIN links l ON l.repository_id = u.repository_id AND l.digest = u.digest AND l.kind = 'manifest'
  JOIN readings g ON g.digest = l.digest AND g.media_type = l.media_type
  JOIN reading_references n ON n.reading_id = g.id)
SELECT DISTINCT u.repository_id, u.digest, u.grantee, u.at_ms
FROM under u JOIN links l ON l.repository_id = u.repository_id AND l.digest = u.digest;

-- That a repository is public was kept apart where an import had opened it.
DELETE FROM grants WHERE origin = 'import';
INSERT OR IGNORE INTO grants (repository_id, credential_id, verified_at_ms, origin)
  SELECT repository_id, '', verified_at_ms, origin FROM grants WHERE credential_id = 'public';
DELETE FROM grants WHERE credential_id = 'public';
ALTER TABLE grants DROP COLUMN origin;

CREATE TRIGGER preloads_unlinked AFTER DELETE ON links BEGIN
  DELETE FROM preloads WHERE repository_id = old.repository_id AND digest = old.digest
    AND NOT EXISTS (SELECT 1 FROM links l WHERE l.repository_id = old.repository_id AND l.digest = old.digest);
END;
`;
