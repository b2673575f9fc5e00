/** Which process that is, for people: commands and the log name the holder of a Lease. Absent of an older version. */
export const SCHEMA_14 = `
ALTER TABLE processes ADD COLUMN address TEXT NOT NULL DEFAULT 'another process';
`;
