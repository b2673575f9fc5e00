import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, rm, stat, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { openFilesIn } from '../../test/support/open-files.ts';
import type { BlobStore } from '../blobs/blob-store.ts';
import { remove } from '../blobs/blob-store.suite.ts';
import { MemoryRecordStore } from '../blobs/memory-record-store.fixture.ts';
import { Bucket, ObjectBlobStore } from '../blobs/object-blob-store.fixture.ts';
import { type FileStores, openFileStores } from '../blobs/file-stores.ts';
import type { Spool } from '../blobs/spool.ts';
import { surveyOfFolder } from './survey.fixture.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { silentMeter } from '../lib/meter.ts';
import { LeaseLost } from '../lib/lease.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import { acquireImportLease } from '../metadata/import-lease.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { Database } from '../metadata/sqlite/driver.ts';
import { stopCollecting, stopCollectingAfterRebuild } from '../metadata/store-identity.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { type Digest, digestHex, digestOf } from '../oci/digest.ts';
import type { Manifest, ManifestView } from '../oci/manifest.ts';
import { parseManifest } from '../oci/manifest.ts';
import { OCI_ARTIFACT_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST } from '../oci/media-types.ts';
import type { Repository } from '../oci/repository.ts';
import { CollectingStopped } from './collecting-stopped.ts';
import { Quarantine } from './quarantine.ts';
import { rebuildIndex } from './rebuild.ts';
import { heldImage } from './images.ts';
import type { SurveyThread } from './survey-thread.ts';
import { upkeepOf } from './upkeep.fixture.ts';
import type { Upkeep, UpkeepOptions } from './upkeep.ts';

const HOSTED: Repository = { upstream: '', name: 'team/app' };
const MIRRORED: Repository = { upstream: 'docker.io', name: 'library/nginx' };
const NEVER_MS = 3_600_000;

let folder: string;
let metadata: MetadataStore;
let files: FileStores;
let spool: Spool;
let blobs: BlobStore;
let survey: SurveyThread;
/** Of the disk. */
let minFreeBytes = 0;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-upkeep-'));
  metadata = await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog });
  minFreeBytes = 0;
  files = await openFileStores(folder, { log: silentLog, minFree: () => minFreeBytes });
  ({ spool, blobs } = files);
  survey = surveyOfFolder(folder);
});

afterEach(async () => {
  await survey.close();
  await files.close();
  await metadata.close();
  await rm(folder, { recursive: true });
});

