import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, readdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { leaseOf } from '../lib/lease.suite.ts';
import { isLeased, LeaseLost, type Presence, PresenceEnded } from '../lib/lease.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { digestOf } from '../oci/digest.ts';
import type { Repository } from '../oci/repository.ts';
import { image, type MetadataPlace, metadataStoreSuite } from './metadata-store.suite.ts';
import { MIN_COUNTED_BYTES } from '../oci/counted-bytes.ts';
import { IndexLost } from './index-lost.ts';
import { IndexUnusable } from './index-unusable.ts';
import { damagedManifest } from './manifest-check.ts';
import { outboxSuite } from './outbox.suite.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';
import { Connection } from './sqlite/connection.ts';
import { MIGRATIONS, migrate } from './sqlite/migrations.ts';
import { Heartbeat } from './sqlite/heartbeat.ts';
import { Database } from './sqlite/driver.ts';
import { Writer, type WriteOptions } from './sqlite/writer.ts';

async function makePlace(): Promise<MetadataPlace> {
  const place = await mkdtemp(join(tmpdir(), 'entrepot-index-'));
  const clock = new ManualClock();
  return {
    open: () => openSqliteMetadataStore(join(place, 'index.db'), { log: silentLog, clock }),
    passSecond: () => clock.advance(BEAT_MS),
    remove: () => rm(place, { recursive: true }),
  };
}

metadataStoreSuite(makePlace);
outboxSuite(makePlace);

/** How often a process writes its heartbeat. */
const BEAT_MS = 1_000;
const REPOSITORY = { upstream: '', name: 'team/app' };
const DIGEST = digestOf(Buffer.from('blob'));
/** Uses wait for no longer to be written. */
const FLUSHED_MS = 10_000;

let folder: string;
let path: string;
let children: ChildProcess[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-index-'));
  path = join(folder, 'index.db');
  children = [];
});

afterEach(async () => {
  children.forEach(child => child.kill('SIGKILL'));
  await rm(folder, { recursive: true });
});

test('acknowledged writes are on disk: WAL with a sync at each commit, and without waiting inside SQLite', async () => {
  const connection = await Connection.open(path);
  expect(connection.pragma('synchronous')).toBe(2);
  expect(connection.pragma('foreign_keys')).toBe(1);
  expect(connection.pragma('busy_timeout')).toBe(0);
  expect(connection.pragma('wal_autocheckpoint')).toBe(1000);
  connection.close();
  expect(look(database => database.pragma('journal_mode', { simple: true }))).toBe('wal');
});

test('what means nothing after a power failure is committed without a sync, but never together with what does', async () => {
  const connection = await Connection.open(path);
  const writer = new Writer(connection);
  const syncs: unknown[] = [];
  const note = () => void syncs.push(connection.pragma('synchronous'));
  await writer.write(note, { outlivesPower: false });
  await writer.write(note);
  await Promise.all([writer.write(note, { outlivesPower: false }), writer.write(note)]);
  expect(syncs).toEqual([1, 2, 2, 2]);
  connection.close();
});

test('Leases are acquired without a sync, and no epoch is used again after a power failure', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const synced = join(folder, 'synced.db');
  for (const end of ['', '-wal']) await copyFile(path + end, synced + end);
  const sync = vi.spyOn(Connection.prototype, 'syncsCommits', 'set');
  const lost = await Promise.all(['fill-1', 'fill-2'].map(key => store.acquireLease(key)));
  expect(sync.mock.calls.flat()).not.toContain(true);
  sync.mockRestore();
  await store.close();
  const left = await openSqliteMetadataStore(synced, { log: silentLog });
  const next = await left.acquireLease('fill-1');
  expect(next?.left).toBeUndefined();
  expect(next?.epoch).toBeGreaterThan(Math.max(...lost.map(lease => lease?.epoch ?? Infinity)));
  await left.close();
});

test('no epoch is used again after a power failure that made the index forget that a suspended process was back', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const synced = join(folder, 'synced.db');
  for (const end of ['', '-wal']) await copyFile(path + end, synced + end);
  look(database => database.exec('DELETE FROM processes'));
  const lost = await store.acquireLease('fill-1');
  await store.close();
  const left = await openSqliteMetadataStore(synced, { log: silentLog });
  expect((await left.acquireLease('fill-1'))?.epoch).toBeGreaterThan(lost?.epoch ?? Infinity);
  await left.close();
});

test.each(MIGRATIONS.map((_, version) => version))(
  'an index of version %i is migrated to the newest',
  async version => {
    const connection = await Connection.open(path);
    await migrate(connection, MIGRATIONS.slice(0, version));
    expect(connection.pragma('user_version')).toBe(version);
    connection.close();
    const store = await openSqliteMetadataStore(path, { log: silentLog });
    await store.putBlob(DIGEST, 4, REPOSITORY);
    expect(await store.statBlob(DIGEST)).toEqual({ size: 4 });
    await store.close();
    expect(look(database => database.pragma('user_version', { simple: true }))).toBe(MIGRATIONS.length);
  },
);

