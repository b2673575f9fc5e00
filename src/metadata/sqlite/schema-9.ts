/**
 * Before, a mere status of upstream made Links and Grants: a login page at the right moment opened a private repository, and
 * an upstream that affirmed every digest was linked to what others had brought.
 *
 * So each Grant is proved anew. A Link of mirrored content that another repository has too, or that was held for a minute
 * before, may be of that kind: it keeps the content, and opens nothing before upstream has shown that the repository has it.
 * Any other came with the content; what an import brought, the operator vouches for.
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
