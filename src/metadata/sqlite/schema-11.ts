/** A stored list of upstream is named after the manifest that it is about. */
const REFERRERS_OF = `'referrers ' || `;

/**
 * Lists of referrers count as stored bytes, and are removed with the manifest they are about. Before, nothing counted or
 * removed them, so that an upstream's lists of up to 4 MiB each could fill the disk.
 */
export const SCHEMA_11 = `
DELETE FROM documents WHERE NOT EXISTS (
  SELECT 1 FROM links l JOIN manifests m ON m.digest = l.digest
  WHERE l.repository_id = documents.repository_id AND l.kind = 'manifest'
    AND l.digest = substr(documents.name, length(${REFERRERS_OF}'') + 1));
UPDATE totals SET manifest_bytes = manifest_bytes + (SELECT coalesce(sum(length(bytes)), 0) FROM documents);

CREATE TRIGGER documents_counted AFTER INSERT ON documents BEGIN
  UPDATE totals SET manifest_bytes = manifest_bytes + length(new.bytes);
END;
CREATE TRIGGER documents_recounted AFTER UPDATE OF bytes ON documents BEGIN
  UPDATE totals SET manifest_bytes = manifest_bytes + length(new.bytes) - length(old.bytes);
END;
CREATE TRIGGER documents_discounted AFTER DELETE ON documents BEGIN
  UPDATE totals SET manifest_bytes = manifest_bytes - length(old.bytes);
END;

CREATE TRIGGER documents_orphaned AFTER DELETE ON manifests BEGIN
  DELETE FROM documents
  WHERE name = ${REFERRERS_OF}old.digest
    AND repository_id IN (SELECT l.repository_id FROM links l WHERE l.digest = old.digest);
END;
CREATE TRIGGER documents_unlinked AFTER DELETE ON links WHEN old.kind = 'manifest' BEGIN
  DELETE FROM documents WHERE repository_id = old.repository_id AND name = ${REFERRERS_OF}old.digest;
END;
`;