test('an index with one reading for all gets one for each repository, and keeps what damaged manifests may need', async () => {
  const connection = await Connection.open(path);
  await migrate(connection, MIGRATIONS.slice(0, 3));
  const [held, subject, layer, damaged, loose] = ['held', 'subject', 'layer', 'damaged', 'loose'].map(text =>
    digestOf(Buffer.from(text)),
  );
  connection.execute(`
    INSERT INTO repositories (id, upstream, name, created_at_ms)
      VALUES (1, '', 'team/app', 1), (2, 'docker.io', 'a', 1), (3, '', 'team/maimed', 1);
    INSERT INTO manifests
      (id, digest, kind, media_type, artifact_type, subject, annotations, created_at_ms, used_at_ms, size, bytes)
      VALUES (7, '${held}', 'manifest', 'a/b', 'sig', '${subject}', '{"made":"here"}', 2, 3, 4, x'68656c64');
    INSERT INTO manifest_references (manifest_id, position, kind, digest, size, media_type)
      VALUES (7, 0, 'config', '${layer}', 20, 'c/d');
    INSERT INTO links (repository_id, digest, kind, size, created_at_ms)
      VALUES (1, '${held}', 'manifest', 4, 1), (2, '${held}', 'manifest', 4, 1), (2, '${damaged}', 'manifest', 5, 1),
        (3, '${damaged}', 'manifest', 5, 1), (3, '${loose}', 'blob', 6, 1), (2, '${loose}', 'blob', 6, 1);
    INSERT INTO tags (repository_id, tag, digest, checked_at_ms) VALUES (1, 'v1', '${held}', 9);
    INSERT INTO quarantine (digest, found_at_ms, reason) VALUES ('${damaged}', 1, 'wrong bytes')`);
  connection.close();

  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const maimed = { upstream: '', name: 'team/maimed' };
  const mirrored = { upstream: 'docker.io', name: 'a' };
  const manifest = { digest: held!, mediaType: 'a/b', bytes: Buffer.from('held') };
  expect(await store.readLinkedManifest(REPOSITORY, held!)).toEqual(manifest);
  expect(await store.namedSize(REPOSITORY, layer!)).toBe(20);
  const page = { limit: 10, after: undefined };
  expect((await store.listReferrers(REPOSITORY, subject!, 'sig', page)).entries).toEqual([
    { mediaType: 'a/b', digest: held, size: 4, artifactType: 'sig', annotations: { made: 'here' } },
  ]);
  expect(await store.readForPull(REPOSITORY, 'v1')).toEqual({
    tag: { digest: held, checkedAtMs: 9 },
    manifest,
    isPreloaded: false,
    grants: [],
  });
  expect(await store.readTotals()).toMatchObject({ manifests: 1, manifestBytes: 4, repositories: 3 });
  expect(await store.readUsage('team', REPOSITORY)).toMatchObject({
    bytes: 3 * MIN_COUNTED_BYTES,
    isKnown: true,
    tags: 1,
  });
  const expire = () =>
    store.expireLinks(
      [maimed, mirrored].map(repository => ({ repository, digest: loose! })),
      Date.now(),
    );
  expect(await expire()).toBe(1);
  expect(await store.isLinked(maimed, loose!)).toBe(true);
  const brought = image('brought');
  await store.putManifest(maimed, { ...brought.manifest, digest: damaged! }, brought.view, { atMs: 1 });
  expect(await expire()).toBe(1);
  expect(await store.readLinkedManifest(mirrored, damaged!)).toBeUndefined();
  await store.close();
});

test('in an index in which small content counted by its size, it counts as a block, and no longer once it is gone', async () => {
  const connection = await Connection.open(path);
  await migrate(connection, MIGRATIONS.slice(0, 11));
  const [small, large, shared, deleted] = ['small', 'large', 'shared', 'deleted'].map(text =>
    digestOf(Buffer.from(text)),
  );
  connection.execute(`
    INSERT INTO repositories (id, upstream, name, created_at_ms)
      VALUES (1, '', 'team/app', 1), (2, '', 'team/other', 1), (3, '', 'rest', 1), (4, 'docker.io', 'team/app', 1);
    INSERT INTO blobs (digest, size, created_at_ms, used_at_ms) VALUES ('${deleted}', 7, 1, 1), ('${large}', 5000, 1, 1);
    INSERT INTO links (repository_id, digest, kind, size, created_at_ms) VALUES
      (1, '${small}', 'blob', 3, 1), (1, '${large}', 'blob', 5000, 1), (1, '${shared}', 'manifest', 4095, 1),
      (2, '${shared}', 'manifest', 4095, 1), (3, '${large}', 'blob', 5000, 1), (4, '${small}', 'blob', 3, 1),
      (2, '${deleted}', 'blob', 7, 1);
    DELETE FROM links WHERE digest = '${deleted}'`);
  connection.close();

  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const used = async (owner: string) => {
    const { bytes, uncollectedBytes } = await store.readUsage(owner, REPOSITORY);
    return { bytes, uncollectedBytes };
  };
  expect(await used('team')).toEqual({ bytes: 3 * 4096 + 5000, uncollectedBytes: 4096 });
  expect(await used('rest')).toEqual({ bytes: 5000, uncollectedBytes: 0 });
  await store.unlinkBlob(REPOSITORY, small!);
  await store.unlinkManifest(REPOSITORY, shared!);
  await store.removeRepository({ upstream: '', name: 'team/other' });
  expect(await used('team')).toEqual({ bytes: 5000, uncollectedBytes: 4096 });
  await store.unlinkBlob(REPOSITORY, large!);
  await store.removeBlob(deleted!);
  expect(await used('team')).toEqual({ bytes: 0, uncollectedBytes: 0 });
  await store.close();
});

