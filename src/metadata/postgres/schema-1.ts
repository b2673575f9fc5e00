/**
 * The first schema. Digests are stored as text, so that people can read them with `psql`; text is compared by bytes, which
 * gives the ASCII order that the spec requires. Times are epoch ms, of the clocks of the processes; heartbeats, and the time
 * since which an object is given up that lost its row, are of the database's clock.
 *
 * Counts are rows that triggers update: no writer can forget them, and nothing has to be counted. What many transactions
 * count at once, the totals and those of an owner, has a row for each of 16 slots, of which a transaction takes the one
 * that its number says, so that hardly any two wait for each other; their sum counts. The entries of a repository are
 * counted in its own row, which every writer of Links and tags of the repository has locked anyway.
 */
export const SCHEMA_1 = `
-- A row is there while something is linked, tagged, proved or remembered in the repository. An id never comes back.
CREATE TABLE @repositories (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  upstream TEXT COLLATE "C" NOT NULL,
  name TEXT COLLATE "C" NOT NULL,
  created_at_ms BIGINT NOT NULL,
  entries BIGINT NOT NULL DEFAULT 0, -- links and tags
  tags BIGINT NOT NULL DEFAULT 0,
  bytes BIGINT NOT NULL DEFAULT 0, -- linked, as they count for quotas
  UNIQUE (upstream, name)
) WITH (fillfactor = 50);

-- Repositories that were removed in one step, and whose rows still have to go.
CREATE TABLE @removed_repositories (
  id BIGINT PRIMARY KEY,
  name TEXT COLLATE "C" -- of a hosted one
);

CREATE TABLE @manifests (
  digest TEXT COLLATE "C" PRIMARY KEY,
  created_at_ms BIGINT NOT NULL,
  used_at_ms BIGINT NOT NULL,
  size BIGINT NOT NULL,
  bytes BYTEA NOT NULL
);
CREATE INDEX manifests_by_use ON @manifests (used_at_ms, digest);

-- The same bytes under two media types are two manifests, which need different content.
CREATE TABLE @readings (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  digest TEXT COLLATE "C" NOT NULL,
  media_type TEXT COLLATE "C" NOT NULL,
  artifact_type TEXT COLLATE "C",
  subject TEXT COLLATE "C",
  annotations TEXT NOT NULL, -- JSON
  UNIQUE (digest, media_type)
);

-- What a reading names, in its order. A name proves nothing, and keeps the content from garbage collection.
CREATE TABLE @reading_references (
  reading_id BIGINT NOT NULL REFERENCES @readings (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('manifest', 'config', 'blob')),
  digest TEXT COLLATE "C" NOT NULL,
  size BIGINT NOT NULL,
  media_type TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (reading_id, position)
);
CREATE INDEX reading_references_by_digest ON @reading_references (digest, reading_id);

-- Blobs that are held: verified and durable. Without a key it is a file.
CREATE TABLE @blobs (
  digest TEXT COLLATE "C" PRIMARY KEY,
  size BIGINT NOT NULL,
  key TEXT COLLATE "C",
  created_at_ms BIGINT NOT NULL,
  used_at_ms BIGINT NOT NULL
);
CREATE INDEX blobs_by_use ON @blobs (used_at_ms, digest);

-- Objects that no row of a blob names: about to be made, under the Lease with this epoch, or given up (no epoch).
CREATE TABLE @objects (
  key TEXT COLLATE "C" PRIMARY KEY,
  digest TEXT COLLATE "C" NOT NULL,
  upload_id TEXT,
  epoch BIGINT,
  since_ms BIGINT NOT NULL
);
CREATE INDEX objects_given_up ON @objects (since_ms) WHERE epoch IS NULL;

-- This content belongs to this repository, held or not. No foreign key: a repository is removed in one step and its
-- links afterwards, a few at a time. The media type is that under which the repository reads a manifest; without one,
-- it has to be stored again.
CREATE TABLE @links (
  repository_id BIGINT NOT NULL,
  digest TEXT COLLATE "C" NOT NULL,
  kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('manifest', 'blob')),
  media_type TEXT COLLATE "C",
  size BIGINT NOT NULL,
  created_at_ms BIGINT NOT NULL,
  PRIMARY KEY (repository_id, digest, kind)
);
CREATE INDEX links_by_digest ON @links (digest, repository_id);

CREATE TABLE @tags (
  repository_id BIGINT NOT NULL,
  tag TEXT COLLATE "C" NOT NULL,
  digest TEXT COLLATE "C" NOT NULL,
  checked_at_ms BIGINT NOT NULL,
  PRIMARY KEY (repository_id, tag)
);
CREATE INDEX tags_by_digest ON @tags (digest, repository_id, tag);

-- The linked readings that have a subject.
CREATE TABLE @referrers (
  repository_id BIGINT NOT NULL,
  digest TEXT COLLATE "C" NOT NULL,
  subject TEXT COLLATE "C" NOT NULL,
  artifact_type TEXT COLLATE "C",
  PRIMARY KEY (repository_id, digest)
);
CREATE INDEX referrers_by_subject ON @referrers (repository_id, subject, digest);
CREATE INDEX referrers_by_type ON @referrers (repository_id, subject, artifact_type, digest);

-- Upstream's lists of referrers.
CREATE TABLE @documents (
  repository_id BIGINT NOT NULL,
  subject TEXT COLLATE "C" NOT NULL,
  media_type TEXT NOT NULL,
  checked_at_ms BIGINT NOT NULL,
  bytes BYTEA NOT NULL,
  PRIMARY KEY (repository_id, subject)
);

CREATE TABLE @grants (
  repository_id BIGINT NOT NULL,
  credential_id TEXT COLLATE "C" NOT NULL,
  verified_at_ms BIGINT NOT NULL,
  PRIMARY KEY (repository_id, credential_id)
);
CREATE INDEX grants_by_credential ON @grants (credential_id, repository_id);

-- What was imported, and for whom ('': everybody).
CREATE TABLE @preloads (
  repository_id BIGINT NOT NULL,
  digest TEXT COLLATE "C" NOT NULL,
  grantee TEXT COLLATE "C" NOT NULL,
  created_at_ms BIGINT NOT NULL,
  PRIMARY KEY (repository_id, digest, grantee)
);
CREATE INDEX preloads_by_grantee ON @preloads (grantee, repository_id, digest);

-- What upkeep must not take: a tag or a digest of a repository.
CREATE TABLE @pins (
  repository_id BIGINT NOT NULL,
  reference TEXT COLLATE "C" NOT NULL,
  created_at_ms BIGINT NOT NULL,
  PRIMARY KEY (repository_id, reference)
);

-- Content whose bytes were found damaged.
CREATE TABLE @quarantine (
  digest TEXT COLLATE "C" PRIMARY KEY,
  found_at_ms BIGINT NOT NULL,
  reason TEXT NOT NULL
);

CREATE TABLE @uploads (
  id TEXT COLLATE "C" PRIMARY KEY,
  upstream TEXT COLLATE "C" NOT NULL,
  name TEXT COLLATE "C" NOT NULL,
  requester TEXT COLLATE "C" NOT NULL,
  started_at_ms BIGINT NOT NULL,
  touched_at_ms BIGINT NOT NULL
);
CREATE INDEX uploads_by_repository ON @uploads (upstream, name);
CREATE INDEX uploads_by_requester ON @uploads (requester);
CREATE INDEX uploads_by_touch ON @uploads (touched_at_ms);

-- One row per live process. The time is the database's, the only clock that all processes share.
CREATE TABLE @processes (
  id TEXT COLLATE "C" PRIMARY KEY,
  address TEXT NOT NULL, -- for people
  folder TEXT NOT NULL, -- the store's folder, by its id
  is_thread BOOLEAN NOT NULL,
  beat_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

-- Held while its process has a row; without a process, its work can be continued. The sequence gives no epoch twice.
CREATE TABLE @leases (
  epoch BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key TEXT COLLATE "C" NOT NULL UNIQUE,
  process_id TEXT COLLATE "C",
  -- Of the keys fill-<upstream>-<algorithm>-<hex> and import-<algorithm>-<hex>.
  stored_digest TEXT COLLATE "C" GENERATED ALWAYS AS (
    replace(substring(key FROM '^(?:fill-.*|import)-([a-z0-9]+-[0-9a-f]+)$'), '-', ':')) STORED
);
CREATE INDEX leases_by_process ON @leases (process_id);
CREATE INDEX leases_by_digest ON @leases (stored_digest) WHERE stored_digest IS NOT NULL;

CREATE TABLE @announcements (
  topic TEXT COLLATE "C" PRIMARY KEY,
  version BIGINT NOT NULL
);

-- What is still to be sent. Positions increase in the order of the transactions, each of which locks the endpoint's row.
CREATE TABLE @outbox (
  position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  endpoint TEXT COLLATE "C" NOT NULL,
  at_ms BIGINT NOT NULL,
  body TEXT NOT NULL
);
CREATE INDEX outbox_by_endpoint ON @outbox (endpoint, position);
CREATE TABLE @outbox_endpoints (
  endpoint TEXT COLLATE "C" PRIMARY KEY,
  waiting BIGINT NOT NULL,
  dropped BIGINT NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE @settings (
  name TEXT COLLATE "C" PRIMARY KEY,
  value TEXT NOT NULL
);

CREATE TABLE @known_tenants (
  name TEXT COLLATE "C" PRIMARY KEY,
  uid TEXT
);

-- Without an end, they never end.
CREATE TABLE @issued_credentials (
  id TEXT COLLATE "C" PRIMARY KEY,
  tenant TEXT NOT NULL,
  username TEXT NOT NULL,
  server TEXT NOT NULL,
  read_only BOOLEAN NOT NULL,
  issued_at_ms BIGINT NOT NULL,
  ends_at_ms BIGINT
);

-- Only for people.
CREATE TABLE @credential_usage (
  credential_id TEXT COLLATE "C" PRIMARY KEY,
  used_at_ms BIGINT,
  refused_at_ms BIGINT
);

-- The sum is another one after every write that a pull may depend on.
CREATE TABLE @versions (
  slot INTEGER PRIMARY KEY,
  version BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO @versions (slot) SELECT generate_series(0, 15);

CREATE TABLE @totals (
  slot INTEGER PRIMARY KEY,
  repositories BIGINT NOT NULL DEFAULT 0, -- with entries
  manifests BIGINT NOT NULL DEFAULT 0,
  manifest_bytes BIGINT NOT NULL DEFAULT 0, -- with documents
  blobs BIGINT NOT NULL DEFAULT 0,
  blob_bytes BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO @totals (slot) SELECT generate_series(0, 15);

-- How much each owner of hosted repositories uses: what is linked there, and what was and is stored until it is collected.
CREATE TABLE @owners (
  name TEXT COLLATE "C" NOT NULL,
  slot INTEGER NOT NULL,
  repositories BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  uncollected_bytes BIGINT NOT NULL,
  PRIMARY KEY (name, slot)
) WITH (fillfactor = 50);

-- Content that has lost its last Link counts for the owner of that until its row is removed or somebody links it again.
CREATE TABLE @uncollected (
  digest TEXT COLLATE "C" NOT NULL,
  kind TEXT COLLATE "C" NOT NULL,
  owner TEXT COLLATE "C" NOT NULL,
  size BIGINT NOT NULL,
  PRIMARY KEY (digest, kind)
);

-- What content of this size counts for a quota: at least a block.
CREATE FUNCTION @counted(size BIGINT) RETURNS BIGINT LANGUAGE SQL IMMUTABLE AS 'SELECT greatest(size, 4096)';

-- The first component of a hosted repository's name.
CREATE FUNCTION @owner_of(name TEXT) RETURNS TEXT LANGUAGE SQL IMMUTABLE AS 'SELECT split_part(name, ''/'', 1)';

CREATE FUNCTION @own_slot() RETURNS INTEGER LANGUAGE SQL AS 'SELECT (pg_current_xact_id()::text::bigint % 16)::integer';

CREATE FUNCTION @count_owned(owner TEXT, more_repositories BIGINT, more_bytes BIGINT, more_uncollected BIGINT)
RETURNS void LANGUAGE SQL AS $$
  INSERT INTO @owners AS o (name, slot, repositories, bytes, uncollected_bytes)
  VALUES (owner, @own_slot(), more_repositories, more_bytes, more_uncollected)
  ON CONFLICT (name, slot) DO UPDATE SET
    repositories = o.repositories + excluded.repositories,
    bytes = o.bytes + excluded.bytes,
    uncollected_bytes = o.uncollected_bytes + excluded.uncollected_bytes
$$;

-- Deletes the readings of a manifest that no Link names, if another one is linked or the bytes are gone.
CREATE FUNCTION @drop_idle_readings(manifest TEXT) RETURNS void LANGUAGE SQL AS $$
  DELETE FROM @readings g
  WHERE g.digest = manifest
    AND NOT EXISTS (
      SELECT 1 FROM @links l
      WHERE l.digest = g.digest AND l.kind = 'manifest' AND l.media_type = g.media_type)
    AND (EXISTS (SELECT 1 FROM @links l WHERE l.digest = manifest AND l.kind = 'manifest')
      OR NOT EXISTS (SELECT 1 FROM @manifests m WHERE m.digest = manifest))
$$;

CREATE FUNCTION @add_referrer(repository BIGINT, manifest TEXT, type TEXT) RETURNS void LANGUAGE SQL AS $$
  INSERT INTO @referrers (repository_id, digest, subject, artifact_type)
  SELECT repository, g.digest, g.subject, g.artifact_type FROM @readings g
  WHERE g.digest = manifest AND g.media_type = type AND g.subject IS NOT NULL
$$;

CREATE FUNCTION @on_link_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE @repositories SET entries = entries + 1, bytes = bytes + @counted(new.size) WHERE id = new.repository_id;
  DELETE FROM @uncollected WHERE digest = new.digest AND kind = new.kind;
  IF new.kind = 'manifest' THEN
    IF EXISTS (SELECT 1 FROM @readings g WHERE g.digest = new.digest AND g.media_type IS DISTINCT FROM new.media_type) THEN
      PERFORM @drop_idle_readings(new.digest);
    END IF;
    PERFORM @add_referrer(new.repository_id, new.digest, new.media_type);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER on_inserted AFTER INSERT ON @links FOR EACH ROW EXECUTE FUNCTION @on_link_inserted();

CREATE FUNCTION @on_link_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF new.size <> old.size THEN
    UPDATE @repositories SET bytes = bytes + @counted(new.size) - @counted(old.size) WHERE id = new.repository_id;
  END IF;
  IF new.media_type IS DISTINCT FROM old.media_type THEN
    PERFORM @drop_idle_readings(new.digest);
    DELETE FROM @referrers WHERE repository_id = old.repository_id AND digest = old.digest;
    PERFORM @add_referrer(new.repository_id, new.digest, new.media_type);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER on_updated AFTER UPDATE OF size, media_type ON @links FOR EACH ROW
WHEN (new.size <> old.size OR new.media_type IS DISTINCT FROM old.media_type) EXECUTE FUNCTION @on_link_updated();

CREATE FUNCTION @on_link_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  repository TEXT; -- the name of a hosted one
BEGIN
  IF NOT EXISTS (SELECT 1 FROM @links l WHERE l.digest = old.digest AND l.kind = old.kind)
    AND (EXISTS (SELECT 1 FROM @blobs WHERE digest = old.digest AND old.kind = 'blob')
      OR EXISTS (SELECT 1 FROM @manifests WHERE digest = old.digest AND old.kind = 'manifest'))
  THEN
    DELETE FROM @uncollected WHERE digest = old.digest AND kind = old.kind;
    SELECT name INTO repository FROM @repositories WHERE id = old.repository_id AND upstream = '';
    IF repository IS NULL THEN
      SELECT name INTO repository FROM @removed_repositories WHERE id = old.repository_id;
    END IF;
    IF repository IS NOT NULL THEN
      INSERT INTO @uncollected (digest, kind, owner, size)
      VALUES (old.digest, old.kind, @owner_of(repository), old.size);
    END IF;
  END IF;
  IF old.kind = 'manifest' THEN
    PERFORM @drop_idle_readings(old.digest);
    DELETE FROM @referrers WHERE repository_id = old.repository_id AND digest = old.digest;
    DELETE FROM @documents WHERE repository_id = old.repository_id AND subject = old.digest;
  END IF;
  DELETE FROM @preloads WHERE repository_id = old.repository_id AND digest = old.digest
    AND NOT EXISTS (SELECT 1 FROM @links l WHERE l.repository_id = old.repository_id AND l.digest = old.digest);
  UPDATE @repositories SET entries = entries - 1, bytes = bytes - @counted(old.size) WHERE id = old.repository_id;
  RETURN NULL;
END $$;
CREATE TRIGGER on_deleted AFTER DELETE ON @links FOR EACH ROW EXECUTE FUNCTION @on_link_deleted();

CREATE FUNCTION @on_tag_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF tg_op = 'INSERT' THEN
    UPDATE @repositories SET entries = entries + 1, tags = tags + 1 WHERE id = new.repository_id;
  ELSE
    UPDATE @repositories SET entries = entries - 1, tags = tags - 1 WHERE id = old.repository_id;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER on_changed AFTER INSERT OR DELETE ON @tags FOR EACH ROW EXECUTE FUNCTION @on_tag_changed();

CREATE FUNCTION @on_repository_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  more_bytes BIGINT := 0;
  more_repositories BIGINT := 0;
  more_with_entries BIGINT := 0;
BEGIN
  IF tg_op <> 'DELETE' THEN
    more_bytes := new.bytes;
    more_repositories := 1;
    more_with_entries := (new.entries > 0)::integer;
  END IF;
  IF tg_op <> 'INSERT' THEN
    more_bytes := more_bytes - old.bytes;
    more_repositories := more_repositories - 1;
    more_with_entries := more_with_entries - (old.entries > 0)::integer;
  END IF;
  IF coalesce(new.upstream, old.upstream) = '' AND (more_bytes <> 0 OR more_repositories <> 0) THEN
    PERFORM @count_owned(@owner_of(coalesce(new.name, old.name)), more_repositories, more_bytes, 0);
  END IF;
  IF more_with_entries <> 0 THEN
    UPDATE @totals SET repositories = repositories + more_with_entries WHERE slot = @own_slot();
  END IF;
  IF tg_op = 'DELETE' THEN
    INSERT INTO @removed_repositories (id, name)
    VALUES (old.id, CASE WHEN old.upstream = '' THEN old.name END);
  ELSIF tg_op = 'UPDATE' AND old.entries > 0 AND new.entries = 0 THEN
    -- The last entry takes the repository with it: whoever makes it again starts with nothing.
    DELETE FROM @repositories WHERE id = new.id AND entries = 0;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER on_changed AFTER INSERT OR UPDATE OR DELETE ON @repositories
FOR EACH ROW EXECUTE FUNCTION @on_repository_changed();

CREATE FUNCTION @on_uncollected_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF tg_op = 'INSERT' THEN
    PERFORM @count_owned(new.owner, 0, 0, @counted(new.size));
  ELSE
    PERFORM @count_owned(old.owner, 0, 0, -@counted(old.size));
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER on_changed AFTER INSERT OR DELETE ON @uncollected
FOR EACH ROW EXECUTE FUNCTION @on_uncollected_changed();

CREATE FUNCTION @on_blob_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF tg_op = 'INSERT' THEN
    UPDATE @totals SET blobs = blobs + 1, blob_bytes = blob_bytes + new.size WHERE slot = @own_slot();
    RETURN NULL;
  END IF;
  -- An object whose row goes, or names another one, has to be removed.
  IF old.key IS NOT NULL AND (tg_op = 'DELETE' OR new.key IS DISTINCT FROM old.key) THEN
    INSERT INTO @objects (key, digest, since_ms)
    VALUES (old.key, old.digest, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) ON CONFLICT DO NOTHING;
  END IF;
  IF tg_op = 'DELETE' THEN
    UPDATE @totals SET blobs = blobs - 1, blob_bytes = blob_bytes - old.size WHERE slot = @own_slot();
    DELETE FROM @uncollected WHERE digest = old.digest AND kind = 'blob';
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER on_changed AFTER INSERT OR UPDATE OF key OR DELETE ON @blobs
FOR EACH ROW EXECUTE FUNCTION @on_blob_changed();

CREATE FUNCTION @on_manifest_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF tg_op = 'INSERT' THEN
    UPDATE @totals SET manifests = manifests + 1, manifest_bytes = manifest_bytes + new.size WHERE slot = @own_slot();
  ELSE
    UPDATE @totals SET manifests = manifests - 1, manifest_bytes = manifest_bytes - old.size WHERE slot = @own_slot();
    DELETE FROM @uncollected WHERE digest = old.digest AND kind = 'manifest';
    DELETE FROM @documents
    WHERE subject = old.digest
      AND repository_id IN (SELECT l.repository_id FROM @links l WHERE l.digest = old.digest);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER on_changed AFTER INSERT OR DELETE ON @manifests
FOR EACH ROW EXECUTE FUNCTION @on_manifest_changed();

CREATE FUNCTION @on_document_changed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  more BIGINT := 0;
BEGIN
  IF tg_op <> 'DELETE' THEN more := length(new.bytes); END IF;
  IF tg_op <> 'INSERT' THEN more := more - length(old.bytes); END IF;
  UPDATE @totals SET manifest_bytes = manifest_bytes + more WHERE slot = @own_slot();
  RETURN NULL;
END $$;
CREATE TRIGGER on_changed AFTER INSERT OR UPDATE OF bytes OR DELETE ON @documents
FOR EACH ROW EXECUTE FUNCTION @on_document_changed();
`;
