/** Epoch ms. */
const now = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

const giveUp = `
  INSERT INTO objects (key, digest, since_ms) VALUES (old.key, old.digest, ${now}) ON CONFLICT DO NOTHING;`;

/**
 * Blobs in a store of objects. A row names the key of its object, and is NULL for a file, whose digest says where it is.
 * `objects` has the keys that no row names: those that are about to be made, under the Lease with this epoch, and those
 * that are given up (no epoch) and have to be removed. Triggers give an object up when its row goes.
 */
export const SCHEMA_16 = `
ALTER TABLE blobs ADD COLUMN key TEXT;
CREATE TABLE objects (
  key TEXT PRIMARY KEY,
  digest TEXT NOT NULL,
  upload_id TEXT,
  epoch INTEGER,
  since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX objects_given_up ON objects (since_ms) WHERE epoch IS NULL;

CREATE TRIGGER objects_unnamed AFTER DELETE ON blobs WHEN old.key IS NOT NULL BEGIN
  ${giveUp}
END;
CREATE TRIGGER objects_replaced AFTER UPDATE OF key ON blobs WHEN old.key IS NOT NULL AND old.key IS NOT new.key BEGIN
  ${giveUp}
END;
`;