describe('garbage collection', () => {
  test('removes what only a deleted manifest had, from the index and from the disk', async () => {
    const kept = await pushImage(HOSTED, 'kept', ['shared', 'own 1']);
    const gone = await pushImage(HOSTED, 'gone', ['shared', 'own 2']);
    await metadata.unlinkManifest(HOSTED, gone.digest);
    await expectDryRunIsRight();
    const report = await upkeep().collect();
    expect(report).toMatchObject({ manifests: { items: 1 }, blobs: { items: 2 } });
    expect(await heldFiles()).toEqual(kept.blobs.toSorted());
    expect(await metadata.isLinked(HOSTED, digestOf(Buffer.from('own 2')))).toBe(false);
    expect((await upkeep().collect())?.blobs.items).toBe(0);
  });

  test('removes rows in a thread, which does not count as another process on the store', async () => {
    const { digest } = await pushImage(HOSTED, 'gone', ['layer']);
    await metadata.unlinkManifest(HOSTED, digest);
    expect(await upkeep().collect()).toMatchObject({ blobs: { items: 2 } });
    expect(await metadata.countProcesses()).toBe(1);
  });

  test('frees a disk that is too full for the records of what was pushed, and says so', async () => {
    await pushImage(HOSTED, 'v1', ['layer']);
    const gone = await pushImage(HOSTED, 'gone', ['own']);
    await metadata.unlinkManifest(HOSTED, gone.digest);
    const records = new MemoryRecordStore();
    const fullDisk = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    const put = vi.spyOn(records, 'put').mockRejectedValue(fullDisk);
    const warn = vi.fn<Log['warn']>();
    const options = { records, log: { ...silentLog, warn } };
    expect(await upkeep(options).collect()).toMatchObject({ manifests: { items: 1 }, blobs: { items: 2 } });
    expect(warn.mock.calls).toEqual([[{ err: fullDisk }, expect.stringContaining('could not be written')]]);
    put.mockRejectedValue(new Error('the bucket is away'));
    await expect(upkeep(options).collect()).rejects.toThrow('the bucket is away');
    put.mockRestore();
    await upkeep(options).collect();
    expect(await metadata.countUnrecorded(10)).toBe(0);
  });

  test('keeps an untagged manifest while it is linked, and a child of an index', async () => {
    const child = await pushImage(HOSTED, 'v1', ['layer']);
    await metadata.removeTag(HOSTED, 'v1');
    const index = await pushIndex(HOSTED, 'multi', [child.digest]);
    await metadata.removeTag(HOSTED, 'multi');
    expect(await upkeep().collect()).toMatchObject({ manifests: { items: 0 }, blobs: { items: 0 } });
    expect(await metadata.readLinkedManifest(HOSTED, index)).toBeDefined();
  });

  test('keeps what a manifest needs, whatever media type others give to the same bytes', async () => {
    const image = await pushImage(HOSTED, 'v1', ['layer']);
    const bytes = await metadata.readManifestBytes(image.digest);
    const other = { upstream: '', name: 'team/other' };
    const view = parseManifest(Buffer.from('{"schemaVersion":2}'), OCI_ARTIFACT_MANIFEST);
    const artifact = {
      digest: image.digest,
      mediaType: OCI_ARTIFACT_MANIFEST,
      bytes: bytes ?? Buffer.alloc(0),
    };
    await metadata.unlinkManifest(HOSTED, image.digest);
    await metadata.putManifest(other, artifact, view, { atMs: 1, tag: 'v1' });
    await pushImage(HOSTED, 'v1', ['layer']);
    for (const dryRun of [true, false]) {
      expect(await upkeep().collect({ dryRun })).toMatchObject({ links: 0, blobs: { items: 0 } });
    }
    const [mine] = await survey.image(HOSTED, image.digest);
    expect(mine).toMatchObject({ mediaType: OCI_MANIFEST, isHeld: true });
    expect(mine?.blobs).toHaveLength(image.blobs.length);
    expect(await survey.image(other, image.digest)).toMatchObject([
      { mediaType: OCI_ARTIFACT_MANIFEST, isHeld: true, blobs: [] },
    ]);
    await metadata.unlinkManifest(HOSTED, image.digest);
    for (const dryRun of [true, false]) {
      const report = await upkeep().collect({ dryRun });
      expect(report).toMatchObject({ manifests: { items: 0 }, blobs: { items: image.blobs.length } });
    }
    expect(await heldFiles()).toEqual([]);
    expect(await metadata.readLinkedManifest(other, image.digest)).toEqual(artifact);
  });

  test('removes expired Grants, and keeps newer ones', async () => {
    const old = { credentialId: 'old', verifiedAtMs: Date.now() - 61_000 };
    const young = { credentialId: 'young', verifiedAtMs: Date.now() - 30_000 };
    for (const grant of [old, young]) await metadata.putGrant(MIRRORED, grant);
    await upkeep().collect({ dryRun: true });
    expect(await metadata.readGrants(MIRRORED)).toHaveLength(2);
    await upkeep().collect();
    expect(await metadata.readGrants(MIRRORED)).toEqual([young]);
  });

  test('keeps new content: a push may be between its blobs and its manifest', async () => {
    const digest = await pushBlob(HOSTED, 'layer');
    await metadata.putBlob(await storeBlob('imported'), 8);
    await storeBlob('its row is on the way');
    const report = await upkeep({ gracePeriodMs: NEVER_MS }).collect();
    expect(report).toMatchObject({ links: 0, blobs: { items: 0 }, strays: { items: 0 } });
    expect(await metadata.isLinked(HOSTED, digest)).toBe(true);
    await upkeep().collect();
    expect(await metadata.isLinked(HOSTED, digest)).toBe(false);
    expect(await heldFiles()).toEqual([]);
  });

  test('removes files without a row, and keeps quarantined ones', async () => {
    await storeBlob('a crash came before the row');
    const kept = await pushImage(HOSTED, 'v1', ['layer']);
    await damage(kept.blobs[0]);
    await upkeep().scrub();
    expect(await upkeep().collect()).toMatchObject({ strays: { items: 1, bytes: 27 } });
    expect(await heldFiles()).toEqual(kept.blobs.toSorted());
  });

  test('drops events that have waited for a week, even if their endpoint is not configured any more', async () => {
    const { outbox } = metadata;
    const weekMs = 7 * 24 * 3_600_000;
    const old = Array.from({ length: 150 }, () => ({
      endpoint: 'gone',
      body: '{}',
      atMs: Date.now() - weekMs - 1,
    }));
    await outbox?.put([...old, { endpoint: 'gone', body: '{}', atMs: Date.now() - weekMs + 60_000 }]);
    await upkeep().collect({ dryRun: true });
    expect(await outbox?.readState('gone')).toMatchObject({ waiting: 151 });
    await upkeep().collect();
    expect(await outbox?.readState('gone')).toMatchObject({ waiting: 1, dropped: 150 });
  });

  test('keeps unfinished transfers while they can be resumed, and no longer', async () => {
    await leaveIngest('fill-old');
    await leaveIngest('fill-new');
    await leaveIngest('fill-worked-on');
    await leaveIngest('upload-1');
    await Promise.all(['fill-old', 'fill-worked-on', 'upload-1'].map(makeOld));
    await metadata.acquireLease('fill-worked-on');
    const report = await upkeep({
      keepUnfinishedMs: NEVER_MS,
      isOfUpload: async key => key === 'upload-1',
    }).collect();
    expect(report).toMatchObject({ unfinished: { items: 1, bytes: 5 } });
    expect(await ingestKeys()).toEqual(['fill-new', 'fill-worked-on', 'upload-1']);
  });

  test('ends uploads that were not used for as long, and counts them in a dry run', async () => {
    for (const [id, idleMs] of [
      ['old', 2 * NEVER_MS],
      ['new', NEVER_MS / 2],
    ] as const) {
      const touchedAtMs = Date.now() - idleMs;
      await metadata.putUpload({ id, repository: HOSTED, requester: '', startedAtMs: 1, touchedAtMs });
    }
    const idleSince = (untouchedSinceMs: number) => metadata.listUploads(untouchedSinceMs, 10);
    const uploads = {
      expirable: async (sinceMs: number) => ({ items: (await idleSince(sinceMs)).length, bytes: 7 }),
      expire: async (sinceMs: number) => {
        const idle = await idleSince(sinceMs);
        await Promise.all(idle.map(({ id }) => metadata.removeUpload(id)));
        return { items: idle.length, bytes: 7 };
      },
    };
    const collecting = upkeep({ keepUnfinishedMs: NEVER_MS, uploads });
    const found = { uploads: { items: 1, bytes: 7 } };
    expect(await collecting.collect({ dryRun: true })).toMatchObject(found);
    expect(await collecting.collect()).toMatchObject(found);
    expect(await metadata.readUpload('old')).toBeUndefined();
    expect(await metadata.readUpload('new')).toBeDefined();
  });

  test('lets a reader of removed content finish', async () => {
    const digest = await pushBlob(HOSTED, 'layer');
    const reader = await blobs.open(digest);
    await upkeep().collect();
    expect(await blobs.stat(digest)).toBeUndefined();
    const buffer = Buffer.alloc(5);
    expect(await reader?.read(buffer, 0)).toBe(5);
    expect(buffer.toString()).toBe('layer');
    await reader?.close();
  });

  test('ignores what is being downloaded', async () => {
    const filled = await pushBlob(HOSTED, 'filled');
    const other = await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog });
    await other.acquireLease(`fill-0-${filled.replace(':', '-')}`);
    expect(await upkeep().collect()).toMatchObject({ blobs: { items: 0 } });
    expect(await heldFiles()).toEqual([filled]);
    await other.close();
  });

  test('runs in one process at a time', async () => {
    await metadata.acquireLease('upkeep-collection');
    expect(await upkeep().collect()).toBeUndefined();
  });

  test('can be interrupted, and the next run finishes', async () => {
    await Promise.all(Array.from({ length: 60 }, (_, index) => pushBlob(HOSTED, `layer ${index}`)));
    const stopping = new AbortController();
    const collecting = upkeep().collect({
      signal: stopping.signal,
      onProgress: ({ step }) => step === 'blobs' && stopping.abort(new Error('stopped')),
    });
    await expect(collecting).rejects.toThrow('stopped');
    const left = (await heldFiles()).length;
    expect(left).toBeGreaterThan(0);
    expect(await metadata.readTotals()).toMatchObject({ blobs: left });
    await upkeep().collect();
    expect(await heldFiles()).toEqual([]);
  });
});

