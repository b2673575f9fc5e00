import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { silentLog } from '../../src/lib/log.ts';
import { Database } from '../../src/metadata/sqlite/driver.ts';
import { openSqliteMetadataStore } from '../../src/metadata/sqlite-metadata-store.ts';
import type { Descriptor } from '../../src/oci/descriptor.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import type { Repository } from '../../src/oci/repository.ts';

/** Rows of a store, most of them without files. */
export interface ManyImages {
  /** Images are distributed over them in turn. */
  readonly repositories: readonly Repository[];
  /** Each has one tag, `v` and its number. */
  readonly images: number;
  /** The config and the layers of an image. Equal ones are one blob. */
  readonly blobsOf: (image: number) => readonly Descriptor[];
  /** Blobs that nothing needs. */
  readonly garbage?: readonly Descriptor[];
}

/** How many images become one transaction. */
const IMAGES_AT_ONCE = 5_000;
const USED_WITHIN_MS = 86_400_000;

/** Makes the index of a store in the folder `path`; returns the size of the last manifest. */
export async function fillSqlite(path: string, large: ManyImages): Promise<number> {
  const { repositories, images, blobsOf, garbage = [] } = large;
  await mkdir(path, { recursive: true });
  const index = join(path, 'index.db');
  const store = await openSqliteMetadataStore(index, { log: silentLog });
  for (const repository of repositories) {
    await store.putGrant(repository, { credentialId: '', verifiedAtMs: Date.now() });
  }
  await store.close();
  const database = new Database(index);
  database.pragma('synchronous = OFF');
  // Digests come in no order: without the trees in memory, every row would be read from disk first.
  database.pragma('cache_size = -500000');
  const ids = database.prepare('SELECT id FROM repositories ORDER BY upstream, name').pluck().all();
  const blob = database.prepare(
    'INSERT OR IGNORE INTO blobs (digest, size, created_at_ms, used_at_ms) VALUES (?, ?, ?, ?)',
  );
  const link = database.prepare(
    'INSERT OR IGNORE INTO links (repository_id, digest, kind, media_type, size, created_at_ms) VALUES (?, ?, ?, ?, ?, ?)',
  );
  const tag = database.prepare('INSERT INTO tags VALUES (?, ?, ?, ?)');
  const manifest = database.prepare(
    'INSERT INTO manifests (digest, created_at_ms, used_at_ms, size, bytes) VALUES (?, ?, ?, ?, ?)',
  );
  const reading = database.prepare(
    `INSERT INTO readings (digest, media_type, annotations) VALUES (?, ?, '{}')`,
  );
  const reference = database.prepare('INSERT INTO reading_references VALUES (?, ?, ?, ?, ?, ?)');
  const nowMs = Date.now();
  let size = 0;
  const put = (number: number): void => {
    const repository = ids[number % ids.length];
    const usedAtMs = nowMs - USED_WITHIN_MS + number;
    const blobs = blobsOf(number);
    const [config, ...layers] = blobs;
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_MANIFEST, config, layers }));
    const digest = digestOf(bytes);
    size = bytes.length;
    manifest.run(digest, usedAtMs, usedAtMs, size, bytes);
    const { lastInsertRowid } = reading.run(digest, OCI_MANIFEST);
    link.run(repository, digest, 'manifest', OCI_MANIFEST, size, usedAtMs);
    tag.run(repository, `v${number}`, digest, nowMs);
    for (const [position, each] of blobs.entries()) {
      const kind = each.mediaType === OCI_CONFIG ? 'config' : 'blob';
      blob.run(each.digest, each.size, usedAtMs, usedAtMs);
      link.run(repository, each.digest, 'blob', null, each.size, usedAtMs);
      reference.run(lastInsertRowid, position, kind, each.digest, each.size, each.mediaType);
    }
  };
  const putSome = database.transaction((first: number, last: number) => {
    for (let number = first; number < last; number += 1) put(number);
  });
  for (let first = 0; first < images; first += IMAGES_AT_ONCE) {
    putSome(first, Math.min(first + IMAGES_AT_ONCE, images));
  }
  const atMs = nowMs - USED_WITHIN_MS;
  database.transaction(() => {
    for (const each of garbage) blob.run(each.digest, each.size, atMs, atMs);
  })();
  database.close();
  return size;
}
