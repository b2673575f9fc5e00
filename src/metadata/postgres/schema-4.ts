/**
 * Ends of rights, so that no other process records a right that upstream proved before. One slot for many rights: the
 * table does not grow.
 */
export const SCHEMA_4 = `
CREATE TABLE @ended_rights (
  slot INTEGER PRIMARY KEY,
  ends BIGINT NOT NULL, -- how many there had been, with this one
  process_id TEXT COLLATE "C" NOT NULL -- whose ends these were; '' of several
);
CREATE INDEX ended_rights_by_ends ON @ended_rights (ends);
`;
