import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { imageOf, randomBlob } from '../../test/support/content.ts';
import { leaseOf } from '../lib/lease.suite.ts';
import type { IndexSource, IndexTarget } from '../metadata/index-tables.ts';
import { Connection } from '../metadata/sqlite/connection.ts';
import { openSqliteSource, openSqliteTarget } from '../metadata/sqlite-index-tables.ts';
import { digestHex } from '../oci/digest.ts';
import { ArchiveWorld } from './archive.fixture.ts';
import { StoreMigration } from './migration.ts';

const image = imageOf([randomBlob(1_000, 'layer')]);

let old: ArchiveWorld;
let made: ArchiveWorld;
let index: IndexSource;
let target: IndexTarget;
let migration: StoreMigration;

beforeEach(async () => {
  [old, made] = [
    await ArchiveWorld.open({ isIndexOnDisk: true }),
    await ArchiveWorld.open({ isIndexOnDisk: true }),
  ];
  await old.hold('docker.io/library/app:v1', image);
  index = await openSqliteSource(join(old.folder, 'index.db'));
  target = await openSqliteTarget(join(made.folder, 'index.db'), await leaseOf(made.metadata, 'migration'));
  migration = new StoreMigration({
    from: { blobs: old.blobs, index },
    to: { ...made.stores, index: target },
    signal: new AbortController().signal,
  });
});

afterEach(async () => {
  await Promise.all([index.close(), target.close()]);
  await Promise.all([old.remove(), made.remove()]);
});

const failure = (code: string) => Object.assign(new Error(code), { code });

it('ends if the new store cannot be written, and takes no content of the old one for damaged', async () => {
  vi.spyOn(made.spool, 'ingest').mockRejectedValue(failure('EACCES'));
  await expect(migration.copyBlobs()).rejects.toThrow('EACCES');
  expect(migration.lacking).toEqual([]);
});

it('goes on without a blob that the old store cannot open', async () => {
  const { digest } = image.layers[0]!;
  const open = old.blobs.open.bind(old.blobs);
  vi.spyOn(old.blobs, 'open').mockImplementation(async (...parameters) => {
    if (parameters[0] === digest) throw failure('EIO');
    return open(...parameters);
  });
  await migration.copyBlobs();
  expect(migration.lacking).toEqual([
    { kind: 'blob', digest, reason: 'its file cannot be read from the disk' },
  ]);
  expect(migration.copied.blobs).toBe(1);
});

it('moves no blob or manifest whose bytes are not those of its digest, and records the damage', async () => {
  const [{ digest: layer }, { digest: manifest }] = [image.layers[0]!, image.manifest];
  const file = join(old.folder, 'blobs', 'sha256', digestHex(layer).slice(0, 2), digestHex(layer));
  await chmod(file, 0o600);
  await writeFile(file, Buffer.alloc(1_000));
  const connection = await Connection.open(join(old.folder, 'index.db'));
  connection.prepare<[string]>('UPDATE manifests SET bytes = zeroblob(size) WHERE digest = ?').run(manifest);
  connection.close();
  await migration.complete();
  const reason = 'its content does not match the digest';
  expect(migration.lacking).toEqual([
    { kind: 'blob', digest: layer, reason },
    { kind: 'manifest', digest: manifest, reason },
  ]);
  expect(await made.blobs.stat(layer)).toBeUndefined();
  const { metadata } = made;
  expect(await metadata.statBlob(layer)).toBeUndefined();
  expect(await metadata.readManifestBytes(manifest)).toBeUndefined();
  for (const digest of [layer, manifest]) expect(await metadata.readDamage(digest)).toMatchObject({ reason });
});

it('moves the index as it is at one moment, whatever is written to the old one meanwhile', async () => {
  const later = imageOf([randomBlob(1_000, 'later')]);
  const add = target.add.bind(target);
  vi.spyOn(target, 'add').mockImplementationOnce(async (...rows) => {
    await old.hold('docker.io/library/app:v2', later);
    return add(...rows);
  });
  await migration.complete();
  const held = ({ metadata }: ArchiveWorld) =>
    Promise.all([image, later].map(({ manifest }) => metadata.readManifestBytes(manifest.digest)));
  expect(await held(old)).toEqual([expect.anything(), expect.anything()]);
  expect(await held(made)).toEqual([expect.anything(), undefined]);
});