describe('eviction', () => {
  test('removes the least recently used down to the low-water mark, and keeps the Links', async () => {
    const images = [];
    for (let number = 0; number < 10; number += 1) {
      images.push(await pushImage(MIRRORED, `v${number}`, [`layer ${number} ${'x'.repeat(10_000)}`]));
      await tick();
    }
    const { blobBytes, manifestBytes } = await metadata.readTotals();
    const maxBytes = blobBytes + manifestBytes - 1;
    expect(await upkeep({ maxBytes: maxBytes + 1 }).needsEviction()).toBe(false);
    expect(await upkeep({ maxBytes: maxBytes + 1 }).evict()).toMatchObject({ items: 0 });
    expect(await upkeep({ maxBytes }).needsEviction()).toBe(true);
    const dry = await upkeep({ maxBytes }).evict({ dryRun: true });
    const report = await upkeep({ maxBytes }).evict();
    expect(dry).toMatchObject({ items: report?.items, bytes: report?.bytes });
    expect(report?.heldBytes).toBeLessThanOrEqual(maxBytes * 0.9);
    expect(report?.heldBytes).toBeGreaterThan(maxBytes * 0.75);
    expect(report?.stuckAt).toBeUndefined();
    const [oldest, newest] = [images[0], images[9]];
    expect(await metadata.statBlob(oldest?.blobs[1] ?? NONE)).toBeUndefined();
    expect(await metadata.isLinked(MIRRORED, oldest?.blobs[1] ?? NONE)).toBe(true);
    expect(await metadata.statBlob(newest?.blobs[1] ?? NONE)).toBeDefined();
    expect(await upkeep({ maxBytes }).evict()).toMatchObject({ items: 0 });
  });

  test('counts unfinished transfers, of this process and of others, and removes idle downloads first', async () => {
    const kept = await pushImage(MIRRORED, 'v1', [`kept ${'x'.repeat(10_000)}`]);
    const { blobBytes, manifestBytes } = await metadata.readTotals();
    const maxBytes = blobBytes + manifestBytes + 4_000;
    const other = await openFileStores(folder, { log: silentLog });
    try {
      await leaveIngest('fill-newer', 2_000, other.spool);
      await leaveIngest('fill-older', 2_000, other.spool);
      await leaveIngest('upload-1', 2_000);
      await Promise.all(['fill-older', 'upload-1'].map(makeOld));
      const eviction = upkeep({ maxBytes, isOfUpload: async key => key === 'upload-1' });
      expect(await eviction.needsEviction()).toBe(true);
      const dry = await eviction.evict({ dryRun: true });
      const report = await eviction.evict();
      expect(report).toEqual(dry);
      expect(report).toMatchObject({ items: 2, bytes: 4_000, stuckAt: undefined });
      expect(await ingestKeys()).toEqual(['upload-1']);
      expect(await metadata.statBlob(kept.blobs[1] ?? NONE)).toBeDefined();
      expect(await eviction.needsEviction()).toBe(false);
    } finally {
      await other.close();
    }
  });

  test('counts what an earlier process left unfinished, even without a limit', async () => {
    const earlier = await openFileStores(folder, { log: silentLog });
    await leaveIngest('fill-1', 2_000, earlier.spool);
    await earlier.close();
    expect(await upkeep().needsEviction()).toBe(false);
    expect(spool.unfinishedBytes).toBe(2_000);
  });

  test('removes ranges of blobs that are not stored before any download, but none in use', async () => {
    await leaveIngest('fill-1', 2_000);
    await makeOld('fill-1');
    for (const key of ['part0-1', 'part0-2']) {
      const parts = await spool.parts(steadyLease(key), 100_000);
      await parts.write(50_000, Buffer.alloc(3_000, 'x'));
      await parts.suspend();
      await parts.close();
    }
    await metadata.acquireLease('part0-2');
    const report = await upkeep({ maxBytes: 1 }).evict();
    expect(await ingestKeys()).toEqual(['part0-2']);
    expect(report).toMatchObject({ items: 2, stuckAt: 'maxBytes' });
    await leaveIngest('fill-1', 2_000);
    await makeOld('fill-1');
    await metadata.release(steadyLease('part0-2', (await metadata.readLease('part0-2'))?.epoch));
    const { unfinishedBytes } = spool;
    await upkeep({ maxBytes: unfinishedBytes - 1 }).evict();
    expect(await ingestKeys()).toEqual(['fill-1']);
  });

  test('removes what is idle of unfinished transfers before it leaves no room for those that run', async () => {
    await leaveIngest('fill-older', 4_000);
    await makeOld('fill-older');
    await leaveIngest('fill-newer', 4_000);
    const eviction = upkeep({ maxBytes: 10_000 });
    expect(await eviction.needsEviction()).toBe(false);
    await leaveIngest('upload-1', 1_500);
    expect(await eviction.needsEviction()).toBe(true);
    const dry = await eviction.evict({ dryRun: true });
    expect(await eviction.evict()).toEqual(dry);
    expect(dry).toMatchObject({ items: 1, bytes: 4_000, stuckAt: undefined });
    expect((await ingestKeys()).toSorted()).toEqual(['fill-newer', 'upload-1']);
    expect(await eviction.needsEviction()).toBe(false);
  });

  test('removes what is idle of unfinished transfers for one that runs and would exceed the limit', async () => {
    await leaveIngest('fill-older', 4_000);
    await makeOld('fill-older');
    await leaveIngest('fill-newer', 4_000);
    const eviction = upkeep({ maxBytes: 10_000 });
    expect(await eviction.evict({ wantedBytes: 1_000 })).toMatchObject({ items: 0 });
    expect(await eviction.evict({ wantedBytes: 2_500 })).toMatchObject({ items: 1, bytes: 4_000 });
    expect(await ingestKeys()).toEqual(['fill-newer']);
  });

  test('can leave out in a dry run what garbage collection would have freed before', async () => {
    await pushBlob(HOSTED, 'garbage'.repeat(1000));
    await pushImage(MIRRORED, 'v1', ['mirrored']);
    await tick();
    const small = upkeep({ maxBytes: 5000 });
    const garbage = (await small.collect({ dryRun: true }))?.blobs.bytes ?? 0;
    expect(await small.evict({ dryRun: true })).not.toMatchObject({ items: 0 });
    const dry = await small.evict({ dryRun: true, asIfFreedBytes: garbage });
    await small.collect();
    expect(dry).toEqual(await small.evict());
    expect(dry).toMatchObject({ items: 0, stuckAt: undefined });
  });

  test('counts a manifest together with the lists of referrers that are removed with it', async () => {
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] }));
    const manifest = { digest: digestOf(bytes), mediaType: OCI_INDEX, bytes };
    for (const repository of [MIRRORED, { ...MIRRORED, name: 'library/other' }]) {
      await metadata.putManifest(repository, manifest, parseManifest(bytes, OCI_INDEX), { atMs: 1 });
      const list = { mediaType: OCI_INDEX, bytes: Buffer.alloc(10_000), checkedAtMs: 1 };
      await metadata.putReferrersList(repository, manifest.digest, list);
    }
    const useful = await pushBlob(MIRRORED, 'useful'.repeat(100));
    await tick();
    const maxBytes = 20_000;
    const dry = await upkeep({ maxBytes }).evict({ dryRun: true });
    const report = await upkeep({ maxBytes }).evict();
    expect(report).toEqual(dry);
    expect(report).toMatchObject({ items: 1, bytes: 20_000 + bytes.byteLength });
    expect(await metadata.statBlob(useful)).toBeDefined();
  });

  test('counts uses that were noted just before', async () => {
    const [used, unused] = await Promise.all(
      ['used', 'unused'].map(text => pushBlob(MIRRORED, text.repeat(1_000))),
    );
    alter('UPDATE blobs SET used_at_ms = iif(digest = ?, 1, 2)', used);
    metadata.noteUse(used ?? NONE);
    await tick();
    const { blobBytes } = await metadata.readTotals();
    expect(await upkeep({ maxBytes: blobBytes - 1 }).evict()).toMatchObject({ items: 1 });
    expect(await heldFiles()).toEqual([used]);
    expect(await metadata.statBlob(unused ?? NONE)).toBeUndefined();
  });

  test('removes what nothing refers to any more before any image, whatever the grace period', async () => {
    const wanted = await pushImage(MIRRORED, 'wanted', [`wanted ${'x'.repeat(10_000)}`]);
    await tick();
    const other = { ...MIRRORED, name: 'library/other' };
    const forgotten = await pushImage(other, 'v1', [`forgotten ${'x'.repeat(10_000)}`]);
    const loose = await pushBlob(HOSTED, 'of a push in progress');
    await metadata.removeRepository(other);
    await tick();
    const { blobBytes, manifestBytes } = await metadata.readTotals();
    const eviction = upkeep({ maxBytes: blobBytes + manifestBytes - 1, gracePeriodMs: NEVER_MS });
    const dry = await eviction.evict({ dryRun: true });
    const report = await eviction.evict();
    expect(report).toEqual(dry);
    expect(report).toMatchObject({ stuckAt: undefined });
    expect(await metadata.readManifestBytes(forgotten.digest)).toBeUndefined();
    expect(await heldFiles()).toEqual(expect.arrayContaining([...wanted.blobs, loose]));
    expect(await heldFiles()).not.toContain(forgotten.blobs[1]);
    expect(await metadata.readManifestBytes(wanted.digest)).toBeDefined();
  });

  test('says in a dry run what it would remove after a collection', async () => {
    const old = await storeBlob('old'.repeat(1_000));
    await metadata.putBlob(old, 3_000);
    alter('UPDATE blobs SET used_at_ms = 1 WHERE digest = ?', old);
    const recent = await storeBlob('recent'.repeat(500));
    await metadata.putBlob(recent, 3_000);
    await pushImage(MIRRORED, 'v1', ['mirrored'.repeat(500)]);
    await tick();
    const small = upkeep({ maxBytes: 5_000, gracePeriodMs: NEVER_MS });
    const asIfFreedBytes = (await small.collect({ dryRun: true }))?.blobs.bytes ?? 0;
    expect(asIfFreedBytes).toBe(3_000);
    const dry = await small.evict({ dryRun: true, asIfFreedBytes });
    expect(dry).toMatchObject({ items: 1, bytes: 3_000 });
    await small.collect();
    expect(await small.evict()).toEqual(dry);
  });

  test.each([
    ['an import runs, which may be about to link it', () => acquireImportLease(metadata)],
    ['nothing is collected after a rebuild', () => stopCollectingAfterRebuild(metadata)],
  ])('leaves content without a Link to the grace period while %s', async (_, begin) => {
    const imported = await storeBlob('imported');
    await metadata.putBlob(imported, 8);
    const mirrored = await pushBlob(MIRRORED, 'mirrored');
    await tick();
    await begin();
    expect(await upkeep({ maxBytes: 1 }).evict()).toMatchObject({ items: 1, stuckAt: 'maxBytes' });
    expect(await heldFiles()).toEqual([imported]);
    expect(await metadata.statBlob(mirrored)).toBeUndefined();
  });

  test('keeps all stored content while the index may be incomplete: hosted images that it lacks may have the same blobs', async () => {
    const mirrored = await pushBlob(MIRRORED, 'mirrored');
    await tick();
    await stopCollecting(metadata, 'a doubt');
    expect(await upkeep({ maxBytes: 1 }).evict()).toMatchObject({ items: 0, stuckAt: 'maxBytes' });
    expect(await heldFiles()).toEqual([mirrored]);
    expect(await metadata.statBlob(mirrored)).toBeDefined();
  });

  test('is shown by a dry run as it will be after a forced collection', async () => {
    await metadata.putBlob(await storeBlob('unlinked'), 8);
    await pushBlob(MIRRORED, 'mirrored');
    await tick();
    await stopCollecting(metadata, 'a doubt');
    const small = upkeep({ maxBytes: 1, gracePeriodMs: 3_600_000 });
    expect(await small.evict({ dryRun: true })).toMatchObject({ items: 0 });
    const dry = await small.evict({ dryRun: true, force: true });
    expect(dry).toMatchObject({ items: 2, bytes: 16 });
    expect(await small.evict({ force: true })).toMatchObject({ items: 0 });
    await small.collect({ force: true });
    expect(await small.evict({ force: true })).toEqual(dry);
  });

  test('keeps hosted, shared, pinned and read content, and reports if nothing else is left', async () => {
    const hosted = await pushImage(HOSTED, 'v1', ['hosted', 'shared']);
    await pushImage(MIRRORED, 'v1', ['shared', 'mirrored']);
    const pinned = await pushImage(MIRRORED, 'v2', ['pinned']);
    await pushIndex(MIRRORED, 'multi', [pinned.digest]);
    await metadata.putPin(MIRRORED, 'multi');
    const read = await pushBlob(MIRRORED, 'read');
    const reader = await blobs.open(read);
    await tick();
    expect(await upkeep({ maxBytes: 1 }).evict()).toMatchObject({ stuckAt: 'maxBytes' });
    const mirroredGone = digestOf(Buffer.from('mirrored'));
    const held = await heldFiles();
    expect(held).toEqual(expect.arrayContaining([...hosted.blobs, ...pinned.blobs, read]));
    expect(held).not.toContain(mirroredGone);
    expect(await metadata.readManifestBytes(pinned.digest)).toBeDefined();
    await reader?.close();
    await upkeep({ maxBytes: 1 }).evict();
    expect(await heldFiles()).not.toContain(read);
  });
});

