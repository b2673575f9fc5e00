/**
 * The first schema. Digests are stored as text, so that people can read them with the `sqlite3` program. Content that
 * upkeep visits in order of use has an index for that. Counts are rows that triggers update: no writer can forget them,
 * and nothing has to be counted. Text is compared by bytes, which gives the ASCII order that the spec requires.
 */
export const SCHEMA_1 = `
-- A row is there while something is linked, tagged, proved or remembered in the repository.
-- AUTOINCREMENT: the id of a removed repository, whose rows may still be swept, never comes back.
CREATE TABLE repositories (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  upstream TEXT NOT NULL,
  name TEXT NOT NULL,
  created_at_ms INTEGER NOT NULL,
  entries INTEGER NOT NULL DEFAULT 0, -- links and tags
  UNIQUE (upstream, name)
) STRICT;
CREATE INDEX repositories_with_entries ON repositories (upstream, name) WHERE entries > 0;

-- Repositories that were removed in one step, and whose rows still have to go.
CREATE TABLE removed_repositories (
  id INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE manifests (
  id INTEGER PRIMARY KEY,
  digest TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'index')),
  media_type TEXT NOT NULL,
  artifact_type TEXT,
  subject TEXT,
  annotations TEXT NOT NULL, -- JSON
  created_at_ms INTEGER NOT NULL,
  used_at_ms INTEGER NOT NULL,
  size INTEGER NOT NULL,
  bytes BLOB NOT NULL
) STRICT;
CREATE INDEX manifests_by_subject ON manifests (subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifests_by_use ON manifests (used_at_ms);

-- What a manifest names, in its order. A name proves nothing, and keeps the content from garbage collection.
CREATE TABLE manifest_references (
  manifest_id INTEGER NOT NULL REFERENCES manifests (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'config', 'blob')),
  digest TEXT NOT NULL,
  size INTEGER NOT NULL,
  media_type TEXT NOT NULL,
  PRIMARY KEY (manifest_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_references_by_digest ON manifest_references (digest, manifest_id);

-- Blobs that are held: verified and synced.
CREATE TABLE blobs (
  digest TEXT PRIMARY KEY,
  size INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL,
  used_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX blobs_by_use ON blobs (used_at_ms);

-- This content belongs to this repository, held or not. No foreign key: a repository is removed in one step and its
-- links afterwards, a few at a time.
CREATE TABLE links (
  repository_id INTEGER NOT NULL,
  digest TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'blob')),
  size INTEGER NOT NULL,
  created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (repository_id, digest, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by_digest ON links (digest, repository_id);

CREATE TABLE tags (
  repository_id INTEGER NOT NULL,
  tag TEXT NOT NULL,
  digest TEXT NOT NULL,
  checked_at_ms INTEGER NOT NULL,
  PRIMARY KEY (repository_id, tag)
) STRICT, WITHOUT ROWID;
CREATE INDEX tags_by_digest ON tags (digest, repository_id);

CREATE TABLE documents (
  repository_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  media_type TEXT NOT NULL,
  checked_at_ms INTEGER NOT NULL,
  bytes BLOB NOT NULL,
  PRIMARY KEY (repository_id, name)
) STRICT;

CREATE TABLE grants (
  repository_id INTEGER NOT NULL,
  credential_id TEXT NOT NULL,
  verified_at_ms INTEGER NOT NULL,
  origin TEXT NOT NULL CHECK (origin IN ('upstream', 'import')),
  PRIMARY KEY (repository_id, credential_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_by_credential ON grants (credential_id, repository_id);

-- What upkeep must not take: a tag or a digest of a repository.
CREATE TABLE pins (
  repository_id INTEGER NOT NULL,
  reference TEXT NOT NULL,
  created_at_ms INTEGER NOT NULL,
  PRIMARY KEY (repository_id, reference)
) STRICT, WITHOUT ROWID;

-- Blobs whose bytes were found damaged.
CREATE TABLE quarantine (
  digest TEXT PRIMARY KEY,
  found_at_ms INTEGER NOT NULL,
  reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE uploads (
  id TEXT PRIMARY KEY,
  upstream TEXT NOT NULL,
  name TEXT NOT NULL,
  requester TEXT NOT NULL,
  started_at_ms INTEGER NOT NULL,
  touched_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX uploads_by_repository ON uploads (upstream, name);
CREATE INDEX uploads_by_requester ON uploads (requester);
CREATE INDEX uploads_by_touch ON uploads (touched_at_ms);

-- One row per process on this store. Whether its number still grows says whether the process lives.
CREATE TABLE processes (
  id TEXT PRIMARY KEY,
  heartbeat INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE claims (
  key TEXT PRIMARY KEY,
  process_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_by_process ON claims (process_id);

CREATE TABLE announcements (
  topic TEXT PRIMARY KEY,
  version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE settings (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE totals (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  repositories INTEGER NOT NULL DEFAULT 0, -- with entries
  manifests INTEGER NOT NULL DEFAULT 0,
  manifest_bytes INTEGER NOT NULL DEFAULT 0,
  blobs INTEGER NOT NULL DEFAULT 0,
  blob_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO totals (id) VALUES (1);

CREATE TRIGGER blobs_counted AFTER INSERT ON blobs BEGIN
  UPDATE totals SET blobs = blobs + 1, blob_bytes = blob_bytes + new.size;
END;
CREATE TRIGGER blobs_discounted AFTER DELETE ON blobs BEGIN
  UPDATE totals SET blobs = blobs - 1, blob_bytes = blob_bytes - old.size;
END;
CREATE TRIGGER manifests_counted AFTER INSERT ON manifests BEGIN
  UPDATE totals SET manifests = manifests + 1, manifest_bytes = manifest_bytes + new.size;
END;
CREATE TRIGGER manifests_discounted AFTER DELETE ON manifests BEGIN
  UPDATE totals SET manifests = manifests - 1, manifest_bytes = manifest_bytes - old.size;
END;

CREATE TRIGGER links_counted AFTER INSERT ON links BEGIN
  UPDATE repositories SET entries = entries + 1 WHERE id = new.repository_id;
END;
CREATE TRIGGER links_discounted AFTER DELETE ON links BEGIN
  UPDATE repositories SET entries = entries - 1 WHERE id = old.repository_id;
END;
CREATE TRIGGER tags_counted AFTER INSERT ON tags BEGIN
  UPDATE repositories SET entries = entries + 1 WHERE id = new.repository_id;
END;
CREATE TRIGGER tags_discounted AFTER DELETE ON tags BEGIN
  UPDATE repositories SET entries = entries - 1 WHERE id = old.repository_id;
END;

CREATE TRIGGER repositories_counted AFTER UPDATE OF entries ON repositories WHEN old.entries = 0 AND new.entries > 0 BEGIN
  UPDATE totals SET repositories = repositories + 1;
END;
-- The last entry takes the repository with it: whoever makes it again starts with nothing.
CREATE TRIGGER repositories_emptied AFTER UPDATE OF entries ON repositories WHEN old.entries > 0 AND new.entries = 0 BEGIN
  UPDATE totals SET repositories = repositories - 1;
  DELETE FROM repositories WHERE id = new.id;
END;
CREATE TRIGGER repositories_removed AFTER DELETE ON repositories BEGIN
  UPDATE totals SET repositories = repositories - (old.entries > 0);
  INSERT INTO removed_repositories (id) VALUES (old.id);
END;
`;
