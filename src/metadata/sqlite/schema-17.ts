/**
 * The outbox. Positions are never used again, so that a sender that was suspended cannot remove what it has not sent. The
 * counts of `outbox_endpoints` are kept by the same writes, since counting rows would take longer the more there are.
 */
export const SCHEMA_17 = `
CREATE TABLE outbox (
  position INTEGER PRIMARY KEY AUTOINCREMENT,
  endpoint TEXT NOT NULL,
  at_ms INTEGER NOT NULL,
  body TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_by_endpoint ON outbox (endpoint, position);
CREATE TABLE outbox_endpoints (
  endpoint TEXT PRIMARY KEY,
  waiting INTEGER NOT NULL,
  dropped INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`;
