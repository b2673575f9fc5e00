/** Adds the row of a manifest's Link whose reading has a subject. */
const addReferrer = `
  INSERT INTO referrers (repository_id, digest, subject, artifact_type)
    SELECT new.repository_id, g.digest, g.subject, g.artifact_type FROM readings g
    WHERE g.digest = new.digest AND g.media_type = new.media_type AND g.subject IS NOT NULL;`;

const removeReferrer = `
  DELETE FROM referrers WHERE repository_id = old.repository_id AND digest = old.digest;`;

/**
 * Referrers by repository. Before, those of all repositories were searched for the subject: one tenant that pushed many
 * slowed down everybody's requests, and those for a type that it did not push most of all. Triggers keep the rows equal
 * to the linked readings that have a subject.
 */
export const SCHEMA_10 = `
CREATE TABLE referrers (
  repository_id INTEGER NOT NULL,
  digest TEXT NOT NULL,
  subject TEXT NOT NULL,
  artifact_type TEXT,
  PRIMARY KEY (repository_id, digest)
) STRICT, WITHOUT ROWID;
INSERT INTO referrers (repository_id, digest, subject, artifact_type)
  SELECT l.repository_id, l.digest, g.subject, g.artifact_type
  FROM readings g
  JOIN links l ON l.digest = g.digest AND l.kind = 'manifest' AND l.media_type = g.media_type
  WHERE g.subject IS NOT NULL;
CREATE INDEX referrers_by_subject ON referrers (repository_id, subject, digest);
CREATE INDEX referrers_by_type ON referrers (repository_id, subject, artifact_type, digest);
DROP INDEX readings_by_subject;

CREATE TRIGGER referrers_linked AFTER INSERT ON links WHEN new.kind = 'manifest' BEGIN
  ${addReferrer}
END;
CREATE TRIGGER referrers_replaced AFTER UPDATE OF media_type ON links WHEN old.media_type IS NOT new.media_type BEGIN
  ${removeReferrer}
  ${addReferrer}
END;
CREATE TRIGGER referrers_unlinked AFTER DELETE ON links WHEN old.kind = 'manifest' BEGIN
  ${removeReferrer}
END;
`;
