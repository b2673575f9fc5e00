/**
 * Before, a mere status code of upstream made Links and Grants: a login page at the wrong moment opened a private
 * repository, and an upstream that confirmed every digest was linked to what others had downloaded. So all Grants have
 * to be proved again. A Link of mirrored content may be wrong if another repository has the content, too, or if it was
 * stored for a minute before the Link was made: it still keeps the content, but gives no right until upstream proves
 * that the repository has it. Any other Link came with the content. Imports are trusted.
 */
export const SCHEMA_9 = `
ALTER TABLE links ADD COLUMN is_unproved INTEGER NOT NULL DEFAULT 0;
UPDATE links SET is_unproved = 1
WHERE repository_id IN (SELECT id FROM repositories WHERE upstream <> '')
  AND (EXISTS (SELECT 1 FROM links o WHERE o.digest = links.digest AND o.repository_id <> links.repository_id)
    OR EXISTS (
      SELECT 1 FROM blobs b
      WHERE b.digest = links.digest AND links.kind = 'blob' AND links.created_at_ms > b.created_at_ms + 60000))
  AND NOT EXISTS (SELECT 1 FROM preloads p WHERE p.repository_id = links.repository_id AND p.digest = links.digest);
DELETE FROM grants;
`;
