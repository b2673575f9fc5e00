/**
 * Claims become Leases with an epoch, which only grows. `process_id` NULL: nobody has it, and its ingest waits to be gone
 * on with. The uploads of an older program wait in this way too.
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