test('an import that opened a whole repository keeps what is under its pins, unless somebody pulled there with a right of their own', async () => {
  const connection = await Connection.open(path);
  await migrate(connection, MIGRATIONS.slice(0, 6));
  const [root, layer, later, other] = ['root', 'layer', 'later', 'other'].map(text =>
    digestOf(Buffer.from(text)),
  );
  connection.execute(`
    INSERT INTO repositories (id, upstream, name, created_at_ms)
      VALUES (1, 'docker.io', 'open', 1), (2, 'docker.io', 'mixed', 1), (3, 'docker.io', 'tenant', 1);
    INSERT INTO manifests (id, digest, created_at_ms, used_at_ms, size, bytes)
      VALUES (1, '${root}', 1, 1, 4, x'726f6f74'), (2, '${later}', 1, 1, 5, x'6c61746572');
    INSERT INTO readings (id, digest, media_type, annotations) VALUES (1, '${root}', 'a/b', '{}'), (2, '${later}', 'a/b', '{}');
    INSERT INTO reading_references (reading_id, position, kind, digest, size, media_type)
      VALUES (1, 0, 'blob', '${layer}', 5, 'c/d'), (2, 0, 'blob', '${other}', 5, 'c/d');
    INSERT INTO links (repository_id, digest, kind, media_type, size, created_at_ms)
      SELECT r.id, d.column1, d.column2, d.column3, 4, 1 FROM repositories r, (VALUES
        ('${root}', 'manifest', 'a/b'), ('${later}', 'manifest', 'a/b'), ('${layer}', 'blob', NULL), ('${other}', 'blob', NULL)) d;
    INSERT INTO tags (repository_id, tag, digest, checked_at_ms)
      SELECT id, 'v1', '${root}', 1 FROM repositories UNION ALL SELECT id, 'v2', '${later}', 1 FROM repositories;
    INSERT INTO pins (repository_id, reference, created_at_ms) SELECT id, 'v1', 1 FROM repositories;
    INSERT INTO grants (repository_id, credential_id, verified_at_ms, origin) VALUES
      (1, '', 5, 'import'), (1, 'public', 6, 'upstream'), (2, '', 5, 'import'), (2, 'somebody', 6, 'upstream'),
      (3, 'tenant:a', 5, 'import')`);
  connection.close();

  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const preloaded = async (name: string, grantee: string) => {
    const repository = { upstream: 'docker.io', name };
    const all = await Promise.all(
      [root!, layer!, later!, other!].map(digest => store.isPreloaded(repository, digest, [grantee])),
    );
    return all;
  };
  expect(await preloaded('open', '')).toEqual([true, true, false, false]);
  expect(await preloaded('mixed', '')).toEqual([false, false, false, false]);
  expect(await preloaded('tenant', 'tenant:a')).toEqual([true, true, false, false]);
  expect(await preloaded('tenant', '')).toEqual([false, false, false, false]);
  for (const name of ['open', 'mixed', 'tenant'])
    expect(await store.readGrants({ upstream: 'docker.io', name })).toEqual([]);
  expect(await store.readLinkedManifest({ upstream: 'docker.io', name: 'open' }, root!)).toBeDefined();
  expect(await store.readManifestBytes(root!)).toBeDefined();
  await store.close();
});

test('in an index in which a status was a proof, all rights are proved again, except that content of one repository stays its own', async () => {
  const connection = await Connection.open(path);
  await migrate(connection, MIGRATIONS.slice(0, 8));
  const names = ['own', 'shared', 'hosted', 'imported', 'layer', 'brought', 'affirmed'];
  const [own, shared, hosted, imported, layer, brought, affirmed] = names.map(text =>
    digestOf(Buffer.from(text)),
  );
  const manifests = names
    .slice(0, 4)
    .map(text => Buffer.from(text))
    .map(bytes => `('${digestOf(bytes)}', 1, 1, ${bytes.byteLength}, x'${bytes.toString('hex')}')`);
  const readings = [own, shared, hosted, imported].map(
    (digest, at) => `(${at + 1}, '${digest}', 'a/b', '${own}', '{}')`,
  );
  connection.execute(`
    INSERT INTO repositories (id, upstream, name, created_at_ms)
      VALUES (1, 'docker.io', 'a', 1), (2, 'docker.io', 'b', 1), (3, '', 'team/app', 1);
    INSERT INTO manifests (digest, created_at_ms, used_at_ms, size, bytes) VALUES ${manifests.join()};
    INSERT INTO readings (id, digest, media_type, subject, annotations) VALUES ${readings.join()};
    INSERT INTO reading_references (reading_id, position, kind, digest, size, media_type)
      VALUES (2, 0, 'blob', '${layer}', 5, 'c/d');
    INSERT INTO blobs (digest, size, created_at_ms, used_at_ms)
      VALUES ('${layer}', 5, 1, 1), ('${brought}', 5, 1, 1), ('${affirmed}', 5, 1, 1);
    INSERT INTO links (repository_id, digest, kind, media_type, size, created_at_ms) VALUES
      (1, '${own}', 'manifest', 'a/b', 4, 1), (1, '${shared}', 'manifest', 'a/b', 4, 1),
      (2, '${shared}', 'manifest', 'a/b', 4, 1), (2, '${hosted}', 'manifest', 'a/b', 4, 1),
      (3, '${hosted}', 'manifest', 'a/b', 4, 1), (1, '${imported}', 'manifest', 'a/b', 4, 1),
      (2, '${imported}', 'manifest', 'a/b', 4, 1), (1, '${layer}', 'blob', NULL, 5, 1), (2, '${layer}', 'blob', NULL, 5, 1),
      (1, '${brought}', 'blob', NULL, 5, 2), (1, '${affirmed}', 'blob', NULL, 5, 99000);
    INSERT INTO tags (repository_id, tag, digest, checked_at_ms) VALUES (2, 'v1', '${shared}', 1);
    INSERT INTO preloads (repository_id, digest, grantee, created_at_ms) VALUES (2, '${imported}', '', 1);
    INSERT INTO grants (repository_id, credential_id, verified_at_ms) VALUES (1, '', 1), (2, 'somebody', 1)`);
  connection.close();

  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const [a, b] = ['a', 'b'].map(name => ({ upstream: 'docker.io', name }));
  const reads = async (repository: Repository) => {
    const found = await Promise.all(
      [own, shared, hosted, imported].map(digest => store.readLinkedManifest(repository, digest!)),
    );
    return found.map(manifest => manifest !== undefined);
  };
  const page = { limit: 10, after: undefined };
  const referrers = async (repository: Repository) =>
    (await store.listReferrers(repository, own!, undefined, page)).entries.length;
  expect([await store.readGrants(a!), await store.readGrants(b!)]).toEqual([[], []]);
  expect([await reads(a!), await reads(b!), await reads(REPOSITORY)]).toEqual([
    [true, false, false, false],
    [false, false, false, true],
    [false, false, true, false],
  ]);
  expect([await referrers(a!), await referrers(b!), await referrers(REPOSITORY)]).toEqual([1, 1, 1]);
  expect(await store.readForPull(b!, 'v1')).toMatchObject({ tag: { digest: shared }, manifest: undefined });
  expect([await store.isLinked(b!, layer!), await store.isNamed(b!, layer!)]).toEqual([false, false]);
  expect(await store.namedSize(b!, layer!)).toBeUndefined();
  expect([await store.isLinked(a!, brought!), await store.isLinked(a!, affirmed!)]).toEqual([true, false]);
  for (const content of [shared, hosted].map(digest => ({ kind: 'manifest', digest: digest! }) as const))
    expect(await store.removeUnneeded([content], Date.now())).toEqual([]);

  await store.linkBlob(b!, layer!, 5);
  expect([await store.isLinked(a!, layer!), await store.isLinked(b!, layer!)]).toEqual([false, true]);
  await store.close();
});