describe('a disk without enough free space', () => {
  /** More than any disk has. */
  const EVERYTHING = 2 ** 60;

  test('is evicted although the store may be larger, and it is reported if nothing else is left', async () => {
    const image = await pushImage(MIRRORED, 'v1', ['mirrored']);
    const hosted = await pushImage(HOSTED, 'v1', ['hosted']);
    await tick();
    expect(await upkeep().needsEviction()).toBe(false);
    minFreeBytes = EVERYTHING;
    expect(await upkeep().needsEviction()).toBe(true);
    const dry = await upkeep().evict({ dryRun: true });
    const report = await upkeep().evict();
    expect(report).toEqual(dry);
    expect(report).toMatchObject({ items: 2, stuckAt: 'minFree' });
    const held = await heldFiles();
    expect(held).toEqual(expect.arrayContaining([...hosted.blobs]));
    expect(held).not.toContain(image.blobs[1]);
  });

  test('is evicted for a pending write, unless everything evictable would not be enough', async () => {
    const image = await pushImage(MIRRORED, 'v1', ['mirrored']);
    await tick();
    const { freeBytes } = await spool.space.look();
    expect(await upkeep().evict({ wantedBytes: EVERYTHING })).toMatchObject({ items: 0, stuckAt: undefined });
    expect(await heldFiles()).toEqual(expect.arrayContaining([...image.blobs]));
    // Whatever else happens on the disk, at least a GiB is short, and what is held would be enough.
    const heldBytes = 2 ** 31;
    await metadata.putBlob(digestOf(Buffer.from('of which only the row is here')), heldBytes, HOSTED);
    minFreeBytes = Math.max(0, freeBytes - 2 ** 30);
    expect(await upkeep().evict({ wantedBytes: 2 ** 31 })).toMatchObject({ items: 3, stuckAt: 'minFree' });
  });

  test('a full disk evicts no blobs that are elsewhere, but unfinished transfers', async () => {
    await pushImage(MIRRORED, 'v1', ['mirrored']);
    await tick();
    const ingest = await spool.ingest(steadyLease('fill-left'));
    await ingest.write([Buffer.alloc(5)]);
    await ingest.suspend();
    await ingest.close();
    minFreeBytes = EVERYTHING;
    const elsewhere = new ObjectBlobStore(new Bucket());
    const evict = () => upkeepOf({ metadata, spool, blobs: elsewhere }, survey).evict();
    expect(await evict()).toMatchObject({ items: 1, bytes: 5, stuckAt: 'minFree' });
    expect(await evict()).toMatchObject({ items: 0 });
  });
});

