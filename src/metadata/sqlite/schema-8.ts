/** When credentials were used and refused last: what people are told of them, and no right. */
export const SCHEMA_8 = `
CREATE TABLE credential_usage (
  credential_id TEXT PRIMARY KEY,
  used_at_ms INTEGER,
  refused_at_ms INTEGER
) STRICT, WITHOUT ROWID;
`;
