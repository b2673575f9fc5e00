// What goes wrong between the index and a real PostgreSQL.
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { LeaseLost } from '../../src/lib/lease.ts';
import { leaseOf } from '../../src/lib/lease.suite.ts';
import { type Log, silentLog } from '../../src/lib/log.ts';
import { ManualClock } from '../../src/lib/manual-clock.fixture.ts';
import { IndexAway } from '../../src/metadata/index-away.ts';
import type { MetadataStore } from '../../src/metadata/metadata-store.ts';
import { openPostgresMetadataStore } from '../../src/metadata/postgres-metadata-store.ts';
import { Database } from '../../src/metadata/postgres/database.ts';
import { lockSpace } from '../../src/metadata/postgres/digest-locks.ts';
import { isAway } from '../../src/metadata/postgres/failures.ts';
import * as leases from '../../src/metadata/postgres/leases.ts';
import { MIGRATIONS, migrate } from '../../src/metadata/postgres/migrations.ts';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import type { PostgresSession } from '../../src/metadata/postgres/session.ts';
import { Writer } from '../../src/metadata/postgres/writer.ts';
import { openPostgresSurvey } from '../../src/metadata/postgres-survey.ts';
import { digestOf } from '../../src/oci/digest.ts';
import type { Manifest, ManifestView } from '../../src/oci/manifest.ts';
import { Latch } from '../support/latch.ts';
import { HAS_POSTGRES, Postgres, sql } from '../support/postgres.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

const BLOB = digestOf(Buffer.from('blob'));
const HOSTED = { upstream: '', name: 'team/app' };
const OTHER = { upstream: '', name: 'team/other' };
const IMAGE = imageOf('{}');

