/**
 * The servers of replicas, from their start until they stop. When the row of a process is removed, a trigger notes when its server
 * was last seen alive, even if a program of the previous version removes it. A server that stops removes both rows.
 */
export const SCHEMA_8 = `
CREATE TABLE @serving_replicas (
  address TEXT COLLATE "C" PRIMARY KEY,
  folder TEXT COLLATE "C" NOT NULL,
  process_id TEXT COLLATE "C" NOT NULL,
  gone_since TIMESTAMPTZ -- if it is gone without a word: when it has shown life last
);

CREATE FUNCTION @on_process_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE @serving_replicas SET gone_since = old.beat_at WHERE process_id = old.id;
  RETURN NULL;
END $$;
CREATE TRIGGER gone_replicas AFTER DELETE ON @processes FOR EACH ROW
WHEN (old.replica IS NOT NULL AND NOT old.is_thread) EXECUTE FUNCTION @on_process_removed();
`;
