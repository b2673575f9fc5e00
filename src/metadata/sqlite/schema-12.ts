/** What content of this size counts: MIN_COUNTED_BYTES when this was written, since a migration never changes. */
const counted = (size: string) => `max(${size}, 4096)`;

/**
 * Each Link, and content that is not collected yet, counts as a block at least. Before, small content counted by its
 * size, so that a tenant could fill the disk with tiny blobs.
 */
export const SCHEMA_12 = `
DROP TRIGGER links_weighed;
DROP TRIGGER links_lightened;
CREATE TRIGGER link_bytes_added AFTER INSERT ON links BEGIN
  UPDATE repositories SET bytes = bytes + ${counted('new.size')} WHERE id = new.repository_id;
END;
CREATE TRIGGER link_bytes_removed AFTER DELETE ON links BEGIN
  UPDATE repositories SET bytes = bytes - ${counted('old.size')} WHERE id = old.repository_id;
END;
-- The owners' sums follow by their trigger.
UPDATE repositories SET bytes = (
  SELECT coalesce(sum(${counted('size')}), 0) FROM links WHERE repository_id = repositories.id);

DROP TRIGGER uncollected_weighed;
DROP TRIGGER uncollected_lightened;
CREATE TRIGGER uncollected_bytes_added AFTER INSERT ON uncollected BEGIN
  UPDATE owners SET uncollected_bytes = uncollected_bytes + ${counted('new.size')} WHERE name = new.owner;
END;
CREATE TRIGGER uncollected_bytes_removed AFTER DELETE ON uncollected BEGIN
  UPDATE owners SET uncollected_bytes = uncollected_bytes - ${counted('old.size')} WHERE name = old.owner;
END;
UPDATE owners SET uncollected_bytes = u.bytes
  FROM (SELECT owner, sum(${counted('size')}) AS bytes FROM uncollected GROUP BY owner) u
  WHERE owners.name = u.owner;
`;
