/**
 * Claims become Leases with an epoch, which only increases. A `process_id` of NULL means that nobody holds it, and its
 * ingest can be continued. The uploads of an older version become such Leases, too.
 */
export const SCHEMA_5 = `
CREATE TABLE leases (
  epoch INTEGER PRIMARY KEY AUTOINCREMENT,
  key TEXT NOT NULL UNIQUE,
  process_id TEXT
) STRICT;
INSERT INTO leases (key, process_id) SELECT key, process_id FROM claims;
INSERT INTO leases (key) SELECT 'upload-' || id FROM uploads WHERE true ON CONFLICT DO NOTHING;
CREATE INDEX leases_by_process ON leases (process_id);
DROP TABLE claims;
`;