describe('a clock that was ahead and is corrected', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'] }));
  afterEach(() => void vi.useRealTimers());

  test('keeps nothing from eviction and collection for longer than ten minutes and the grace period', async () => {
    const rightMs = Date.now();
    vi.setSystemTime(rightMs + 365 * 24 * NEVER_MS);
    const evictable = await pushBlob(MIRRORED, 'evictable');
    const unneeded = await pushBlob(HOSTED, 'unneeded');
    vi.setSystemTime(rightMs);
    const evict = () => upkeep({ maxBytes: 1 }).evict();
    expect(await evict()).toMatchObject({ items: 0, stuckAt: 'maxBytes' });
    vi.setSystemTime(rightMs + 599_000);
    expect(await evict()).toMatchObject({ items: 0, stuckAt: 'maxBytes' });
    vi.setSystemTime(rightMs + 601_000);
    await evict();
    vi.setSystemTime(rightMs + 602_000);
    expect(await evict()).toMatchObject({ items: 1 });
    expect(await metadata.statBlob(evictable)).toBeUndefined();
    await metadata.unlinkBlob(HOSTED, unneeded);
    expect(await upkeep({ gracePeriodMs: 10_000 }).collect()).toMatchObject({ blobs: { items: 0 } });
    vi.setSystemTime(rightMs + 612_000);
    expect(await upkeep({ gracePeriodMs: 10_000 }).collect()).toMatchObject({ blobs: { items: 1 } });
  });

  test('keeps no Link for longer than that, even if nothing else was used in the future', async () => {
    const rightMs = Date.now();
    const blob = await pushBlob(HOSTED, 'linked twice');
    vi.setSystemTime(rightMs + 365 * 24 * NEVER_MS);
    await metadata.linkBlob(HOSTED, blob, 12);
    vi.setSystemTime(rightMs + 20_000);
    const collector = upkeep({ gracePeriodMs: 10_000 });
    expect(await collector.collect()).toMatchObject({ links: 0 });
    vi.setSystemTime(rightMs + 621_000);
    expect(await collector.collect()).toMatchObject({ links: 0 });
    vi.setSystemTime(rightMs + 630_000);
    expect(await collector.collect()).toMatchObject({ links: 0 });
    vi.setSystemTime(rightMs + 632_000);
    expect(await collector.collect()).toMatchObject({ links: 1, blobs: { items: 1 } });
  });

  test('changes nothing if it is only behind for a while, as after a boot', async () => {
    const rightMs = Date.now();
    const older = await pushBlob(MIRRORED, 'older');
    vi.setSystemTime(rightMs + 1_000);
    const kept = await pushBlob(MIRRORED, 'newer');
    vi.setSystemTime(0);
    expect(await upkeep({ maxBytes: 1 }).evict()).toMatchObject({ items: 0 });
    vi.setSystemTime(rightMs + 2_000);
    expect(await upkeep({ maxBytes: 6 }).evict()).toMatchObject({ items: 1 });
    expect([await metadata.statBlob(older), await metadata.statBlob(kept)]).toEqual([undefined, { size: 5 }]);
  });
});

/** When the last scrub was, after one that was finished then. */
async function scrubbedAt(finishedAtMs: number): Promise<number> {
  await metadata.putSetting('scrub', JSON.stringify({ after: '', finishedAtMs }));
  return upkeep().scrubbedAtMs();
}

