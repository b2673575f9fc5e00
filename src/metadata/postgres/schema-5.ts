/**
 * Which run of the server it is: a crash empties the table, since that is not logged. Transactions that the server has
 * forgotten in a crash leave their numbers to others.
 */
export const SCHEMA_5 = `
CREATE UNLOGGED TABLE @server_runs (
  is_current BOOLEAN PRIMARY KEY DEFAULT true CHECK (is_current),
  id UUID NOT NULL DEFAULT gen_random_uuid()
);
`;
