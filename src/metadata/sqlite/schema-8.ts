/** When credentials were last used and refused. Only for people; it affects no right. */
export const SCHEMA_8 = `
CREATE TABLE credential_usage (
  credential_id TEXT PRIMARY KEY,
  used_at_ms INTEGER,
  refused_at_ms INTEGER
) STRICT, WITHOUT ROWID;
`;
