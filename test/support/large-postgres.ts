import { silentLog } from '../../src/lib/log.ts';
import { openPostgresMetadataStore } from '../../src/metadata/postgres-metadata-store.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import type { Repository } from '../../src/oci/repository.ts';
import { sql } from './postgres.ts';

/** What a large store has. */
export interface LargeStore {
  readonly path: string;
  readonly repositories: readonly Repository[];
  readonly tags: number;
  readonly blobsPerManifest: number;
  readonly blobBytes: number;
  /** Blobs that nothing needs. */
  readonly garbage: number;
  readonly manifestType: string;
}

/** The same rows as in SQLite, made by the database. Returns the size of a manifest. */
export async function fillPostgres(settings: PostgresSettings, large: LargeStore): Promise<number> {
  const { path, repositories, tags, blobsPerManifest, blobBytes, garbage, manifestType } = large;
  const store = await openPostgresMetadataStore(settings, {
    log: silentLog,
    folder: { path, id: 'bench' },
  });
  for (const repository of repositories) {
    await store.putGrant(repository, { credentialId: '', verifiedAtMs: Date.now() });
  }
  await store.close();
  const nowMs = Date.now();
  const digest = (text: string) => `'sha256:' || encode(sha256(convert_to(${text}, 'UTF8')), 'hex')`;
  const layerType = 'application/vnd.oci.image.layer.v1.tar';
  const layer = (at: string) => `format('{"mediaType":"${layerType}","digest":"%s","size":${blobBytes}}',
    ${digest(`'blob ' || number || ' ' || ${at}`)})`;
  await sql(
    settings,
    `BEGIN;
    SET LOCAL session_replication_role = replica;
    SET LOCAL synchronous_commit = off;
    CREATE TEMPORARY TABLE images ON COMMIT DROP AS
      SELECT number, r.id AS repository_id, ${nowMs - 86_400_000} + number AS at_ms,
        convert_to(format('{"schemaVersion":2,"mediaType":"${manifestType}","config":%s,"layers":[%s]}', ${layer('0')},
          (SELECT string_agg(${layer('at')}, ',' ORDER BY at) FROM generate_series(1, ${blobsPerManifest - 1}) at)),
          'UTF8') AS bytes
      FROM generate_series(0, ${tags - 1}) number
      JOIN (SELECT id, row_number() OVER (ORDER BY upstream, name) - 1 AS at FROM @repositories) r
        ON r.at = number % ${repositories.length};
    ALTER TABLE images ADD digest TEXT COLLATE "C";
    UPDATE images SET digest = 'sha256:' || encode(sha256(bytes), 'hex');
    CREATE TEMPORARY TABLE layers ON COMMIT DROP AS
      SELECT i.number, i.repository_id, i.at_ms, at AS position, i.digest AS manifest,
        ${digest(`'blob ' || i.number || ' ' || at`)} AS digest
      FROM images i, generate_series(0, ${blobsPerManifest - 1}) at;
    INSERT INTO @manifests SELECT digest, at_ms, at_ms, length(bytes), bytes FROM images;
    INSERT INTO @readings (digest, media_type, annotations) SELECT digest, '${manifestType}', '{}' FROM images;
    INSERT INTO @links SELECT repository_id, digest, 'manifest', '${manifestType}', length(bytes), at_ms FROM images;
    INSERT INTO @tags SELECT repository_id, 'v' || number, digest, ${nowMs} FROM images;
    INSERT INTO @blobs SELECT digest, ${blobBytes}, NULL, at_ms, at_ms FROM layers;
    INSERT INTO @links SELECT repository_id, digest, 'blob', NULL, ${blobBytes}, at_ms FROM layers;
    INSERT INTO @reading_references
      SELECT g.id, l.position, 'blob', l.digest, ${blobBytes}, '${layerType}'
      FROM layers l JOIN @readings g ON g.digest = l.manifest;
    INSERT INTO @blobs
      SELECT ${digest(`'garbage ' || number`)}, ${blobBytes}, NULL, ${nowMs - 86_400_000}, ${nowMs - 86_400_000}
      FROM generate_series(1, ${garbage}) number;
    UPDATE @repositories r SET entries = l.links + t.tags, tags = t.tags, bytes = l.bytes
      FROM (SELECT repository_id, count(*) AS links, sum(greatest(size, 4096)) AS bytes FROM @links GROUP BY 1) l,
        (SELECT repository_id, count(*) AS tags FROM @tags GROUP BY 1) t
      WHERE r.id = l.repository_id AND r.id = t.repository_id;
    UPDATE @totals SET repositories = ${repositories.length}, manifests = ${tags},
      manifest_bytes = (SELECT sum(size) FROM @manifests), blobs = (SELECT count(*) FROM @blobs),
      blob_bytes = (SELECT sum(size) FROM @blobs) WHERE slot = 0;
    COMMIT`,
    { answerWithinMs: 1_800_000 },
  );
  for (const table of ['blobs', 'links', 'manifests', 'readings', 'reading_references', 'tags']) {
    await sql(settings, `VACUUM (ANALYZE) @${table}`, { answerWithinMs: 1_800_000 });
  }
  const rows = await sql<{ size: number }>(
    settings,
    'SELECT size FROM @manifests ORDER BY used_at_ms DESC LIMIT 1',
  );
  return rows[0]?.size ?? 0;
}