describe('scrub', () => {
  test('finds nothing in an undamaged store, and records when it was done', async () => {
    const image = await pushImage(HOSTED, 'v1', ['layer']);
    expect(await upkeep().scrubbedAtMs()).toBe(0);
    expect(await upkeep().scrub()).toMatchObject({ checked: image.blobs.length, damaged: [] });
    expect(await upkeep().scrubbedAtMs()).toBeGreaterThan(0);
  });

  test('counts as done when the clock is set back a little after it, but not when by more', async () => {
    const littleAheadMs = Date.now() + 30_000;
    expect(await scrubbedAt(littleAheadMs)).toBe(littleAheadMs);
    expect(await scrubbedAt(Date.now() + 3_600_000)).toBe(0);
  });

  test('makes damaged content absent; mirrored files are removed, hosted ones stay to be rescued', async () => {
    const mirrored = await pushBlob(MIRRORED, 'mirrored');
    const hosted = await pushBlob(HOSTED, 'hosted');
    const lost = await pushBlob(HOSTED, 'lost');
    await Promise.all([damage(mirrored), damage(hosted)]);
    await remove(blobs, lost);
    const dry = await upkeep().scrub({ dryRun: true });
    expect(dry?.damaged).toHaveLength(3);
    expect(await metadata.countDamaged()).toBe(0);
    const report = await upkeep().scrub();
    expect(new Map(report?.damaged.map(({ digest, loss }) => [digest, loss]))).toEqual(
      new Map([
        [mirrored, 'mirrored'],
        [hosted, 'hosted'],
        [lost, 'hosted'],
      ]),
    );
    expect(await metadata.statBlob(hosted)).toBeUndefined();
    expect(await heldFiles()).toEqual([hosted]);
    await pushBlob(HOSTED, 'hosted');
    expect(await metadata.readDamage(hosted)).toBeUndefined();
    expect((await upkeep().scrub())?.damaged).toEqual([]);
  });

  test('makes damaged content absent even if another write of the same transaction fails', async () => {
    const damaged = await pushBlob(MIRRORED, 'mirrored');
    await damage(damaged);
    const notANumber: number = JSON.parse('"text"');
    const quarantine = metadata.quarantine.bind(metadata);
    let failing: Promise<unknown> | undefined;
    vi.spyOn(metadata, 'quarantine').mockImplementation((...content) => {
      const quarantined = quarantine(...content);
      failing = metadata.putBlob(digestOf(Buffer.from('x')), notANumber).catch((error: unknown) => error);
      return quarantined;
    });
    expect((await upkeep().scrub())?.damaged).toMatchObject([{ digest: damaged, loss: 'mirrored' }]);
    expect(await failing).toBeInstanceOf(Error);
    expect(await metadata.statBlob(damaged)).toBeUndefined();
    expect(await heldFiles()).toEqual([]);
  });

  test('keeps what a damaged hosted manifest may need', async () => {
    const damaged = await pushImage(HOSTED, 'v1', ['layer']);
    const elsewhere = await pushBlob({ upstream: '', name: 'team/other' }, 'idle');
    maim(damaged.digest);
    expect((await upkeep().scrub())?.damaged).toMatchObject([{ digest: damaged.digest, loss: 'hosted' }]);
    for (const dryRun of [true, false]) {
      expect(await upkeep().collect({ dryRun })).toMatchObject({ links: 1, blobs: { items: 1 } });
    }
    expect(await heldFiles()).toEqual(damaged.blobs.toSorted());
    expect(await metadata.statBlob(elsewhere)).toBeUndefined();
    for (const digest of damaged.blobs) expect(await metadata.isLinked(HOSTED, digest)).toBe(true);
    expect(await heldImage(await survey.image(HOSTED, damaged.digest), blobs)).toMatchObject({
      isDamaged: true,
    });
    await metadata.unlinkManifest(HOSTED, damaged.digest);
    await upkeep().collect();
    expect(await heldFiles()).toEqual([]);
  });

  test('reports what the disk cannot read as damaged, and continues', async () => {
    const [first, second] = [await pushBlob(MIRRORED, 'a'), await pushBlob(MIRRORED, 'b')].toSorted();
    const rehash = blobs.rehash.bind(blobs);
    vi.spyOn(blobs, 'rehash').mockImplementation((digest, options) =>
      digest === first
        ? Promise.reject(Object.assign(new Error('i/o error'), { code: 'EIO' }))
        : rehash(digest, options),
    );
    const report = await upkeep().scrub();
    expect(report?.damaged).toMatchObject([
      { digest: first, reason: 'its file cannot be read from the disk' },
    ]);
    expect(report?.checked).toBe(2);
    expect(await heldFiles()).toEqual([second]);
  });

  test('reports what may not be read, which a chown by mistake makes of everything, and keeps it in use', async () => {
    const held = [await pushBlob(HOSTED, 'hosted'), await pushBlob(MIRRORED, 'mirrored')].toSorted();
    const denied = Object.assign(new Error('permission denied'), { code: 'EACCES' });
    vi.spyOn(blobs, 'rehash').mockRejectedValue(denied);
    const error = vi.fn<Log['error']>();
    const report = await upkeep({ log: { ...silentLog, error } }).scrub();
    const reason = 'permission to read its file is denied';
    expect(report?.damaged).toMatchObject(held.map(digest => ({ digest, reason, loss: undefined })));
    expect(error.mock.calls).toEqual(
      held.map(digest => [{ kind: 'blob', digest, reason }, expect.any(String)]),
    );
    expect(await metadata.countDamaged()).toBe(0);
    expect(await heldFiles()).toEqual(held);
    vi.restoreAllMocks();
    expect((await upkeep().scrub())?.damaged).toEqual([]);
  });

  test.each(['EACCES', 'EPERM'])(
    'keeps what was damaged in use if it may not be read the second time: it may have been replaced (%s)',
    async code => {
      const digest = await pushBlob(MIRRORED, 'mirrored');
      vi.spyOn(blobs, 'rehash')
        .mockResolvedValueOnce(digestOf(Buffer.from('other bytes')))
        .mockRejectedValue(Object.assign(new Error('denied'), { code }));
      expect((await upkeep().scrub())?.damaged).toEqual([]);
      expect(await heldFiles()).toEqual([digest]);
    },
  );

  test('a check of what may not be read rejects: nobody knows whether it is intact', async () => {
    const digest = await pushBlob(MIRRORED, 'mirrored');
    const denied = Object.assign(new Error('denied'), { code: 'EACCES' });
    vi.spyOn(blobs, 'rehash').mockRejectedValue(denied);
    const quarantine = new Quarantine({ metadata, blobs, log: silentLog, meter: silentMeter });
    await expect(quarantine.check(digest)).rejects.toThrow('permission to read its file is denied');
    expect(await heldFiles()).toEqual([digest]);
  });

  test('continues past anything in the place of a blob, and past rows with a damaged digest', async () => {
    const [folderAt, pipe, link, row, wrong] = [
      await pushBlob(MIRRORED, 'folder'),
      await pushBlob(MIRRORED, 'pipe'),
      await pushBlob(MIRRORED, 'link'),
      await pushBlob(MIRRORED, 'row'),
      await pushBlob(MIRRORED, 'wrong'),
    ];
    const sound = await pushBlob(HOSTED, 'sound');
    await Promise.all([folderAt, pipe, link].map(digest => rm(pathOf(digest))));
    await mkdir(pathOf(folderAt));
    execFileSync('mkfifo', [pathOf(pipe)]);
    await symlink(pathOf(sound), pathOf(link));
    await damage(wrong);
    const image = await pushImage(HOSTED, 'v1', ['layer']);
    const broken = `${row.slice(0, -1)}?`;
    alter('UPDATE blobs SET digest = ? WHERE digest = ?', broken, row);
    alter('UPDATE manifests SET digest = ? WHERE digest = ?', 'sha256:short', image.digest);
    const report = await upkeep().scrub();
    expect(report?.damaged.map(({ digest }) => digest).toSorted()).toEqual(
      [folderAt, pipe, link, broken, wrong, 'sha256:short'].toSorted(),
    );
    expect((await upkeep().scrub())?.damaged).toEqual([]);
    expect(await heldFiles()).toEqual([...image.blobs, row, sound].toSorted());
    await upkeep().collect();
  });

  test('more files without a row than crashes leave stop garbage collection until it is forced', async () => {
    const image = await pushImage(HOSTED, 'v1', ['layer']);
    for (let at = 0; at < 60; at += 1) await storeBlob(`stray ${at}`);
    await expect(upkeep().collect({ dryRun: true })).rejects.toThrow('60 of the first 62 files have no row');
    await expect(upkeep().collect()).rejects.toBeInstanceOf(CollectingStopped);
    expect(await heldFiles()).toHaveLength(62);
    const gone = await pushImage(HOSTED, 'v2', ['garbage']);
    await metadata.unlinkManifest(HOSTED, gone.digest);
    await expect(upkeep().collect()).rejects.toThrow('entrepot restore');
    expect(await upkeep().collect({ force: true })).toMatchObject({
      blobs: { items: 2 },
      strays: { items: 60 },
    });
    expect(await heldFiles()).toEqual(image.blobs.toSorted());
    expect(await upkeep().collect()).toMatchObject({ strays: { items: 0 } });
  });

  test('a collection that ends early keeps no folder of files without a row open', async () => {
    const digests = Array.from({ length: 600 }, (_, at) => digestOf(Buffer.from(`stray ${at}`)));
    for (const digest of digests) {
      await mkdir(dirname(pathOf(digest)), { recursive: true });
      await writeFile(pathOf(digest), 'stray');
    }
    await expect(upkeep().collect()).rejects.toBeInstanceOf(CollectingStopped);
    expect(await openFilesIn(join(folder, 'blobs'))).toEqual([]);
  });

  test('a rebuild of the index stops garbage collection until it is forced, and the refusal says so', async () => {
    const stray = await storeBlob('stray');
    await rebuildIndex(
      { metadata, blobs, records: files.records },
      { signal: new AbortController().signal, onProgress() {}, onDamaged() {} },
    );
    await expect(upkeep().collect()).rejects.toThrow(
      /was rebuilt.*; run `entrepot gc --force` once everything that you need has been pulled or pushed again/,
    );
    expect(await heldFiles()).toEqual([stray]);
    expect(await upkeep().collect({ force: true })).toMatchObject({ blobs: { items: 1 } });
    expect(await upkeep().collect()).toMatchObject({ blobs: { items: 0 } });
  });

  test('no garbage is collected during a rebuild, not even if that is forced: files are without a row until it adds them', async () => {
    const lost = await storeBlob('lost its row');
    await stopCollecting(metadata, 'the index is new');
    const rehash = blobs.rehash.bind(blobs);
    const collected: unknown[] = [];
    vi.spyOn(blobs, 'rehash').mockImplementation(async (...parameters) => {
      const actual = await rehash(...parameters);
      collected.push(await upkeep().collect({ force: true }));
      return actual;
    });
    const run = { signal: new AbortController().signal, onProgress() {}, onDamaged() {} };
    expect(await upkeep().rebuild(run)).toMatchObject({ added: 1, isCollectingStopped: true });
    expect([collected, await heldFiles()]).toEqual([[undefined], [lost]]);
  });

  test('a collection whose process others consider dead removes no more files without a row', async () => {
    const lost = await storeBlob('lost its row');
    const acquire = metadata.acquireLease.bind(metadata);
    vi.spyOn(metadata, 'acquireLease').mockImplementation(async (...parameters) => {
      const lease = await acquire(...parameters);
      if (lease !== undefined) vi.spyOn(lease, 'confirm').mockRejectedValue(new LeaseLost(lease.key));
      return lease;
    });
    await expect(upkeep().collect({ force: true })).rejects.toBeInstanceOf(LeaseLost);
    expect(await heldFiles()).toEqual([lost]);
  });

  test('a rebuild that adds nothing leaves garbage collection as it is', async () => {
    const rebuild = () =>
      rebuildIndex(
        { metadata, blobs, records: files.records },
        { signal: new AbortController().signal, onProgress() {}, onDamaged() {} },
      );
    await pushImage(HOSTED, 'v1', ['layer']);
    expect(await rebuild()).toMatchObject({ added: 0, isCollectingStopped: false });
    expect(await upkeep().collect()).toMatchObject({ blobs: { items: 0 } });
    await stopCollecting(metadata, 'the index is new');
    expect(await rebuild()).toMatchObject({ added: 0, isCollectingStopped: true });
    await expect(upkeep().collect()).rejects.toThrow(/was rebuilt/);
  });

  test('as many files without a row as a crash may leave are removed, and more if they are the smaller part', async () => {
    for (let at = 0; at < 59; at += 1) await storeBlob(`stray ${at}`);
    expect(await upkeep().collect()).toMatchObject({ strays: { items: 59 } });
    for (let at = 0; at < 65; at += 1) await storeBlob(`stray ${at}`);
    await pushImage(
      HOSTED,
      'v1',
      Array.from({ length: 70 }, (_, at) => `layer ${at}`),
    );
    expect(await upkeep().collect()).toMatchObject({ strays: { items: 65 } });
  });

  test('a row with a damaged digest does not stop garbage collection', async () => {
    const blob = await pushBlob(MIRRORED, 'unlinked');
    await metadata.removeRepository(MIRRORED);
    alter('UPDATE blobs SET digest = ? WHERE digest = ?', 'sha256:short', blob);
    expect(await upkeep().collect()).toMatchObject({ blobs: { items: 1 }, strays: { items: 1 } });
  });

  test('a file with a Link of a hosted repository stays without its row: it could not be downloaded again', async () => {
    const image = await pushImage(HOSTED, 'v1', ['its row was on a damaged page']);
    alter('DELETE FROM blobs WHERE digest = ?', image.blobs[1]);
    expect(await upkeep().collect()).toMatchObject({ strays: { items: 0 } });
    expect(await heldFiles()).toEqual(image.blobs.toSorted());
  });

  test('checks twice before it removes anything: a push may have replaced the file meanwhile', async () => {
    const mended = await pushBlob(MIRRORED, 'mended');
    vi.spyOn(blobs, 'rehash').mockResolvedValueOnce(digestOf(Buffer.from('other bytes')));
    expect((await upkeep().scrub())?.damaged).toEqual([]);
    expect(await metadata.statBlob(mended)).toBeDefined();
    expect(await heldFiles()).toEqual([mended]);
  });

  test('keeps to its rate, within a blob and from one small blob to the next', async () => {
    const rehash = vi.spyOn(blobs, 'rehash').mockImplementation(async digest => digest);
    for (let at = 0; at < 10; at += 1) await pushBlob(HOSTED, `${at}`.repeat(1000));
    const startedAtMs = performance.now();
    await upkeep({ bytesPerSecond: 10_000 }).scrub();
    expect(performance.now() - startedAtMs).toBeGreaterThan(950);
    expect(rehash.mock.calls.map(([, { bytesPerSecond }]) => bytesPerSecond)).toEqual(
      Array.from({ length: 10 }, () => 10_000),
    );
  });
});

