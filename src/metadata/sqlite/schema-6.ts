/** The first component of a hosted repository's name. */
const ownerOf = (name: string) => `substr(${name}, 1, instr(${name} || '/', '/') - 1)`;

const makeOwner = (name: string) =>
  `INSERT INTO owners (name) SELECT ${ownerOf(name)} WHERE NOT EXISTS (SELECT 1 FROM owners WHERE name = ${ownerOf(name)});`;

/**
 * How much each owner of hosted repositories uses: what is linked there, and what was and is still on disk until
 * garbage is collected. All are rows updated by triggers, since quotas need them with each push. Content that loses its
 * last Link counts for the owner of that Link, until its row is removed or somebody links it again. This is recorded
 * before the Link is deleted, while its repository still exists.
 */
export const SCHEMA_6 = `
CREATE TABLE owners (
  name TEXT PRIMARY KEY,
  repositories INTEGER NOT NULL DEFAULT 0,
  bytes INTEGER NOT NULL DEFAULT 0, -- linked
  uncollected_bytes INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
INSERT INTO owners (name, repositories, bytes)
  SELECT ${ownerOf('name')}, count(*), sum(bytes) FROM repositories WHERE upstream = '' GROUP BY 1;

CREATE TABLE uncollected (
  digest TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('manifest', 'blob')),
  owner TEXT NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (digest, kind)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER uncollected_weighed AFTER INSERT ON uncollected BEGIN
  UPDATE owners SET uncollected_bytes = uncollected_bytes + new.size WHERE name = new.owner;
END;
CREATE TRIGGER uncollected_lightened AFTER DELETE ON uncollected BEGIN
  UPDATE owners SET uncollected_bytes = uncollected_bytes - old.size WHERE name = old.owner;
END;

CREATE TRIGGER owners_enlarged AFTER INSERT ON repositories WHEN new.upstream = '' BEGIN
  ${makeOwner('new.name')}
  UPDATE owners SET repositories = repositories + 1 WHERE name = ${ownerOf('new.name')};
END;
CREATE TRIGGER owners_weighed AFTER UPDATE OF bytes ON repositories WHEN new.upstream = '' BEGIN
  UPDATE owners SET bytes = bytes + new.bytes - old.bytes WHERE name = ${ownerOf('new.name')};
END;
CREATE TRIGGER owners_lessened AFTER DELETE ON repositories WHEN old.upstream = '' BEGIN
  UPDATE owners SET repositories = repositories - 1, bytes = bytes - old.bytes WHERE name = ${ownerOf('old.name')};
END;

CREATE TRIGGER links_charged BEFORE DELETE ON links
WHEN NOT EXISTS (
    SELECT 1 FROM links l
    WHERE l.digest = old.digest AND l.kind = old.kind AND l.repository_id <> old.repository_id)
  AND (EXISTS (SELECT 1 FROM blobs WHERE digest = old.digest AND old.kind = 'blob')
    OR EXISTS (SELECT 1 FROM manifests WHERE digest = old.digest AND old.kind = 'manifest'))
BEGIN
  DELETE FROM uncollected WHERE digest = old.digest AND kind = old.kind;
  INSERT INTO uncollected (digest, kind, owner, size)
    SELECT old.digest, old.kind, ${ownerOf('r.name')}, old.size FROM repositories r
    WHERE r.id = old.repository_id AND r.upstream = '';
END;
CREATE TRIGGER links_discharged AFTER INSERT ON links BEGIN
  DELETE FROM uncollected WHERE digest = new.digest AND kind = new.kind;
END;
CREATE TRIGGER blobs_collected AFTER DELETE ON blobs BEGIN
  DELETE FROM uncollected WHERE digest = old.digest AND kind = 'blob';
END;
CREATE TRIGGER manifests_collected AFTER DELETE ON manifests BEGIN
  DELETE FROM uncollected WHERE digest = old.digest AND kind = 'manifest';
END;

ALTER TABLE repositories ADD COLUMN tags INTEGER NOT NULL DEFAULT 0;
UPDATE repositories SET tags = (SELECT count(*) FROM tags WHERE repository_id = repositories.id);
CREATE TRIGGER tags_numbered AFTER INSERT ON tags BEGIN
  UPDATE repositories SET tags = tags + 1 WHERE id = new.repository_id;
END;
CREATE TRIGGER tags_unnumbered AFTER DELETE ON tags BEGIN
  UPDATE repositories SET tags = tags - 1 WHERE id = old.repository_id;
END;
`;