test('an index that knew referrers by their subject alone lists them in each repository as before', async () => {
  const connection = await Connection.open(path);
  await migrate(connection, MIGRATIONS.slice(0, 9));
  const [subject, referrer] = ['subject', 'referrer'].map(text => digestOf(Buffer.from(text)));
  connection.execute(`
    INSERT INTO repositories (id, upstream, name, created_at_ms) VALUES (1, '', 'team/app', 1), (2, '', 'team/b', 1);
    INSERT INTO manifests (digest, created_at_ms, used_at_ms, size, bytes) VALUES ('${referrer}', 1, 1, 8, CAST('referrer' AS BLOB));
    INSERT INTO readings (digest, media_type, artifact_type, subject, annotations)
      VALUES ('${referrer}', 'a/a', 'sig', '${subject}', '{}');
    INSERT INTO links (repository_id, digest, kind, size, created_at_ms, media_type)
      VALUES (1, '${referrer}', 'manifest', 8, 1, 'a/a');
    INSERT INTO readings (digest, media_type, artifact_type, subject, annotations)
      VALUES ('${referrer}', 'b/b', NULL, '${subject}', '{}');
    INSERT INTO links (repository_id, digest, kind, size, created_at_ms, media_type)
      VALUES (2, '${referrer}', 'manifest', 8, 1, 'b/b')`);
  connection.close();
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const listed = async (name: string, type?: string) => {
    const page = { limit: 10, after: undefined };
    return (await store.listReferrers({ upstream: '', name }, subject ?? DIGEST, type, page)).entries;
  };
  expect(await listed('team/app')).toMatchObject([
    { digest: referrer, mediaType: 'a/a', artifactType: 'sig' },
  ]);
  expect(await listed('team/app', 'sig')).toHaveLength(1);
  expect(await listed('team/b')).toMatchObject([{ digest: referrer, mediaType: 'b/b' }]);
  expect(await listed('team/b', 'sig')).toEqual([]);
  await store.close();
});

test('a repository that an earlier version has removed is swept, and counts for nobody', async () => {
  const connection = await Connection.open(path);
  await migrate(connection, MIGRATIONS.slice(0, 14));
  connection.execute(`
    INSERT INTO repositories (id, upstream, name, created_at_ms) VALUES (1, '', 'team/app', 1), (2, '', 'team/b', 1);
    INSERT INTO blobs (digest, size, created_at_ms, used_at_ms) VALUES ('${DIGEST}', 4, 1, 1);
    INSERT INTO links (repository_id, digest, kind, size, created_at_ms) VALUES (1, '${DIGEST}', 'blob', 4, 1);
    DELETE FROM repositories WHERE id = 1`);
  connection.close();
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  while (look(database => database.prepare('SELECT 1 FROM links').get()) !== undefined) await delay(20);
  expect(await store.readUsage('team', REPOSITORY)).toMatchObject({ bytes: 0, uncollectedBytes: 0 });
  await store.close();
});

test('a migration that fails changes nothing', async () => {
  const connection = await Connection.open(path);
  const broken = [...MIGRATIONS, 'CREATE TABLE half (a); CREATE TABLE half (a);'];
  await expect(migrate(connection, broken)).rejects.toThrow('half');
  expect(connection.pragma('user_version')).toBe(MIGRATIONS.length);
  expect(connection.prepare("SELECT 1 FROM sqlite_schema WHERE name = 'half'").get()).toBeUndefined();
  connection.close();
});

test('an index whose version was lowered is refused with a message, and left alone', async () => {
  await (await openSqliteMetadataStore(path, { log: silentLog })).close();
  for (const version of [MIGRATIONS.length - 1, 0]) {
    look(database => database.pragma(`user_version = ${version}`));
    const opening = openSqliteMetadataStore(path, { log: silentLog });
    await expect(opening).rejects.toThrow(`${path}: the index declares schema version ${version}`);
    await expect(opening).rejects.toBeInstanceOf(IndexUnusable);
  }
});

test('a manifest with damaged bytes is absent from the first read on, and recorded as damage', async () => {
  const log = { ...silentLog, error: vi.fn<() => void>() };
  const store = await openSqliteMetadataStore(path, { log });
  const { manifest, view } = image('v1');
  const put = () => store.putManifest(REPOSITORY, manifest, view, { tag: 'v1', atMs: 1 });
  const reads = [
    () => store.readManifestBytes(manifest.digest),
    () => store.readLinkedManifest(REPOSITORY, manifest.digest),
    async () => (await store.readForPull(REPOSITORY, 'v1')).manifest,
  ];
  for (const read of reads) {
    await put();
    expect(await read()).toBeDefined();
    look(database => database.prepare('UPDATE manifests SET bytes = zeroblob(size)').run());
    expect(await read()).toBeUndefined();
    expect(await store.readDamage(manifest.digest)).toMatchObject({
      reason: 'its content does not match the digest',
    });
  }
  expect(log.error).toHaveBeenCalledTimes(reads.length);
  expect(await store.readForPull(REPOSITORY, 'v1')).toMatchObject({ tag: { digest: manifest.digest } });
  await store.close();
});

test('a manifest that is stored again has sound bytes, and what found the old ones damaged leaves it', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const { manifest, view } = image('v1');
  const { digest } = manifest;
  const put = () => store.putManifest(REPOSITORY, manifest, view, { tag: 'v1', atMs: 1 });
  await put();
  look(database => database.prepare('UPDATE manifests SET bytes = zeroblob(size)').run());
  await put();
  const quarantine = () =>
    store.quarantine({ kind: 'manifest', digest }, 'wrong bytes', damagedManifest(digest));
  expect(await quarantine()).toBeUndefined();
  expect((await store.readForPull(REPOSITORY, 'v1')).manifest).toMatchObject({ digest });
  look(database => database.prepare('UPDATE manifests SET bytes = zeroblob(size)').run());
  expect(await quarantine()).toBe('hosted');
  await store.close();
});

