/**
 * An SQL condition: there is a row of `from`, which is a table with joins and conditions. OFFSET 0 keeps the planner from
 * joining or hashing a whole table for a page of rows: each row is looked up.
 */
export function exists(from: string): string {
  return `EXISTS (SELECT 1 FROM ${from} OFFSET 0)`;
}
