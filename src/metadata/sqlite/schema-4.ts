/** Deletes the readings of `digest` that no Link names, if another one is linked or the bytes are gone. */
const dropIdleReadings = (digest: string) => `
  DELETE FROM readings
  WHERE digest = ${digest}
    AND NOT EXISTS (
      SELECT 1 FROM links l
      WHERE l.digest = readings.digest AND l.kind = 'manifest' AND l.media_type = readings.media_type)
    AND (EXISTS (SELECT 1 FROM links l WHERE l.digest = ${digest} AND l.kind = 'manifest')
      OR NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = ${digest}));`;

/**
 * Readings: the same bytes under two media types are two manifests, which need different content. The bytes are stored
 * once, and each manifest's Link has the media type under which its repository reads them. A reading outlives damaged
 * bytes, since what it names is still needed, and is removed with bytes that are evicted or unneeded. A Link without a
 * media type has no reading: its manifest has to be stored again. So have those of an earlier version whose bytes were
 * damaged or evicted, since their media type was lost.
 */
export const SCHEMA_4 = `
CREATE TABLE readings (
  id INTEGER PRIMARY KEY,
  digest TEXT NOT NULL,
  media_type TEXT NOT NULL,
  artifact_type TEXT,
  subject TEXT,
  annotations TEXT NOT NULL, -- JSON
  UNIQUE (digest, media_type)
) STRICT;
INSERT INTO readings (id, digest, media_type, artifact_type, subject, annotations)
  SELECT id, digest, media_type, artifact_type, subject, annotations FROM manifests;

-- What a reading names, in its order. A name proves nothing, and keeps the content from garbage collection.
CREATE TABLE reading_references (
  reading_id INTEGER NOT NULL REFERENCES readings (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'config', 'blob')),
  digest TEXT NOT NULL,
  size INTEGER NOT NULL,
  media_type TEXT NOT NULL,
  PRIMARY KEY (reading_id, position)
) STRICT, WITHOUT ROWID;
INSERT INTO reading_references (reading_id, position, kind, digest, size, media_type)
  SELECT manifest_id, position, kind, digest, size, media_type FROM manifest_references;
DROP TABLE manifest_references;
CREATE INDEX reading_references_by_digest ON reading_references (digest, reading_id);
CREATE INDEX readings_by_subject ON readings (subject, digest) WHERE subject IS NOT NULL;

-- Of a manifest: names its reading, which is there.
ALTER TABLE links ADD COLUMN media_type TEXT;
UPDATE links SET media_type = (SELECT m.media_type FROM manifests m WHERE m.digest = links.digest)
  WHERE kind = 'manifest';
CREATE INDEX links_without_reading ON links (repository_id) WHERE kind = 'manifest' AND media_type IS NULL;

CREATE TABLE manifest_bytes (
  id INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE,
  created_at_ms INTEGER NOT NULL,
  used_at_ms INTEGER NOT NULL,
  size INTEGER NOT NULL,
  bytes BLOB NOT NULL
) STRICT;
INSERT INTO manifest_bytes (id, digest, created_at_ms, used_at_ms, size, bytes)
  SELECT id, digest, created_at_ms, used_at_ms, size, bytes FROM manifests;
DROP TABLE manifests;
ALTER TABLE manifest_bytes RENAME TO manifests;
CREATE INDEX manifests_by_use ON manifests (used_at_ms);
CREATE TRIGGER manifests_counted AFTER INSERT ON manifests BEGIN
  UPDATE totals SET manifests = manifests + 1, manifest_bytes = manifest_bytes + new.size;
END;
CREATE TRIGGER manifests_discounted AFTER DELETE ON manifests BEGIN
  UPDATE totals SET manifests = manifests - 1, manifest_bytes = manifest_bytes - old.size;
END;

CREATE TRIGGER readings_linked AFTER INSERT ON links WHEN new.kind = 'manifest' BEGIN
  ${dropIdleReadings('new.digest')}
END;
CREATE TRIGGER readings_replaced AFTER UPDATE OF media_type ON links WHEN old.media_type IS NOT new.media_type BEGIN
  ${dropIdleReadings('new.digest')}
END;
CREATE TRIGGER readings_unlinked AFTER DELETE ON links WHEN old.kind = 'manifest' BEGIN
  ${dropIdleReadings('old.digest')}
END;
`;
