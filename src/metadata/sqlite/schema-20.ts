/**
 * Whether a Link keeps a manifest is answered from the index on its digest alone. It replaces the one without kind and media
 * type, so a Link costs as many writes as before.
 */
export const SCHEMA_20 = `
CREATE INDEX links_by_content ON links (digest, kind, media_type, repository_id);
DROP INDEX links_by_digest;
`;