const NONE = digestOf(Buffer.from('none'));

function upkeep(options: Partial<UpkeepOptions> = {}): Upkeep {
  return upkeepOf({ metadata, spool, blobs }, survey, { keepUnfinishedMs: -1, ...options });
}

/** What a dry run says is what happens then; here it changes nothing. */
async function expectDryRunIsRight(): Promise<void> {
  const before = [await heldFiles(), await metadata.readTotals()];
  const dry = await upkeep().collect({ dryRun: true });
  expect(dry).toMatchObject({ manifests: { items: 1 }, blobs: { items: 2 } });
  expect([await heldFiles(), await metadata.readTotals()]).toEqual(before);
}

async function storeBlob(text: string): Promise<Digest> {
  const digest = digestOf(Buffer.from(text));
  const ingest = await spool.ingest(steadyLease(`upload-${digestHex(digest)}`));
  await ingest.write([Buffer.from(text)]);
  await blobs.put(digest, ingest);
  await ingest.close();
  return digest;
}

async function pushBlob(repository: Repository, text: string): Promise<Digest> {
  const digest = await storeBlob(text);
  await metadata.putBlob(digest, Buffer.byteLength(text), repository);
  return digest;
}

interface PushedImage {
  readonly digest: Digest;
  /** Config first. */
  readonly blobs: readonly Digest[];
}

