/** What content of this size counts: MIN_COUNTED_BYTES when this was written, since a migration never changes. */
const counted = (size: string) => `max(${size}, 4096)`;

/**
 * One update of a repository's row for each Link and tag. Before, there were two, which was a tenth of the work of
 * storing a manifest. And readings are searched for idle ones only if the manifest has more than the one that was just
 * linked.
 */
export const SCHEMA_13 = `
DROP TRIGGER links_counted;
DROP TRIGGER link_bytes_added;
CREATE TRIGGER links_added AFTER INSERT ON links BEGIN
  UPDATE repositories SET entries = entries + 1, bytes = bytes + ${counted('new.size')} WHERE id = new.repository_id;
END;
DROP TRIGGER links_discounted;
DROP TRIGGER link_bytes_removed;
CREATE TRIGGER links_removed AFTER DELETE ON links BEGIN
  UPDATE repositories SET entries = entries - 1, bytes = bytes - ${counted('old.size')} WHERE id = old.repository_id;
END;

DROP TRIGGER tags_counted;
DROP TRIGGER tags_numbered;
CREATE TRIGGER tags_added AFTER INSERT ON tags BEGIN
  UPDATE repositories SET entries = entries + 1, tags = tags + 1 WHERE id = new.repository_id;
END;
DROP TRIGGER tags_discounted;
DROP TRIGGER tags_unnumbered;
CREATE TRIGGER tags_removed AFTER DELETE ON tags BEGIN
  UPDATE repositories SET entries = entries - 1, tags = tags - 1 WHERE id = old.repository_id;
END;

DROP TRIGGER readings_linked;
CREATE TRIGGER readings_linked AFTER INSERT ON links
WHEN new.kind = 'manifest' AND EXISTS (
  SELECT 1 FROM readings g WHERE g.digest = new.digest AND g.media_type IS NOT new.media_type)
BEGIN
  DELETE FROM readings
  WHERE digest = new.digest
    AND NOT EXISTS (
      SELECT 1 FROM links l
      WHERE l.digest = readings.digest AND l.kind = 'manifest' AND l.media_type = readings.media_type);
END;
`;
