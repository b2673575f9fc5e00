import { existsSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLog } from '../lib/log.ts';
import { Reserve, RESERVE_FILE } from './reserve.ts';
import { Connection } from './sqlite/connection.ts';
import { migrate } from './sqlite/migrations.ts';

const MIB = 1024 * 1024;

let folder: string;
let index: string;
let file: string;
let reserve: Reserve;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-reserve-'));
  index = join(folder, 'index.db');
  file = join(folder, RESERVE_FILE);
  reserve = new Reserve(index, silentLog);
});

afterEach(() => rm(folder, { recursive: true }));

test('it is created if there is space, given up in two steps, and completed again', async () => {
  await reserve.restore();
  expect(statSync(file).size).toBe(4 * MIB);
  expect([reserve.giveUp(), statSync(file).size, reserve.isGivenUp]).toEqual([true, 2 * MIB, true]);
  expect([reserve.giveUp(), statSync(file).size]).toEqual([true, 0]);
  expect(reserve.giveUp()).toBe(false);
  await reserve.restore();
  expect([statSync(file).size, reserve.isGivenUp]).toEqual([4 * MIB, false]);
});

test('without a reserve there is nothing to give up', () => {
  expect(reserve.giveUp()).toBe(false);
});

test('space that closing the index frees is reserved at once, up to its full size', async () => {
  const log = `${index}-wal`;
  writeFileSync(log, Buffer.alloc(MIB));
  reserve.keepAfter(() => rmSync(log));
  expect(statSync(file).size).toBe(MIB);
  writeFileSync(log, Buffer.alloc(9 * MIB));
  reserve.keepAfter(() => {});
  expect(statSync(file).size).toBe(MIB);
  reserve.keepAfter(() => rmSync(log));
  expect(statSync(file).size).toBe(4 * MIB);
});

test('an index keeps the space that it took, in its log and in free pages, until it is closed', async () => {
  const connection = await Connection.open(index, reserve);
  await migrate(connection);
  connection.takeRoom();
  expect(statSync(`${index}-wal`).size).toBeGreaterThan(0.75 * MIB);
  expect(connection.pragma('freelist_count')).toBeGreaterThan(180);
  connection.close();
  expect([existsSync(`${index}-wal`), statSync(file).size > 0.75 * MIB]).toEqual([false, true]);
});