test('nothing is written any more that began before others considered this process dead', async () => {
  const clock = new ManualClock();
  const store = await openSqliteMetadataStore(path, { log: silentLog, clock });
  const { manifest, view } = image('v1');
  const during = store.presence;
  await store.putManifest(REPOSITORY, manifest, view, { tag: 'v1', atMs: 1, during });
  const writes = (presence: Presence) => {
    const along = { during: presence };
    return [
      () => store.putManifest(REPOSITORY, manifest, view, { tag: 'v2', atMs: 1, ...along }),
      () => store.putTag(REPOSITORY, 'v2', { digest: manifest.digest, checkedAtMs: 1 }, along),
      () => store.linkBlob(REPOSITORY, DIGEST, 4, along),
      () => store.putGrant(REPOSITORY, { credentialId: 'one', verifiedAtMs: 1 }, along),
      () => store.publish([{ repository: REPOSITORY, digest: manifest.digest, tag: 'v2' }], 1, along),
      () => store.putContent(REPOSITORY, { manifests: [{ manifest, view }], blobs: [] }, 1, along),
      () => store.removeTag(REPOSITORY, 'v1', along),
      () => store.unlinkBlob(REPOSITORY, DIGEST, along),
      () => store.unlinkManifest(REPOSITORY, manifest.digest, along),
      () => store.unlinkUnnamed(REPOSITORY, manifest.digest, along),
      () => store.putPin(REPOSITORY, 'v1', along),
      () => store.removePin(REPOSITORY, 'v1', along),
      () => store.putKnownTenants([{ name: 't', uid: undefined }], along),
      () => store.putIssuedCredentials([], along),
      () => store.removeKnownTenant('t', along),
      () => store.endPreloadsOf('tenant:t', along),
      () => store.removeRepository(REPOSITORY, along),
      () => store.putSetting('a', 'b', along),
      () => store.putFoundBlob({ digest: DIGEST, key: 'found' }, 4, along),
      () => store.addRecordedImages([], { atMs: 1, completesKnown: false, ...along }),
    ];
  };
  look(database => database.prepare('DELETE FROM processes').run());
  // Neither before it knows, nor when it has a heartbeat again; and at first nothing that it is asked then, either.
  for (const write of writes(during)) await expect(write()).rejects.toBeInstanceOf(PresenceEnded);
  await clock.pass(BEAT_MS);
  await expect.poll(() => during.isOver).toBe(true);
  for (const write of writes(store.presence)) await expect(write()).rejects.toBeInstanceOf(PresenceEnded);
  await clock.pass(BEAT_MS);
  await expect.poll(() => store.presence).not.toBe(during);
  for (const write of writes(during)) await expect(write()).rejects.toBeInstanceOf(PresenceEnded);
  await expect(store.requirePresence(during)).rejects.toBeInstanceOf(PresenceEnded);
  await store.requirePresence(store.presence);
  expect((await store.listTags(REPOSITORY, { limit: 9, after: undefined })).entries).toEqual(['v1']);
  for (const write of writes(store.presence)) await write();
  await store.close();
});

test('it tells for how long another process has blocked all writes, until one succeeds', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  expect(store.lockedOutForMs()).toBe(0);
  const rival = new Database(path, { timeout: 0 });
  rival.exec('BEGIN IMMEDIATE');
  const write = store.putBlob(DIGEST, 4);
  await expect.poll(() => store.lockedOutForMs()).toBeGreaterThan(0);
  rival.exec('COMMIT');
  rival.close();
  await write;
  expect(store.lockedOutForMs()).toBe(0);
  await store.close();
});

test('an index of a newer version, or of another program, is refused and left alone', async () => {
  await (await openSqliteMetadataStore(path, { log: silentLog })).close();
  look(database => database.pragma('user_version = 99'));
  await expect(openSqliteMetadataStore(path, { log: silentLog })).rejects.toThrow(
    'newer version of Entrepot',
  );
  const foreign = join(folder, 'foreign.db');
  look(database => database.exec('CREATE TABLE theirs (a)'), foreign);
  await expect(openSqliteMetadataStore(foreign, { log: silentLog })).rejects.toThrow('another program');
  await writeFile(
    join(folder, 'text'),
    'not a database at all, but long enough to be read as a header'.repeat(20),
  );
  await expect(openSqliteMetadataStore(join(folder, 'text'), { log: silentLog })).rejects.toThrow(
    'not a database',
  );
});

test('while another process holds the write lock, the event loop runs and the write waits', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const rival = new Database(path, { timeout: 0 });
  rival.exec('BEGIN IMMEDIATE');
  const writing = store.putBlob(DIGEST, 4);
  const winner = await Promise.race([writing, turns(20)]);
  expect(winner).toBe('turns');
  expect(await store.statBlob(DIGEST)).toBeUndefined();
  rival.exec('COMMIT');
  rival.close();
  await writing;
  expect(await store.statBlob(DIGEST)).toEqual({ size: 4 });
  await store.close();
});

test('an index that cannot grow reports a full disk, and accepts writes again when there is space', async () => {
  const connection = await Connection.open(path);
  connection.execute('CREATE TABLE notes (text TEXT)');
  const note = connection.prepare<[string]>('INSERT INTO notes VALUES (?)');
  const writer = new Writer(connection);
  const write = () => writer.write(() => note.run('x'.repeat(100_000)));
  const pages = connection.pragma('page_count');
  connection.pragma(`max_page_count = ${pages + 1}`);
  await expect(write()).rejects.toMatchObject({ code: 'ENOSPC' });
  connection.pragma(`max_page_count = ${pages + 100}`);
  await write();
  await writer.close();
  connection.close();
});

test('no write is acknowledged while the index file is gone, until it is back', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  await store.putSetting('key', 'before');
  const aside = join(folder, 'aside.db');
  await rename(path, aside);
  await expect(store.putSetting('key', 'meanwhile')).rejects.toThrow(IndexLost);
  await writeFile(path, 'another');
  await expect(store.putSetting('key', 'meanwhile')).rejects.toThrow(IndexLost);
  expect(await store.readSetting('key')).toBe('before');
  // Anybody may ask `/readyz`.
  expect(store.loss()?.message).not.toContain(folder);
  await rename(aside, path);
  await store.putSetting('key', 'after');
  expect(await store.readSetting('key')).toBe('after');
  await store.close();
});

