import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { BlobStore } from '../blobs/blob-store.ts';
import { type FileStores, openFileStores } from '../blobs/file-stores.ts';
import type { Spool } from '../blobs/spool.ts';
import { surveyOfFolder } from './survey.fixture.ts';
import { type Log, silentLog } from '../lib/log.ts';
import { ManualClock } from '../lib/manual-clock.fixture.ts';
import { steadyLease } from '../lib/lease.suite.ts';
import type { MetadataStore } from '../metadata/metadata-store.ts';
import { openSqliteMetadataStore } from '../metadata/sqlite-metadata-store.ts';
import { stopCollecting } from '../metadata/store-identity.ts';
import { type Digest, digestHex, digestOf } from '../oci/digest.ts';
import { DiskWatch } from './disk-watch.ts';
import { Schedule } from './schedule.ts';
import type { SurveyThread } from './survey-thread.ts';
import { upkeepOf } from './upkeep.fixture.ts';

const MIRRORED = { upstream: 'docker.io', name: 'library/nginx' };
const DAY_MS = 86_400_000;
/** About as long as the schedule waits between two looks at the store's size. */
const INTERVAL_MS = 5_000;
const NEVER_MS = Number.POSITIVE_INFINITY;

let folder: string;
let clock: ManualClock;
let metadata: MetadataStore;
let files: FileStores;
let spool: Spool;
let blobs: BlobStore;
let survey: SurveyThread;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-schedule-'));
  clock = new ManualClock();
  metadata = await openSqliteMetadataStore(join(folder, 'index.db'), { log: silentLog });
  files = await openFileStores(folder, { log: silentLog });
  ({ spool, blobs } = files);
  survey = surveyOfFolder(folder);
});

afterEach(async () => {
  await survey.close();
  await files.close();
  await metadata.close();
  await rm(folder, { recursive: true });
});

test('garbage is collected repeatedly, until it is closed', async () => {
  const schedule = begin({ collectIntervalMs: INTERVAL_MS });
  await schedule.begin();
  for (const text of ['first', 'second']) {
    const digest = await storeBlob(text);
    await gone(digest);
  }
  await schedule.close();
  expect(clock.waiting).toBe(0);
});

test('all stored content is verified repeatedly, and damage is found', async () => {
  const schedule = begin({ scrubIntervalMs: INTERVAL_MS });
  await schedule.begin();
  for (const text of ['first', 'second']) {
    const digest = await storeBlob(text, MIRRORED);
    await writeFile(pathOf(digest), 'spoilt');
    await gone(digest);
    expect(await metadata.statBlob(digest)).toBeUndefined();
  }
  await schedule.close();
});

test('a scrub that was recorded in the future, by a clock that was set back since, is repeated', async () => {
  const digest = await storeBlob('whole', MIRRORED);
  await writeFile(pathOf(digest), 'spoilt');
  const state = { after: '', finishedAtMs: Date.now() + 365 * DAY_MS };
  await metadata.putSetting('scrub', JSON.stringify(state));
  const schedule = begin({ scrubIntervalMs: INTERVAL_MS });
  await schedule.begin();
  await gone(digest);
  expect(await metadata.statBlob(digest)).toBeUndefined();
  await schedule.close();
});

test('a store that exceeds its limit is evicted automatically', async () => {
  const digest = await storeBlob('mirrored', MIRRORED);
  const schedule = begin({ maxBytes: 1 });
  await schedule.begin();
  await gone(digest);
  expect(await metadata.isLinked(MIRRORED, digest)).toBe(true);
  await schedule.close();
});

test('a store that exceeds its limit while the index may be incomplete says that this may be why', async () => {
  await storeBlob('mirrored', MIRRORED);
  await stopCollecting(metadata, 'a part is missing');
  const warnings: string[] = [];
  const schedule = begin({
    maxBytes: 1,
    log: { ...silentLog, warn: (_, message) => void warnings.push(message) },
  });
  await schedule.begin();
  while (warnings.length === 0) {
    await clock.advance(INTERVAL_MS);
    await sleep(5);
  }
  await schedule.close();
  expect(warnings).toEqual([expect.stringContaining('the index may be incomplete')]);
});

test('what fails because the index is gone is left to those who report that', async () => {
  await storeBlob('mirrored', MIRRORED);
  const errors: string[] = [];
  const schedule = begin({
    maxBytes: 1,
    log: { ...silentLog, error: (_, message) => void errors.push(message) },
  });
  await schedule.begin();
  await rm(join(folder, 'index.db'));
  for (let tries = 0; tries < 5; tries++) {
    await clock.advance(INTERVAL_MS);
    await sleep(5);
  }
  await schedule.close();
  expect(errors).toEqual([]);
});

test('the survey reports an error, and answers the next question', async () => {
  const lost = surveyOfFolder(join(folder, 'nothing'));
  await expect(lost.blobs()).rejects.toThrow('the survey failed');
  await expect(lost.tags()).rejects.toThrow('the survey failed');
  await lost.close();
  await expect(lost.blobs()).rejects.toThrow('closed');
});

test('the survey says which call of the system has failed, for the message of a command', async () => {
  // A link to itself: a folder that may not be read stops only users other than root.
  const broken = surveyOfFolder(folder);
  await mkdir(join(folder, 'blobs'), { recursive: true });
  await rm(join(folder, 'blobs', 'sha256'), { recursive: true, force: true });
  await symlink('sha256', join(folder, 'blobs', 'sha256'));
  await expect(broken.strayFiles(Date.now())).rejects.toMatchObject({
    message: expect.stringContaining('the survey failed: ELOOP'),
    code: 'ELOOP',
    syscall: 'stat',
  });
  await broken.close();
});

function pathOf(digest: Digest): string {
  return join(folder, 'blobs', 'sha256', digestHex(digest).slice(0, 2), digestHex(digest));
}

function begin({
  collectIntervalMs = NEVER_MS,
  scrubIntervalMs = NEVER_MS,
  maxBytes,
  log = silentLog,
}: {
  collectIntervalMs?: number;
  scrubIntervalMs?: number;
  maxBytes?: number;
  log?: Log;
}) {
  const upkeep = upkeepOf({ metadata, spool, blobs }, survey, { keepGrantsMs: 3_600_000, maxBytes });
  const disk = new DiskWatch(spool.space, silentLog);
  return new Schedule({ upkeep, disk, clock, log, collectIntervalMs, scrubIntervalMs });
}

async function storeBlob(text: string, repository?: typeof MIRRORED): Promise<Digest> {
  const digest = digestOf(Buffer.from(text));
  const ingest = await spool.ingest(steadyLease(`upload-${digestHex(digest)}`));
  await ingest.write([Buffer.from(text)]);
  await blobs.put(digest, ingest);
  await ingest.close();
  await metadata.putBlob(digest, text.length, repository);
  return digest;
}

/** Lets time pass until the blob is gone. */
async function gone(digest: Digest): Promise<void> {
  while ((await blobs.stat(digest)) !== undefined) {
    await clock.advance(INTERVAL_MS);
    await sleep(5);
  }
}
