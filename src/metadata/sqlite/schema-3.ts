/** What is linked in each repository weighs so much, kept by triggers as all totals are: quotas ask for it with each push. */
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