test('an index that was removed and then replaced is reported again, with what to do now', async () => {
  const error = vi.fn<Log['error']>();
  const store = await openSqliteMetadataStore(path, { log: { ...silentLog, error } });
  const lost = () => expect(store.putSetting('key', 'meanwhile')).rejects.toThrow(IndexLost);
  await rename(path, join(folder, 'aside.db'));
  await lost();
  await lost();
  await writeFile(path, 'another');
  await lost();
  await lost();
  const texts = error.mock.calls.map(([, text]) => text);
  expect(texts).toEqual([
    expect.stringMatching(/was removed .*entrepot restore/),
    expect.stringMatching(/was replaced .*Restart this process/),
  ]);
  expect(store.loss()?.message).toBe(texts[1]);
  await rm(path);
  await rename(join(folder, 'aside.db'), path);
  await store.close();
});

test('a heartbeat that cannot be written is reported once, and again after one that could', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const connection = await Connection.open(path);
  const writer = new Writer(connection);
  const warn = vi.fn<Log['warn']>();
  const onBeat = vi.fn<() => void>();
  const clock = new ManualClock();
  const heartbeat = await Heartbeat.join({
    isThread: false,
    connection,
    writer,
    indexPath: path,
    log: { ...silentLog, warn },
    clock,
    mayBeat: () => true,
    onBeat,
  });
  const failTwice = async () => {
    await clock.timer(BEAT_MS);
    const write = vi.spyOn(writer, 'write').mockRejectedValue(new Error('the disk is full'));
    for (let beat = 0; beat < 2; beat += 1) await clock.pass(BEAT_MS);
    await clock.timer(BEAT_MS);
    expect(write).toHaveBeenCalledTimes(2);
    write.mockRestore();
  };
  await failTwice();
  expect(warn).toHaveBeenCalledTimes(1);
  expect(onBeat).not.toHaveBeenCalled();
  await clock.pass(BEAT_MS);
  await clock.timer(BEAT_MS);
  expect(onBeat).toHaveBeenCalledTimes(1);
  await failTwice();
  expect(warn).toHaveBeenCalledTimes(2);
  await heartbeat.close();
  await writer.close();
  connection.close();
  await store.close();
});

test('two processes open a new index at once and write for all they are worth: nothing is refused', async () => {
  const writers = [spawnScript(WRITER, 'a'), spawnScript(WRITER, 'b')];
  const reports = await Promise.all(writers.map(async child => JSON.parse(await output(child))));
  expect(reports).toMatchObject([{ error: null }, { error: null }]);
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  expect(await store.readTotals()).toMatchObject({ blobs: 400, repositories: 2 });
  await store.close();
  // A loop that waited inside SQLite stood still for more than a second.
  expect(Math.max(...reports.map(({ lagMs }) => lagMs))).toBeLessThan(500);
}, 60_000);

test('the Leases of a killed process are free at once, its ingests can be continued, and its writes stay', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const child = spawnScript(CLAIMER);
  await nextLine(child);
  expect(await store.acquireLease('fill-1')).toBeUndefined();
  const held = await store.readLease('fill-1');
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect((await store.acquireLease('fill-1'))?.left).toEqual({ epoch: held?.epoch, mayWrite: false });
  expect(await store.statBlob(DIGEST)).toEqual({ size: 4 });
  expect(await isLeased(store, 'fill-2')).toBe(false);
  expect(look(database => database.prepare('SELECT count(*) FROM processes').pluck().get())).toBe(1);
  await store.close();
}, 30_000);

test('a process that opens the index can acquire what a killed process held', async () => {
  const child = spawnScript(CLAIMER);
  await nextLine(child);
  child.kill('SIGKILL');
  await once(child, 'exit');
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  expect(await isLeased(store, 'fill-1')).toBe(false);
  expect(await readdir(join(dirname(path), 'processes'))).toHaveLength(1);
  await store.close();
  expect(await readdir(join(dirname(path), 'processes'))).toEqual([]);
}, 30_000);

test('the Leases of a suspended process are free when its heartbeat has not changed for 5 s; it may still write', async () => {
  const clock = new ManualClock();
  const store = await openSqliteMetadataStore(path, { log: silentLog, clock });
  const child = spawnScript(CLAIMER);
  await nextLine(child);
  child.kill('SIGSTOP');
  let lease = await store.acquireLease('fill-1');
  while (lease === undefined) {
    await clock.pass(BEAT_MS);
    lease = await store.acquireLease('fill-1');
  }
  expect(clock.monotonicMs()).toBeGreaterThan(5_000);
  expect(lease.left?.mayWrite).toBe(true);
  child.kill('SIGCONT');
  await expect.poll(() => isLeased(store, 'fill-2')).toBe(true);
  expect(await store.readLease('fill-1')).toMatchObject({ epoch: lease.epoch, isHeld: true });
  await store.close();
}, 30_000);

test('a suspended process counts as dead no earlier because transactions are repeated', async () => {
  await openSqliteMetadataStore(path, { log: silentLog }).then(store => store.close());
  const child = spawnScript(CLAIMER);
  await nextLine(child);
  child.kill('SIGSTOP');
  const connection = await Connection.open(path);
  const clock = new ManualClock();
  const heartbeat = await Heartbeat.join({
    connection,
    writer: new RepeatingWriter(connection),
    indexPath: path,
    log: silentLog,
    clock,
    isThread: false,
    mayBeat: () => true,
    onBeat: () => {},
  });
  while ((await heartbeat.read('fill-1'))?.isHeld === true) await clock.pass(BEAT_MS);
  expect(clock.monotonicMs()).toBeGreaterThan(5_000);
  await heartbeat.close();
  connection.close();
}, 30_000);

