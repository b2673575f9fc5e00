/**
 * Ends of rights, so that no other process records a right that upstream proved before. One slot for many rights: the
 * table does not grow.
 */
export const SCHEMA_19 = `
CREATE TABLE ended_rights (
  slot INTEGER PRIMARY KEY,
  ends INTEGER NOT NULL, -- how many there had been, with this one
  process_id TEXT NOT NULL -- whose ends these were; '' of several
) STRICT;
CREATE INDEX ended_rights_by_ends ON ended_rights (ends);
`;