describe.skipIf(!HAS_POSTGRES)('an index in PostgreSQL', () => {
  let postgres: Postgres;
  let settings: PostgresSettings;
  let folder: string;
  const opened: MetadataStore[] = [];
  const links: Link[] = [];

  beforeAll(async () => void (postgres = await Postgres.start()));
  afterAll(() => postgres.remove());

  beforeEach(async () => {
    settings = postgres.settings();
    folder = await makeTempFolder('faults');
  });

  afterEach(async () => {
    for (const store of opened.splice(0)) await store.close();
    for (const link of links.splice(0)) await link.close();
    await removeFolder(folder);
  });

  async function open(
    more: { at?: PostgresSettings; clock?: ManualClock; replica?: string; serves?: boolean; log?: Log } = {},
  ): Promise<MetadataStore> {
    const { at = settings, clock, replica, serves = false, log = silentLog } = more;
    const store = await openPostgresMetadataStore(at, {
      log,
      folder: { path: join(folder, replica ?? ''), id: replica ?? 'folder', replica },
      serves,
      ...(clock && { clock }),
    });
    opened.push(store);
    return store;
  }

  describe('whose connection is lost', () => {
    let link: Link;
    beforeEach(async () => {
      link = await Link.open(settings.port);
      links.push(link);
    });

    const rows = async () => (await sql(settings, 'SELECT 1 FROM @objects')).length;

    test.each(['before', 'after'] as const)(
      '%s the server got the commit: the write is done once',
      async cut => {
        const store = await open({ at: { ...settings, port: link.port } });
        const lease = await leaseOf(store, 'upload-1');
        // It has no effect twice: a second one would be refused.
        link.cutAtCommit(cut);
        await store.announceObject({ digest: BLOB, key: 'a' }, lease);
        expect([link.cuts, await rows()]).toEqual([1, 1]);
      },
    );

    test('and is not found again: it is not waited for longer than clients are', async () => {
      const store = await open({ at: { ...settings, port: link.port } });
      link.cutAtCommit('after', { swallows: true });
      const fromMs = performance.now();
      await expect(store.putBlob(BLOB, 4)).rejects.toThrow(IndexAway);
      expect(performance.now() - fromMs).toBeLessThan(20_000);
    });

    test('and is not found again for a while as a Lease is acquired: nobody keeps that Lease', async () => {
      const clock = new ManualClock();
      const store = await open({ at: { ...settings, port: link.port }, clock });
      link.cutAtCommit('after', { swallows: true });
      await expect(store.acquireLease('fill-1')).rejects.toThrow(IndexAway);
      expect(await sql(settings, 'SELECT key FROM @leases')).toEqual([{ key: 'fill-1' }]);
      link.goOn();
      await expect
        .poll(async () => {
          await clock.pass(1_000);
          return sql(settings, 'SELECT key FROM @leases');
        })
        .toEqual([]);
      expect(await store.acquireLease('fill-1')).toBeDefined();
    });

    test('and with it a heartbeat that gives back such a Lease: a later one does', async () => {
      const clock = new ManualClock();
      const store = await open({ at: { ...settings, port: link.port }, clock });
      const leased = () => sql(settings, 'SELECT key FROM @leases');
      link.cutAtCommit('after', { swallows: true });
      await expect(store.acquireLease('fill-1')).rejects.toThrow(IndexAway);
      // The first heartbeats are kept from committing, too.
      const { cuts } = link;
      link.cutAtCommit('before', { each: true });
      link.goOn();
      await expect
        .poll(async () => {
          await clock.pass(1_000);
          return link.cuts;
        })
        .toBeGreaterThan(cuts + 1);
      expect(await leased()).toEqual([{ key: 'fill-1' }]);
      link.leaveUncut();
      await expect
        .poll(async () => {
          await clock.pass(1_000);
          return leased();
        })
        .toEqual([]);
    });

    test('and commits a Lease only after that was given up: nobody keeps it either', async () => {
      const own = await Postgres.start();
      const at = own.settings();
      const waitFor = (standby: string) =>
        sql(at, `ALTER SYSTEM SET synchronous_standby_names = '${standby}'`).then(() =>
          sql(at, 'SELECT pg_reload_conf()'),
        );
      const ownLink = await Link.open(at.port);
      try {
        const clock = new ManualClock();
        const store = await open({ at: { ...at, port: ownLink.port }, clock });
        // From now on, a commit that is to be durable waits for a standby that does not exist.
        await waitFor('absent');
        const written: Promise<unknown>[] = [];
        await expect
          .poll(() => {
            // Another text each time: what changes nothing waits for nobody, and the first may come before the setting does.
            written.push(sql(at, `COMMENT ON DATABASE postgres IS '${written.length}'`));
            return sql(at, "SELECT wait_event FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
          })
          .not.toEqual([]);
        ownLink.cutAtCommit('after', { swallows: true });
        await expect(store.acquireLease('fill-1')).rejects.toThrow(IndexAway);
        ownLink.goOn();
        const leased = () => sql(at, 'SELECT key FROM @leases');
        for (let beat = 0; beat < 5; beat++) {
          await clock.pass(1_000);
          await delay(100);
        }
        expect(await leased()).toEqual([]);
        await waitFor('');
        await Promise.all(written);
        await expect.poll(leased, { timeout: 15_000 }).toEqual([{ key: 'fill-1' }]);
        await expect
          .poll(async () => {
            await clock.pass(1_000);
            return leased();
          })
          .toEqual([]);
        expect(await store.acquireLease('fill-1')).toBeDefined();
      } finally {
        for (const store of opened.splice(0)) await store.close();
        await ownLink.close();
        await own.remove();
      }
    });

    test('the log says once that the database is away, with its address, and once that it is back', async () => {
      const logged: unknown[] = [];
      const tell: Log['warn'] = (fields, message) => void logged.push({ ...fields, message });
      await open({ at: { ...settings, port: link.port }, log: { ...silentLog, warn: tell, info: tell } });
      await link.shut();
      await expect.poll(() => logged.length, { timeout: 10_000 }).toBe(1);
      // Until another heartbeat has failed.
      await new Promise(resolve => setTimeout(resolve, 2_500));
      await link.reopen();
      await expect.poll(() => logged.length, { timeout: 10_000 }).toBe(2);
      const reason = expect.stringContaining(`at 127.0.0.1:${link.port}`);
      expect(logged).toEqual([
        { reason, message: 'the database of the index cannot be reached; retrying every second' },
        { message: 'the database of the index can be reached again' },
      ]);
    });

    test('during a question: it is asked again', async () => {
      const store = await open({ at: { ...settings, port: link.port } });
      await store.putBlob(BLOB, 4);
      link.cutAll();
      expect(await store.statBlob(BLOB)).toEqual({ size: 4 });
    });
  });

  test('a survey that met an outage goes on when it is over', async () => {
    await open();
    const link = await Link.open(settings.port);
    links.push(link);
    const survey = await openPostgresSurvey({ ...settings, port: link.port });
    await survey.blobs();
    await link.shut();
    await expect(survey.blobs()).rejects.toThrow(IndexAway);
    await link.reopen();
    expect(await survey.blobs()).toMatchObject({ entries: [] });
    await survey.close();
  });

  test('leaves no settings in a session, which a pooler may give to others', async () => {
    await open();
    for (const isForSurvey of [false, true]) {
      const database = new Database({ ...settings, poolSize: 1 }, { isForSurvey });
      const session = () => database.row<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      const before = await session();
      await new Writer(database).write(async () => {}, { outlivesPower: false });
      const { rows } = await database.trying(client =>
        client.query("SELECT name FROM pg_settings WHERE source = 'session'"),
      );
      expect(rows).toEqual([]);
      expect(await session()).toEqual(before);
      await database.close();
    }
  });

  test('is surveyed even if the statement timeout of its role is short', async () => {
    await sql(settings, `ALTER ROLE CURRENT_USER SET statement_timeout = '100ms'`);
    const database = new Database(settings, { isForSurvey: true });
    try {
      expect(await database.rows("SELECT 'over' AS pause FROM pg_sleep(0.3)")).toEqual([{ pause: 'over' }]);
    } finally {
      await database.close();
      await sql(settings, 'ALTER ROLE CURRENT_USER RESET statement_timeout');
    }
  });

  test('bytes are not removed by a process that was suspended after it had asked whether they are stray', async () => {
    const link = await Link.open(settings.port);
    links.push(link);
    const [suspended, other] = [await open({ at: { ...settings, port: link.port } }), await open()];
    const held = link.holdAnswerTo('quarantine');
    let removals = 0;
    const asked = suspended.ifStray([BLOB], () => (removals += 1));
    await held;
    // Waits until the server has ended the transaction.
    await other.putBlob(BLOB, 4, HOSTED);
    link.passOn();
    expect([await asked, removals]).toEqual([[], 0]);
  });

  describe('a process that comes back after others took it for dead', () => {
    const KEY = 'upload-1';
    let database: Database;
    let writer: Writer;

    beforeEach(() => {
      database = new Database({ ...settings, poolSize: 2 });
      writer = new Writer(database);
    });
    afterEach(() => database.close());

    /** As others see it. */
    async function removeHolder(): Promise<string> {
      const [row] = await sql<{ id: string }>(
        settings,
        'DELETE FROM @processes WHERE id = (SELECT process_id FROM @leases) RETURNING id',
      );
      return row?.id ?? '';
    }

    test('keeps its Lease from one who asks for it at that moment', async () => {
      const [holder, other] = [
        await open({ clock: new ManualClock() }),
        await open({ clock: new ManualClock() }),
      ];
      await leaseOf(holder, KEY);
      const id = await removeHolder();
      let asking: Promise<unknown> | undefined;
      await writer.write(async session => {
        await leases.join(session, {
          id,
          address: 'back',
          folder: 'folder',
          replica: undefined,
          isThread: false,
        });
        expect((await leases.ownEpochs(session, id)).size).toBe(1);
        asking = other.acquireLease(KEY);
        await expect.poll(waiting).toBe(1);
      });
      expect(await asking).toBeUndefined();
    });

    test('knows that it has lost its Lease to one who is taking it at that moment', async () => {
      const clock = new ManualClock();
      const holder = await open({ clock });
      const lease = await leaseOf(holder, KEY);
      await removeHolder();
      await writer.write(async session => {
        expect(await leases.takeLease(session, KEY, 'other')).toBeDefined();
        await clock.pass(1_000);
        await expect.poll(waiting).toBe(1);
      });
      await expect.poll(() => failureOf(() => lease.confirm())).toBe('LeaseLost');
    });
  });

  test('that is older than what is remembered of it, as after a restore, is asked again', async () => {
    const store = await open();
    await store.putBlob(BLOB, 4, HOSTED);
    await store.putGrant(HOSTED, { credentialId: 'c', verifiedAtMs: 1 });
    const grants = async () =>
      (await store.readBlobForPull(HOSTED, BLOB, { credentialIds: ['c'] })).grants.length;
    expect([await grants(), await grants()]).toEqual([1, 1]);
    await sql(settings, 'WITH gone AS (DELETE FROM @grants) UPDATE @versions SET version = 0');
    // An answer to which version it has counts for some milliseconds.
    await expect.poll(grants, { interval: 1 }).toBe(0);
  });

  test('that lacks its last writes after a failover is not answered from what was remembered before', async () => {
    const server = await Postgres.start();
    try {
      const place = server.settings();
      const store = await open({ at: place });
      await store.putBlob(BLOB, 4, HOSTED);
      await store.putGrant(HOSTED, { credentialId: 'c', verifiedAtMs: 1 });
      const grants = async () =>
        (await store.readBlobForPull(HOSTED, BLOB, { credentialIds: ['c'] })).grants.length;
      expect([await grants(), await grants()]).toEqual([1, 1]);
      let heard = 0;
      store.onNotification('secrets', () => (heard += 1));
      await store.notify('secrets');
      await server.crash();
      await server.begin();
      // A different state with the same version: as many writes were made since as had been lost.
      await sql(place, 'DELETE FROM @grants');
      await expect.poll(() => heard).toBe(1);
      await expect.poll(grants, { interval: 1 }).toBe(0);
      await opened.pop()?.close();
    } finally {
      await server.remove();
    }
  });

  test('answers with a write as soon as that is acknowledged, in every process, however few questions it is asked', async () => {
    const [writer, reader] = [await open(), await open()];
    const { manifest, view } = IMAGE;
    await writer.putManifest(HOSTED, manifest, view, { tag: 'v1', atMs: 0 });
    const done = new AbortController();
    let pulls = 0;
    const puller = async () => {
      for (; !done.signal.aborted; pulls += 1) {
        await reader.readForPull(HOSTED, 'v1');
        if (pulls % 10 === 0) await new Promise(setImmediate);
      }
    };
    const pulling = puller();
    const before = await questions();
    const seen: unknown[] = [];
    for (let atMs = 1; atMs <= 100; atMs += 1) {
      await writer.putTag(HOSTED, 'v1', { digest: manifest.digest, checkedAtMs: atMs });
      seen.push((await reader.readForPull(HOSTED, 'v1')).tag?.checkedAtMs);
      seen.push((await writer.readForPull(HOSTED, 'v1')).tag?.checkedAtMs);
    }
    done.abort();
    await pulling;
    expect(seen).toEqual(Array.from({ length: 200 }, (_, at) => 1 + Math.floor(at / 2)));
    expect((await questions()) - before).toBeLessThan(pulls / 10);
  });

  /** How many transactions there have been, which a question is, too. */
  async function questions(): Promise<number> {
    const [row] = await sql<{ count: number }>(
      settings,
      `SELECT pg_stat_clear_snapshot(), xact_commit AS count FROM pg_stat_database WHERE datname = 'postgres'`,
    );
    return row?.count ?? 0;
  }

  test('writes that lock the same in opposite orders all come to an end', async () => {
    const [one, other] = [await open(), await open()];
    const digests = Array.from({ length: 8 }, (_, at) => digestOf(Buffer.from(String(at))));
    for (const digest of digests) await one.putBlob(digest, 4);
    const blobs = digests.map(digest => ({ digest, size: 4 }));
    const tagged = [HOSTED, OTHER].map(repository => ({ repository, digest: BLOB, tag: 'v1' }));
    const rounds = Array.from({ length: 20 }, async (_, at) => {
      const store = at % 2 === 0 ? one : other;
      const turn = <T>(list: readonly T[]) => (at % 2 === 0 ? list : list.toReversed());
      await store.publish(turn(tagged), 1);
      await store.putContent(at % 3 === 0 ? HOSTED : OTHER, { manifests: [], blobs: turn(blobs) }, 1);
      await store.evict(
        turn(digests).map(digest => ({ kind: 'blob', digest })),
        1,
      );
      for (const digest of turn(digests)) store.noteUse(digest);
      await store.writeUses();
    });
    await Promise.all(rounds);
    expect(await one.readTotals()).toMatchObject({ blobs: digests.length, repositories: 2 });
  });

  test('a process that others took for dead can write nothing under its Leases, of any kind', async () => {
    const clock = new ManualClock();
    const [stopped, other] = [await open({ clock: new ManualClock() }), await open({ clock })];
    await stopped.putUpload({ id: '1', repository: HOSTED, requester: 'x', startedAtMs: 1, touchedAtMs: 1 });
    const lease = await leaseOf(stopped, 'upload-1');
    await stopped.announceObject({ digest: BLOB, key: 'a' }, lease);
    await sql(settings, `UPDATE @processes SET beat_at = beat_at - interval '1 minute'`);
    // Not at once: it does not know yet that the others are silent, and not the database.
    await clock.pass(1_000);
    await expect.poll(() => other.acquireLease('upload-1')).toBeUndefined();
    let taken = await other.acquireLease('upload-1');
    while (taken === undefined) {
      await sql(settings, `UPDATE @processes SET beat_at = beat_at - interval '1 minute'`);
      await clock.pass(1_000);
      taken = await other.acquireLease('upload-1');
    }
    expect(taken.left).toEqual({ epoch: lease.epoch, mayWrite: true });
    expect(taken.epoch).toBeGreaterThan(lease.epoch);
    const upload = { id: '1', repository: HOSTED, requester: 'x', startedAtMs: 1, touchedAtMs: 2 };
    for (const write of [
      () => stopped.putBlob(BLOB, 4, HOSTED, { lease, isThere: () => true }),
      () => stopped.putBlob(BLOB, 4, HOSTED, { lease, isThere: () => true, key: 'a' }),
      () => stopped.announceObject({ digest: BLOB, key: 'b' }, lease),
      () => stopped.putUpload(upload, lease),
      () => stopped.removeUpload('1', lease),
      () => stopped.outbox?.remove('ci', 1, lease),
    ]) {
      await expect(Promise.resolve(write())).rejects.toThrow(LeaseLost);
    }
    await stopped.release(lease);
    expect(await other.readLease('upload-1')).toMatchObject({ isHeld: true, epoch: taken.epoch });
    expect(await stopped.statBlob(BLOB)).toBeUndefined();
  });

  test('a replica at whose address nobody listens loses a Lease after two seconds without a heartbeat, no sooner', async () => {
    // Without heartbeats.
    const replica = (address: string) => open({ replica: address, clock: new ManualClock() });
    const [gone, other] = [await replica('gone:5003'), await replica('other:5003')];
    const same = await replica('gone:5003');
    const lease = await leaseOf(gone, 'fill-1');
    const { key, epoch } = lease;
    const silence = (seconds: number) =>
      sql(settings, `UPDATE @processes SET beat_at = clock_timestamp() - interval '${seconds} seconds'`);
    await silence(0);
    expect(await other.endLeaseOfGone(lease)).toBe(false);
    await silence(4);
    // Of one folder, the lock of the process is asked.
    expect(await same.endLeaseOfGone(lease)).toBe(false);
    expect(await other.endLeaseOfGone({ key, epoch: epoch - 1 })).toBe(false);
    await silence(4);
    expect(await other.endLeaseOfGone(lease)).toBe(true);
    const taken = await leaseOf(other, 'fill-1');
    expect(taken.epoch).toBeGreaterThan(epoch);
    expect(await other.endLeaseOfGone(taken)).toBe(false);
    for (const write of [
      () => gone.announceObject({ digest: BLOB, key: 'a' }, lease),
      () => gone.putBlob(BLOB, 4, HOSTED, { lease, isThere: () => true }),
    ]) {
      await expect(Promise.resolve(write())).rejects.toThrow(LeaseLost);
    }
  });

  describe('a process that has watched the others for a while', () => {
    let clock: ManualClock;
    let watcher: MetadataStore;
    const isWatcher = `replica = 'watcher:5003'`;
    const silence = (seconds: number, where: string) =>
      sql(settings, `UPDATE @processes SET beat_at = beat_at - interval '${seconds} seconds' WHERE ${where}`);
    const beat = async (times = 1) => {
      for (let beats = 0; beats < times; beats += 1) await clock.pass(1_000);
      // The last one is over.
      await clock.timer(1_000);
    };

    beforeEach(async () => {
      clock = new ManualClock();
      watcher = await open({ clock, replica: 'watcher:5003' });
      await open({ clock: new ManualClock(), replica: 'other:5003' });
      await beat(7);
    });

    test('removes none that was silent only while nobody could write, but later if it still is', async () => {
      clock.skip(60_000);
      await silence(60, 'true');
      await beat();
      expect(await watcher.countProcesses()).toBe(2);
      await beat(7);
      expect(await watcher.countProcesses()).toBe(1);
    });

    test('removes a silent one as soon as usual if the clock of the database was set back since its last heartbeat', async () => {
      await silence(-3_600, 'true');
      await beat();
      expect(await watcher.countProcesses()).toBe(2);
      await silence(6, `NOT ${isWatcher}`);
      await beat();
      expect(await watcher.countProcesses()).toBe(1);
    });

    test.each([1, -1])(
      'goes by the clock of the database alone, even if its own is off by %s h',
      async hours => {
        vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + hours * 3_600_000 });
        try {
          await beat();
          expect(await watcher.countProcesses()).toBe(2);
        } finally {
          vi.useRealTimers();
        }
      },
    );

    test('shows that it lives even if a silent one is in the middle of a write', async () => {
      await silence(60, 'true');
      const database = new Database({ ...settings, poolSize: 2 });
      await new Writer(database).write(async session => {
        await session.rows('SELECT 1 FROM @processes FOR KEY SHARE');
        await beat();
        const late = await sql(
          settings,
          `SELECT 1 FROM @processes WHERE beat_at < clock_timestamp() - interval '30 seconds' AND ${isWatcher}`,
        );
        expect(late).toEqual([]);
      });
      await database.close();
      await beat();
      expect(await watcher.countProcesses()).toBe(1);
    });

    describe('and others that serve', () => {
      const address = 'serving:5003';
      const gone = { id: address, address, goneSinceMs: expect.any(Number) };
      const isServing = `replica = '${address}'`;
      let servingClock: ManualClock;
      let serving: MetadataStore;

      beforeEach(async () => {
        servingClock = new ManualClock();
        serving = await open({ clock: servingClock, replica: address, serves: true });
        await beat(7);
      });

      const goesSilent = async () => {
        expect(await watcher.listGoneReplicas()).toEqual([]);
        await silence(60, isServing);
        await beat();
        expect(await watcher.listGoneReplicas()).toEqual([gone]);
      };

      test('reports for an hour that one disappeared without shutting down, and since when', async () => {
        const [shown] = await sql<{ ms: number }>(
          settings,
          `SELECT (extract(epoch FROM beat_at) * 1000)::bigint AS ms FROM @processes WHERE ${isServing}`,
        );
        await goesSilent();
        expect((await watcher.listGoneReplicas())[0]?.goneSinceMs).toBeCloseTo(
          Number(shown?.ms) - 60_000,
          -1,
        );
        await sql(settings, `UPDATE @serving_replicas SET gone_since = gone_since - interval '1 hour'`);
        expect(await watcher.listGoneReplicas()).toEqual([]);
      });

      test('does not report one that stops, or a command', async () => {
        await serving.close();
        await open({ clock: new ManualClock(), replica: 'command:5003' });
        await silence(60, `replica = 'command:5003'`);
        await beat();
        expect(await watcher.listGoneReplicas()).toEqual([]);
      });

      test('no longer reports one that resumes', async () => {
        await goesSilent();
        await servingClock.pass(1_000);
        await servingClock.timer(1_000);
        expect(await watcher.listGoneReplicas()).toEqual([]);
        await goesSilent();
      });

      test('no longer reports one once another server has taken its place, which a command does not', async () => {
        await goesSilent();
        const command = await open({ replica: address });
        expect(await watcher.listGoneReplicas()).toEqual([gone]);
        await command.close();
        expect(await watcher.listGoneReplicas()).toEqual([gone]);
        const successor = await open({ replica: address, serves: true });
        expect(await watcher.listGoneReplicas()).toEqual([]);
        await successor.close();
        expect(await watcher.listGoneReplicas()).toEqual([]);
      });
    });
  });

  test('a Lease that was left is forgotten after months, as of a replica whose folder was lost, and none that is held', async () => {
    const store = await open();
    const [left, lost, held] = [
      await leaseOf(store, 'upload-left'),
      await leaseOf(store, 'upload-lost'),
      await leaseOf(store, 'upload-held'),
    ];
    const keys = async () => {
      const rows = await sql<{ key: string }>(settings, 'SELECT key FROM @leases ORDER BY key');
      return rows.map(({ key }) => key);
    };
    const age = () => sql(settings, `UPDATE @leases SET used_at = used_at - interval '91 days'`);
    await age();
    await store.setAside(left);
    await sql(settings, `UPDATE @leases SET process_id = 'gone' WHERE epoch = ${lost.epoch}`);
    await open();
    expect(await keys()).toEqual(['upload-held', 'upload-left']);
    await age();
    await open();
    expect(await keys()).toEqual([held.key]);
  });

  test('a process does not wait for a Lease that was left and is just being taken, nor removes it', async () => {
    const lease = await leaseOf(await open(), 'upload-1');
    await sql(
      settings,
      `UPDATE @leases SET process_id = 'gone', used_at = clock_timestamp() - interval '91 days'`,
    );
    const database = new Database({ ...settings, poolSize: 2 });
    await new Writer(database).write(async session => {
      await session.rows('SELECT 1 FROM @leases WHERE epoch = $1 FOR SHARE', [lease.epoch]);
      await open();
    });
    await database.close();
    expect(await sql(settings, 'SELECT key FROM @leases')).toEqual([{ key: lease.key }]);
  });

  test('a removed repository whose rows another process is deleting is left to it, and another one is not', async () => {
    const store = await open();
    await store.putBlob(BLOB, 4, OTHER);
    const removed = () => sql(settings, 'SELECT id FROM @removed_repositories');
    await sql(settings, 'INSERT INTO @removed_repositories (id) VALUES (0)');
    const database = new Database({ ...settings, poolSize: 2 });
    await new Writer(database).write(async session => {
      await session.rows('SELECT 1 FROM @removed_repositories FOR UPDATE');
      await store.removeRepository(OTHER);
      await expect.poll(removed).toEqual([{ id: 0 }]);
    });
    await database.close();
    await expect.poll(removed).toEqual([]);
  });

  test('no epoch comes again that was given out after a backup was made which was restored since', async () => {
    const before = await open();
    const given = [await leaseOf(before, 'upload-1'), await leaseOf(before, 'upload-2')];
    await before.release(...given);
    await before.close();
    await sql(settings, `SELECT setval(pg_get_serial_sequence('@leases', 'epoch'), 1)`);
    const lease = await leaseOf(await open(), 'upload-1');
    expect(lease.epoch).toBeGreaterThan(Math.max(...given.map(({ epoch }) => epoch)));
  });

  test('a process that is closed during a heartbeat, or as it acquires a Lease, is gone, and not there again', async () => {
    const link = await Link.open(settings.port);
    links.push(link);
    const processes = () => sql(settings, 'SELECT id FROM @processes');
    for (const act of [
      (_store: MetadataStore, clock: ManualClock) => clock.pass(1_000),
      (store: MetadataStore) => store.acquireLease('upload-1'),
    ]) {
      const clock = new ManualClock();
      const store = await open({ at: { ...settings, port: link.port }, clock });
      const held = link.holdAnswerTo('READ WRITE');
      const acting = act(store, clock).catch((error: unknown) => error);
      await held;
      const closing = store.close();
      await expect.poll(processes).toEqual([]);
      link.passOn();
      await closing;
      await acting;
      expect(await processes()).toEqual([]);
    }
    expect(await sql(settings, 'SELECT key FROM @leases')).toEqual([]);
  });

  test('a process that is suspended in the middle of a write holds the others up for some seconds only', async () => {
    const store = await open();
    const database = new Database({ ...settings, poolSize: 2 });
    let attempts = 0;
    const begun = new Latch();
    const suspended = new Writer(database).write(
      async session => {
        attempts += 1;
        await session.rows('SELECT 1');
        begun.open();
        // Longer than the server lets a transaction be idle.
        if (attempts === 1) await delay(8_000);
        await session.rows('SELECT 1');
      },
      { alone: [BLOB] },
    );
    await begun.opened;
    await store.putBlob(BLOB, 4);
    expect(attempts).toBe(1);
    // It was undone, and begins again.
    await suspended;
    expect(attempts).toBe(2);
    await database.close();
  });

  describe('whose server crashes while a write is committed', () => {
    let crashing: Postgres;
    let database: Database;
    let place: PostgresSettings;

    beforeEach(async () => {
      // It does not write its log but with a commit.
      crashing = await Postgres.start({ parameters: { wal_writer_delay: '10s' } });
      place = crashing.settings();
      database = new Database({ ...place, poolSize: 2 });
      await migrate(database);
    });
    afterEach(async () => {
      await database.close();
      await crashing.remove();
    });

    const number = async (on: Pick<PostgresSession, 'row'>) =>
      Number((await on.row<{ id: string }>('SELECT pg_current_xact_id()::text AS id'))?.id);
    const written = () => sql<{ value: string }>(place, `SELECT value FROM @settings WHERE name = 'a'`);

    test('nobody keeps a Lease whose release was lost with it; others are still held', async () => {
      const clock = new ManualClock();
      const store = await open({ at: place, clock });
      const lease = await leaseOf(store, 'fill-1');
      const held = await leaseOf(store, 'fill-2');
      await store.release(lease);
      await crashing.crash();
      await crashing.begin();
      await expect
        .poll(async () => {
          await clock.pass(1_000);
          return store.acquireLease('fill-1');
        })
        .toBeDefined();
      await held.confirm();
      expect(await store.acquireLease('fill-2')).toBeUndefined();
    });

    /** Writes a setting; the server crashes before it gets the commit, and `meanwhile` is done when it is back. */
    async function writeThroughCrash(meanwhile: (id: number) => Promise<void>): Promise<number> {
      let attempts = 0;
      await new Writer(database).write(async session => {
        attempts += 1;
        await session.changes(`INSERT INTO @settings (name, value) VALUES ('a', '${attempts}')`);
        if (attempts > 1) return;
        const id = await number(session);
        await crashing.crash();
        await crashing.begin();
        await meanwhile(id);
      });
      return attempts;
    }

    test('the write is done again', async () => {
      expect(await writeThroughCrash(async () => {})).toBe(2);
      expect(await written()).toEqual([{ value: '2' }]);
    });

    test('it is not acknowledged because another one was committed since that got its number', async () => {
      const writing = writeThroughCrash(async id => {
        while ((await number(database)) < id);
      });
      await expect(writing).rejects.toThrow(IndexAway);
      expect(await written()).toEqual([]);
    });
  });

  test('whose server is a standby by now is away: nothing is written, or found out of a commit', async () => {
    const server = await Postgres.start();
    const place = { ...server.settings(), poolSize: 2 };
    try {
      const database = new Database(place);
      await migrate(database);
      await new Writer(database).write(async () => {});
      await database.close();
      await server.stop();
      await server.begin({ isStandby: true });
      const onStandby = new Database(place);
      const write = () => new Writer(onStandby).writeFirst(async () => {}, {});
      const readRun = () =>
        onStandby.trying(client => client.query(onStandby.schema.text('SELECT id FROM @server_runs')));
      for (const ask of [write, readRun]) await expect(ask()).rejects.toSatisfy(isAway);
      await onStandby.close();
    } finally {
      await server.remove();
    }
  });

  test('is made once by several processes that start at once', async () => {
    await Promise.all(Array.from({ length: 6 }, () => open()));
    expect(await sql(settings, 'SELECT version FROM @schema_version')).toEqual([
      { version: MIGRATIONS.length },
    ]);
  });

  test('is migrated however long that takes, and however long another process takes that does it', async () => {
    const [database, other] = [new Database(settings), new Database(settings)];
    const space = lockSpace(settings.schema, 'migrations');
    await other.trying(client => client.query('SELECT pg_advisory_lock($1, 0)', [space]));
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    try {
      const migrating = migrate(database);
      await expect.poll(waiting).toBe(1);
      vi.advanceTimersByTime(600_000);
      await other.close();
      await migrating;
    } finally {
      vi.useRealTimers();
    }
    expect(await sql(settings, 'SELECT 1 FROM @schema_version')).toHaveLength(1);
    await database.close();
  });

  /** How many connections wait for a lock. */
  async function waiting(): Promise<number> {
    return (await sql(settings, `SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'`)).length;
  }

  test('of a newer version is used if that has only added something, and refused if not', async () => {
    const database = new Database({ ...settings, poolSize: 2 });
    const older = MIGRATIONS;
    const adds = { sql: 'CREATE TABLE @added (id INTEGER)', usableFrom: 1 };
    const changes = { sql: 'DROP TABLE @added', usableFrom: older.length + 2 };
    await migrate(database, older);
    await migrate(database, [...older, adds]);
    await migrate(database, older);
    await migrate(database, [...older, adds, changes]);
    await expect(migrate(database, older)).rejects.toThrow(/newer version/);
    await expect(migrate(database, [...older, adds])).rejects.toThrow(/newer version/);
    await database.close();
  });

  test('is not made among the tables of another program, or in a database of another encoding', async () => {
    await sql(settings, `CREATE SCHEMA "${settings.schema}"; CREATE TABLE @tags (id INTEGER)`);
    await expect(open()).rejects.toThrow(/tables of another program/);
    await sql(settings, `CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0`);
    await expect(open({ at: { ...settings, database: 'latin' } })).rejects.toThrow(/UTF8/);
    await expect(open({ at: { ...settings, database: 'none' } })).rejects.toThrow(/cannot be reached.*none/);
  });
});