/** Does each write twice, as after a transaction that failed. */
class RepeatingWriter extends Writer {
  override write<T>(work: () => T, options?: WriteOptions): Promise<T> {
    const twice = () => {
      work();
      return work();
    };
    return super.write(twice, options);
  }
}

test('a Lease is confirmed at no cost while heartbeats are written, and by the index when they are late', async () => {
  const clock = new ManualClock();
  const store = await openSqliteMetadataStore(path, { log: silentLog, clock });
  const other = await openSqliteMetadataStore(path, { log: silentLog });
  const [kept, lost] = await Promise.all([store.acquireLease('kept'), store.acquireLease('lost')]);
  expect(kept?.confirm()).toBeUndefined();
  look(database =>
    database.exec("DELETE FROM processes WHERE id IN (SELECT process_id FROM leases WHERE key = 'lost')"),
  );
  await other.acquireLease('lost');
  clock.skip(4_500);
  await expect(lost?.confirm()).rejects.toThrow(LeaseLost);
  expect(() => lost?.confirm()).toThrow(LeaseLost);
  await kept?.confirm();
  await other.close();
  await store.close();
});

test('a live process keeps its Leases for longer than a dead one', async () => {
  const clocks = [new ManualClock(), new ManualClock()];
  const [store, other] = await Promise.all(
    clocks.map(clock => openSqliteMetadataStore(path, { log: silentLog, clock })),
  );
  await other?.acquireLease('fill-1');
  for (let beat = 0; beat < 7; beat += 1) for (const clock of clocks) await clock.pass(BEAT_MS);
  expect(await store?.acquireLease('fill-1')).toBeUndefined();
  await other?.close();
  await store?.close();
});

test('a process that others considered dead gets back what nobody has taken', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const other = await openSqliteMetadataStore(path, { log: silentLog });
  await store.acquireLease('kept');
  const lost = await store.acquireLease('lost');
  look(database =>
    database.exec("DELETE FROM processes WHERE id IN (SELECT process_id FROM leases WHERE key = 'kept')"),
  );
  expect(await other.acquireLease('lost')).toBeDefined();
  expect(await store.acquireLease('new')).toBeDefined();
  expect(await other.acquireLease('kept')).toBeUndefined();
  if (lost !== undefined) await store.release(lost);
  expect(await store.acquireLease('lost')).toBeUndefined();
  await other.close();
  await store.close();
});

test('a use that is recorded while others are being written is written next, even if none follows', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  // Follow whatever is being written.
  const written = async () => {
    for (const turn of ['this', 'next']) await store.putSetting('turn', turn);
  };
  try {
    const last = digestOf(Buffer.from('the last one'));
    await store.putBlob(last, 4);
    look(database => database.exec('UPDATE blobs SET used_at_ms = 0'));
    store.noteUse(DIGEST);
    vi.advanceTimersByTime(FLUSHED_MS);
    store.noteUse(last);
    await written();
    vi.advanceTimersByTime(FLUSHED_MS);
    await written();
    const usedAtMs = look(database => database.prepare('SELECT used_at_ms FROM blobs').pluck().get());
    expect(usedAtMs).toBeGreaterThan(0);
  } finally {
    await store.close();
    vi.useRealTimers();
  }
});

test('a use that its caller relies on is recorded within a minute of another one, and kept in memory if it cannot be written', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const other = await openSqliteMetadataStore(path, { log: silentLog });
  const links = [{ repository: REPOSITORY, digest: DIGEST }];
  await store.putBlob(DIGEST, 4, REPOSITORY);
  await store.lowerLinks(links, 1);
  look(database => database.prepare('UPDATE blobs SET used_at_ms = ?').run(Date.now() - 30_000));
  await store.putUse(DIGEST);
  expect(await other.expireLinks(links, Date.now() - 10_000)).toBe(0);
  look(database => {
    database.exec('UPDATE blobs SET used_at_ms = 0');
    database.exec("CREATE TRIGGER full BEFORE UPDATE ON blobs BEGIN SELECT RAISE(ABORT, 'no room'); END");
  });
  await store.putUse(DIGEST);
  expect(await store.expireLinks(links, Date.now() - 3_600_000)).toBe(0);
  await other.close();
  await store.close();
});

test('the rows of a removed repository are deleted in the background, also by the next process', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  await Promise.all(
    Array.from({ length: 90 }, (_, index) =>
      store.putTag(REPOSITORY, `v${index}`, { digest: DIGEST, checkedAtMs: 1 }),
    ),
  );
  await store.removeRepository(REPOSITORY);
  await store.close();
  const next = await openSqliteMetadataStore(path, { log: silentLog });
  while (look(database => database.prepare('SELECT 1 FROM removed_repositories').get()) !== undefined) {
    await delay(20);
  }
  expect(look(database => database.prepare('SELECT count(*) FROM tags').pluck().get())).toBe(0);
  await next.close();
});

test('what pulls are not answered from leaves what is remembered for them', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const { manifest, view } = image('remembered');
  await store.putManifest(REPOSITORY, manifest, view, { tag: 'v1', atMs: 1 });
  const removed = { upstream: '', name: 'team/removed' };
  await store.putManifest(removed, manifest, view, { tag: 'v1', atMs: 1 });
  const lease = await leaseOf(store, 'upload-1');
  await store.removeRepository(removed);
  const answer = await store.readForPull(REPOSITORY, 'v1');
  const upload = { id: '1', repository: REPOSITORY, requester: 'x', startedAtMs: 1, touchedAtMs: 1 };
  await store.putUpload(upload, lease);
  await store.removeUpload('1', lease);
  await store.announceObject({ digest: DIGEST, key: 'a' }, lease);
  await store.giveUpObject('a');
  await store.forgetObjects(['a']);
  await store.putSetting('name', 'value');
  await store.putKnownTenants([{ name: 'team', uid: undefined }]);
  await store.putCredentialUsage([{ credentialId: 'c', usedAtMs: 1 }]);
  await store.notify('failures');
  while (look(database => database.prepare('SELECT 1 FROM removed_repositories').get()) !== undefined) {
    await delay(20);
  }
  expect(await store.readForPull(REPOSITORY, 'v1')).toBe(answer);
  await store.close();
});

