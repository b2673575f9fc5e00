// A migration is suspended right before a write to the new store, loses its Lease, and resumes after another one has taken over.
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { PostgresSettings } from '../../src/metadata/postgres/postgres-settings.ts';
import { STARTER } from '../support/entrepot.ts';
import { MovedStore, type Place } from '../support/moved-store.ts';
import { HAS_POSTGRES, inConfig, Postgres, sql } from '../support/postgres.ts';
import { Daemon, until } from '../support/programs.ts';
import { runCommand } from '../support/run-command.ts';
import { TcpGate, WAS_SUSPENDED } from '../support/tcp-gate.ts';
import { makeTempFolder, removeFolder } from '../support/temp-folder.ts';

/** Not what is tested: it only ends what hangs. */
const HANG_MS = 120_000;

describe.skipIf(!HAS_POSTGRES)('a migration that was suspended', { timeout: 600_000 }, () => {
  let folder: string;
  let postgres: Postgres;
  let gate: TcpGate;
  let settings: PostgresSettings;
  /** Configurations of the new store, with its index reached through the gate, and without it. */
  let beyond: string;
  let newFile: string;
  let oldFile: string;

  beforeAll(async () => {
    postgres = await Postgres.start();
    gate = await TcpGate.open(postgres.port);
  });

  beforeEach(async () => {
    folder = await makeTempFolder('suspended-migration');
    settings = postgres.settings();
    const old: Place = { storage: { path: join(folder, 'old') } };
    const store = await MovedStore.make(old, folder);
    oldFile = await store.configFile(old, folder, 'old.yaml');
    const place = (port: number): Place => ({
      storage: { path: join(folder, 'new') },
      index: { postgres: inConfig({ ...settings, port }) },
    });
    newFile = await store.configFile(place(settings.port), folder, 'new.yaml');
    beyond = await store.configFile(place(gate.port), folder, 'beyond.yaml');
  });

  afterEach(() => removeFolder(folder));

  afterAll(async () => {
    await gate?.close();
    await postgres?.remove();
  });

  /** Runs `meanwhile` while a migration is suspended at `message` and others consider it dead; returns how it ended. */
  async function suspendAt(message: RegExp, meanwhile: () => Promise<void>) {
    const held = gate.hold(message);
    const running = await Daemon.start({
      program: process.execPath,
      args: [...STARTER, 'migrate', beyond, '--config', oldFile],
      isReady: async () => true,
    });
    await Promise.race([held.met, running.closed]);
    process.kill(running.pid, 'SIGSTOP');
    try {
      await sql(settings, 'DELETE FROM @processes');
      await meanwhile();
    } finally {
      held.release();
      process.kill(running.pid, 'SIGCONT');
    }
    await until('it to end', HANG_MS, async () => !running.isRunning);
    return { code: running.exitCode, logs: running.logs() };
  }

  const migrateAgain = async (...options: readonly string[]) => {
    const again = await runCommand('migrate', ...options, newFile, '--config', oldFile, '--while-serving');
    expect(again).toMatchObject({ code: 0 });
  };
  const inNew = async (...command: readonly string[]) =>
    expect(await runCommand(...command, '--config', newFile)).toMatchObject({ code: 0 });
  const names = async (column: string, table: string) =>
    (await sql<{ name: string }>(settings, `SELECT ${column} AS name FROM @${table} ORDER BY 1`)).map(
      ({ name }) => name,
    );
  const movingFrom = async () =>
    (await sql<{ value: string }>(settings, `SELECT value FROM @settings WHERE name = 'moving-from'`))[0]
      ?.value;
  const isSuspended = { code: 1, logs: expect.stringMatching(WAS_SUSPENDED) };

  it('does not empty an index that has been in use since', async () => {
    const migrated = await suspendAt(/TRUNCATE/, async () => {
      await migrateAgain();
      await inNew('tenant', 'add', 'team-b');
    });
    expect(await names('name', 'known_tenants')).toEqual(['team-a', 'team-b']);
    expect(migrated).toMatchObject(isSuspended);
  });

  it('does not bring back a tag that was removed since', async () => {
    const migrated = await suspendAt(/INSERT INTO \S+tags /, async () => {
      await migrateAgain();
      await inNew('rm', 'team/app:v1');
      await inNew('rm', 'up.example/library/app:v1', '--force');
    });
    expect(await names('tag', 'tags')).toEqual([]);
    expect(migrated).toMatchObject(isSuspended);
  });

  it('does not begin in a store that has been completed since', async () => {
    const migrated = await suspendAt(/INSERT INTO \S+settings [^]*moving-from/, async () => {
      await migrateAgain();
      await inNew('tenant', 'add', 'team-b');
    });
    expect(await movingFrom()).toBe('');
    expect(await names('name', 'known_tenants')).toEqual(['team-a', 'team-b']);
    expect(migrated).toMatchObject(isSuspended);
  });

  it('does not mark a store as complete into which another migration is moving', async () => {
    const toNothing = /INSERT INTO \S+settings [^]*moving-from[^]{0,8}(?:\0{4}|\{""\})/;
    const migrated = await suspendAt(toNothing, () => migrateAgain('--prepare'));
    expect(await movingFrom()).not.toBe('');
    expect(migrated).toMatchObject(isSuspended);
  });
});
