/** The size of what is linked in each repository, updated by triggers, since quotas need it with each push. */
export const SCHEMA_3 = `
ALTER TABLE repositories ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE repositories SET bytes = (SELECT coalesce(sum(size), 0) FROM links WHERE repository_id = repositories.id);

CREATE TRIGGER links_weighed AFTER INSERT ON links BEGIN
  UPDATE repositories SET bytes = bytes + new.size WHERE id = new.repository_id;
END;
CREATE TRIGGER links_lightened AFTER DELETE ON links BEGIN
  UPDATE repositories SET bytes = bytes - old.size WHERE id = old.repository_id;
END;
`;