async function pushImage(
  repository: Repository,
  tag: string,
  layers: readonly string[],
): Promise<PushedImage> {
  const config = JSON.stringify({ made: tag });
  const digests = [];
  for (const text of [config, ...layers]) {
    digests.push(await pushBlob(repository, text));
  }
  const sizes = [config, ...layers].map(text => Buffer.byteLength(text));
  const [first, ...rest] = digests.map((digest, index) => ({ digest, size: sizes[index] }));
  const document = {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: OCI_CONFIG, ...first },
    layers: rest.map(layer => ({ mediaType: OCI_LAYER, ...layer })),
    annotations: { tag },
  };
  return { digest: await pushManifest(repository, tag, document, OCI_MANIFEST), blobs: digests };
}

function pushIndex(repository: Repository, tag: string, children: readonly Digest[]): Promise<Digest> {
  const manifests = children.map(digest => ({ mediaType: OCI_MANIFEST, digest, size: 1 }));
  const document = { schemaVersion: 2, mediaType: OCI_INDEX, manifests };
  return pushManifest(repository, tag, document, OCI_INDEX);
}

async function pushManifest(
  repository: Repository,
  tag: string,
  document: object,
  mediaType: string,
): Promise<Digest> {
  const bytes = Buffer.from(JSON.stringify(document));
  const manifest: Manifest = { digest: digestOf(bytes), mediaType, bytes };
  const view: ManifestView = parseManifest(bytes, mediaType);
  await metadata.putManifest(repository, manifest, view, { tag, atMs: Date.now() });
  return manifest.digest;
}

/** Writes other bytes into the blob's file, as a bad disk does. */
async function damage(digest: Digest = NONE): Promise<void> {
  const path = pathOf(digest);
  const { size } = await stat(path);
  await rm(path);
  await writeFile(path, Buffer.alloc(size, '?'));
  await truncate(path, size);
}

function pathOf(digest: Digest): string {
  return join(folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2), digestHex(digest));
}

/** The same for a manifest, whose bytes are in the index. */
function maim(digest: Digest): void {
  alter('UPDATE manifests SET bytes = ? WHERE digest = ?', Buffer.from('?'), digest);
}

/** Changes rows behind the back of the store, as a damaged page does. */
function alter(sql: string, ...parameters: unknown[]): void {
  const database = new Database(join(folder, 'index.db'), { timeout: 5_000 });
  database.prepare(sql).run(...parameters);
  database.close();
}

async function leaveIngest(key: string, size = 5, into = spool): Promise<void> {
  const ingest = await into.ingest(steadyLease(key));
  await ingest.write([Buffer.alloc(size, 'b')]);
  await ingest.suspend();
  await ingest.close();
}

async function makeOld(key: string): Promise<void> {
  const longAgo = new Date(Date.now() - 2 * NEVER_MS);
  await utimes(join(folder, 'ingest', `${key}.1`), longAgo, longAgo);
}

async function ingestKeys(): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of spool.list()) {
    keys.push(key);
  }
  return keys.toSorted();
}

async function heldFiles(): Promise<Digest[]> {
  const digests: Digest[] = [];
  for await (const { digest } of blobs.list()) {
    digests.push(digest);
  }
  return digests.toSorted();
}

/** Uses are told apart by the millisecond. */
async function tick(): Promise<void> {
  await new Promise(resolve => setTimeout(resolve, 2));
}