function imageOf(text: string): { readonly manifest: Manifest; readonly view: ManifestView } {
  const bytes = Buffer.from(text);
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  return {
    manifest: { digest: digestOf(bytes), mediaType, bytes },
    view: {
      kind: 'manifest',
      mediaType,
      manifests: [],
      blobs: [],
      subject: undefined,
      artifactType: undefined,
      annotations: {},
    },
  };
}

async function failureOf(work: () => unknown): Promise<string | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.name : String(error);
  }
}

/** A link to the server that can be cut. */
class Link {
  readonly #server: Server;
  readonly #target: number;
  readonly #sockets = new Set<Socket>();
  #cut: 'before' | 'after' | undefined;
  #cutsEach = false;
  #hold: { readonly text: string; readonly holds: () => void } | undefined;
  #passOn = () => {};
  #swallowsAtCut = false;
  #isSwallowing = false;
  #port = 0;
  cuts = 0;

  private constructor(target: number) {
    this.#target = target;
    this.#server = createServer(client => this.#join(client));
  }

  static async open(target: number): Promise<Link> {
    const link = new Link(target);
    link.#server.listen(0, '127.0.0.1');
    await once(link.#server, 'listening');
    return link;
  }

  get port(): number {
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('it does not listen');
    return address.port;
  }

  /**
   * Cuts the connection with the next commit, before or after the server gets it; its answer is never passed on. With
   * `each`, also with those after it. With `swallows`, nothing is passed on from then on, and connections stay open.
   */
  cutAtCommit(when: 'before' | 'after', { each = false, swallows = false } = {}): void {
    this.#cut = when;
    this.#cutsEach = each;
    this.#swallowsAtCut = swallows;
  }

  /** From now on commits are passed on. */
  leaveUncut(): void {
    this.#cut = undefined;
  }

  /** Passes on again what comes on new connections, after a cut that swallows. */
  goOn(): void {
    this.#isSwallowing = false;
    this.cutAll();
  }

  cutAll(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Keeps back what the server sends after the next message with `text`; resolves when that has come. */
  holdAnswerTo(text: string): Promise<void> {
    return new Promise(holds => (this.#hold = { text, holds }));
  }

  /** Passes on what was kept back. */
  passOn(): void {
    this.#passOn();
  }

  /** From now on connections are refused. */
  async shut(): Promise<void> {
    this.#port = this.port;
    await this.close();
  }

  async reopen(): Promise<void> {
    this.#server.listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  async close(): Promise<void> {
    this.cutAll();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #join(client: Socket): void {
    const server = connect(this.#target, '127.0.0.1');
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on('error', () => {});
      socket.once('close', () => this.#sockets.delete(socket));
    }
    server.pipe(client);
    server.once('close', () => client.destroy());
    client.once('close', () => server.destroy());
    client.on('data', (bytes: Buffer) => {
      if (this.#isSwallowing) return undefined;
      if (this.#hold !== undefined && bytes.includes(this.#hold.text)) {
        server.unpipe(client);
        server.pause();
        this.#passOn = () => void server.pipe(client);
        this.#hold.holds();
        this.#hold = undefined;
      }
      // The end of a message: each transaction begins with READ COMMITTED.
      const cut = bytes.includes('COMMIT\0') ? this.#cut : undefined;
      if (cut === undefined) return void server.write(bytes);
      if (!this.#cutsEach) this.#cut = undefined;
      this.#isSwallowing = this.#swallowsAtCut;
      this.cuts += 1;
      server.unpipe(client);
      client.destroy();
      if (cut === 'before') return void server.destroy();
      server.end(bytes);
      return undefined;
    });
  }
}
