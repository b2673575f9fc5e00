/**
 * Tenants that are recorded in the store, and credentials that were issued to them. An `ends_at_ms` of NULL means
 * never.
 */
export const SCHEMA_2 = `
CREATE TABLE known_tenants (
  name TEXT PRIMARY KEY,
  uid TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE issued_credentials (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  username TEXT NOT NULL,
  server TEXT NOT NULL,
  read_only INTEGER NOT NULL,
  issued_at_ms INTEGER NOT NULL,
  ends_at_ms INTEGER
) STRICT, WITHOUT ROWID;
`;