test('what others have for the same subject and the same blobs slows no query down', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const subject = image('subject');
  const [blob] = subject.view.blobs;
  if (blob === undefined) throw new Error('an image has blobs');
  const others = Array.from({ length: 5_000 }, (_, index) => {
    const { manifest, view } = image(`referrer ${index}`, subject.manifest, 'sig');
    return { manifest, view: { ...view, blobs: [blob] } };
  });
  const elsewhere = { upstream: '', name: 'team/other' };
  const put = ({ manifest, view }: (typeof others)[number]) =>
    store.putManifest(elsewhere, manifest, view, { atMs: 1 });
  await Promise.all(others.map(put));
  await store.putManifest(REPOSITORY, subject.manifest, { ...subject.view, blobs: [] }, { atMs: 1 });
  const { digest } = subject.manifest;
  const page = { limit: 20, after: undefined };
  expect(await fastestMs(() => store.listReferrers(REPOSITORY, digest, undefined, page))).toBeLessThan(2);
  expect(await fastestMs(() => store.listReferrers(elsewhere, digest, 'sbom', page))).toBeLessThan(2);
  expect(await fastestMs(() => store.listReferrers(elsewhere, digest, undefined, page))).toBeLessThan(2);
  expect(await fastestMs(() => store.namedSize(REPOSITORY, blob.digest))).toBeLessThan(2);
  await store.close();
});

test('the size of a blob is found as fast if many manifests of the repository name it as if one does', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const [common] = image('common').view.blobs;
  if (common === undefined) throw new Error('an image has blobs');
  const images = Array.from({ length: 200 }, (_, index) => image(`image ${index}`));
  for (const { manifest, view } of images) {
    const [other = common] = view.blobs;
    const blobs = [...Array.from({ length: 500 }, () => other), common];
    await store.putManifest(REPOSITORY, manifest, { ...view, blobs }, { atMs: 1 });
  }
  const rare = image('image 199').view.blobs[0] ?? common;
  expect(await store.namedSize(REPOSITORY, common.digest)).toBe(common.size);
  const ofRareMs = await fastestMs(() => store.namedSize(REPOSITORY, rare.digest));
  expect(await fastestMs(() => store.namedSize(REPOSITORY, common.digest))).toBeLessThan(5 * ofRareMs);
  await store.close();
});

test('a list of referrers of a manifest that is not stored needs no transaction', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const rival = new Database(path, { timeout: 0 });
  rival.exec('BEGIN IMMEDIATE');
  await store.putReferrersList(REPOSITORY, DIGEST, {
    mediaType: 'a/b',
    bytes: Buffer.from('list'),
    checkedAtMs: 1,
  });
  expect(store.lockedOutForMs()).toBe(0);
  rival.close();
  await store.close();
});

test('the write-ahead log does not grow without limit', async () => {
  const store = await openSqliteMetadataStore(path, { log: silentLog });
  const { manifest, view } = image('subject');
  await store.putManifest(REPOSITORY, manifest, view, { atMs: 1 });
  const bytes = Buffer.alloc(1024 * 1024);
  for (let round = 0; round < 40; round += 1) {
    const list = { mediaType: 'a/b', bytes, checkedAtMs: round };
    await store.putReferrersList(REPOSITORY, manifest.digest, list);
  }
  const { size } = await stat(`${path}-wal`);
  expect(size).toBeLessThan(20 * 1024 * 1024);
  await store.close();
});

const STORE = `
  const { openSqliteMetadataStore } = await import(${JSON.stringify(new URL('sqlite-metadata-store.ts', import.meta.url).href)});
  const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log };
  const [path, name] = process.argv.slice(1);
`;

/** Writes 200 blobs one after the other and says how long its event loop stood still at most, but for one turn in 100. */
const WRITER = `${STORE}
  const { createHash } = await import('node:crypto');
  const { monitorEventLoopDelay } = await import('node:perf_hooks');
  const lag = monitorEventLoopDelay({ resolution: 5 });
  let error = null;
  try {
    const store = await openSqliteMetadataStore(path, { log });
    lag.enable();
    for (let index = 0; index < 200; index += 1) {
      const digest = 'sha256:' + createHash('sha256').update(name + index).digest('hex');
      await store.putBlob(digest, 1, { upstream: '', name });
    }
    lag.disable();
    await store.close();
  } catch (reason) {
    error = String(reason);
  }
  console.log(JSON.stringify({ error, lagMs: lag.percentile(99) / 1e6 }));
`;

/** Writes a blob, claims two keys and stays. */
const CLAIMER = `${STORE}
  const store = await openSqliteMetadataStore(path, { log });
  await store.putBlob(${JSON.stringify(DIGEST)}, 4);
  await store.acquireLease('fill-1');
  await store.acquireLease('fill-2');
  console.log('claimed');
  setInterval(() => {}, 1000);
`;

/** Of ten times, since others have the processor too. */
async function fastestMs(work: () => Promise<unknown>): Promise<number> {
  let leastMs = Number.POSITIVE_INFINITY;
  for (let time = 0; time < 10; time += 1) {
    const beganAtMs = performance.now();
    await work();
    leastMs = Math.min(leastMs, performance.now() - beganAtMs);
  }
  return leastMs;
}

/** Lets the event loop turn, which it cannot while something waits inside SQLite. */
async function turns(count: number): Promise<'turns'> {
  for (let turn = 0; turn < count; turn += 1) {
    await delay(5);
  }
  return 'turns';
}

function spawnScript(script: string, ...names: string[]): ChildProcess {
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '-e', script, path, ...names],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  children.push(child);
  return child;
}

async function nextLine(child: ChildProcess): Promise<void> {
  await once(child.stdout ?? child, 'data');
}

async function output(child: ChildProcess): Promise<string> {
  const chunks: unknown[] = [];
  for await (const chunk of child.stdout ?? []) {
    chunks.push(chunk);
  }
  return chunks.join('');
}

/** Looks into the file beside the store. */
function look<T>(question: (database: Database) => T, file = path): T {
  const database = new Database(file, { timeout: 5_000 });
  try {
    return question(database);
  } finally {
    database.close();
  }
}
