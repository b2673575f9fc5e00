import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { SEED } from '../../test/support/chance.ts';
import { silentLog } from '../lib/log.ts';
import { everyAnswer } from './model/questions.fixture.ts';
import { openMemorySide, openSqliteSide, type Side } from './model/side.fixture.ts';
import { CONTENT, RECORDS, type Step, STORING, TICK } from './model/steps.fixture.ts';
import { timeOf } from './model/universe.fixture.ts';
import { openSqliteMetadataStore } from './sqlite-metadata-store.ts';

/** More find more: a bug that needs five steps takes some hundred. */
const RUNS = Number(process.env['MODEL_RUNS'] ?? 40);

let folder: string;
let empty: string;
let opened = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'entrepot-model-'));
  empty = join(folder, 'empty.db');
  await (await openSqliteMetadataStore(empty, { log: silentLog })).close();
});

afterAll(() => rm(folder, { recursive: true }));

beforeEach(() => {
  // Nothing happens by itself, however long a history takes on a busy machine.
  vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] });
});

afterEach(() => {
  vi.useRealTimers();
});

/** What both sides say at each step, and of everything at the end. */
async function bothSay(steps: readonly Step[]) {
  opened += 1;
  const memory = openMemorySide();
  const sqlite = await openSqliteSide(join(folder, String(opened)), empty);
  const answers = { memory: new Array<unknown>(), sqlite: new Array<unknown>() };
  let ticks = 0;
  vi.setSystemTime(timeOf(ticks));
  try {
    for (const step of steps) {
      if (step.name === TICK) vi.setSystemTime(timeOf((ticks += 1)));
      answers.memory.push(await said(memory, step));
      answers.sqlite.push(await said(sqlite, step));
    }
    for (const store of [...memory.stores, ...sqlite.stores]) await store.writeUses();
    answers.memory.push(await everyAnswer(memory));
    answers.sqlite.push(await everyAnswer(sqlite));
  } finally {
    await memory.close();
    await sqlite.close();
  }
  return answers;
}

async function said(side: Side, step: Step): Promise<unknown> {
  try {
    return { [step.name]: await step.run(side) };
  } catch (error) {
    return { [step.name]: String(error) };
  }
}

test('whatever happens to content, an index in SQLite and one in memory say the same of it', async () => {
  const stored = fc.array(fc.oneof(...STORING), { minLength: 8, maxLength: 20, size: 'max' });
  const changed = fc.array(fc.oneof(...CONTENT), { maxLength: 30, size: 'max' });
  const property = fc.asyncProperty(stored, changed, async (before, after) => {
    const { memory, sqlite } = await bothSay([...before, ...after]);
    expect(sqlite).toEqual(memory);
  });
  await fc.assert(property, { numRuns: RUNS, seed: SEED });
}, 1_200_000);

test('the same is true of tenants, credentials, uploads and settings', async () => {
  const steps = fc.array(fc.oneof(...RECORDS), { maxLength: 20, size: 'max' });
  const property = fc.asyncProperty(steps, async given => {
    const { memory, sqlite } = await bothSay(given);
    expect(sqlite).toEqual(memory);
  });
  await fc.assert(property, { numRuns: RUNS, seed: SEED });
}, 1_200_000);
