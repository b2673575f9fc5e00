// An index that went through a random history is copied table by table, and the copy says the same of everything.
import * as fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { SEED } from '../../../test/support/chance.ts';
import { type IndexSource, type IndexTarget, TABLES } from '../index-tables.ts';
import { everything } from '../survey.ts';
import { everyAnswer } from './questions.fixture.ts';
import type { Side } from './side.fixture.ts';
import { CONTENT, RECORDS, type Step, STORING, TICK } from './steps.fixture.ts';
import { timeOf } from './universe.fixture.ts';

/** An index, and its tables. */
export interface CopiedSide<Tables> {
  readonly side: Side;
  readonly tables: Tables;
}

/** What is of the place where a store is, and stays there. */
const LEFT: ReadonlySet<string> = new Set(['leases', 'given up', 'stray objects']);
const LEFT_STEP = 'putUpload';

/** `openFrom` and `openTo` open empty indexes; the sides and the tables are closed here. */
export function copiesSayTheSame(
  openFrom: () => Promise<CopiedSide<IndexSource>>,
  openTo: () => Promise<CopiedSide<IndexTarget>>,
  runs: number,
): void {
  const numRuns = Number(process.env['MODEL_RUNS'] ?? runs);

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] });
  });

  afterEach(() => {
    vi.useRealTimers();
  });

  test('whatever has happened to it, a copy says the same of it, also if another one was begun before', async () => {
    const storing = fc.array(fc.oneof(...STORING), { minLength: 8, maxLength: 20, size: 'max' });
    const changed = fc.array(fc.oneof(...CONTENT, ...RECORDS), { maxLength: 30, size: 'max' });
    const property = fc.asyncProperty(storing, changed, async (before, after) => {
      const from = await openFrom();
      const to = await openTo();
      try {
        await goThrough(from.side, [...before, ...after]);
        await copyBlobs(from.side, to.side);
        await copyTables(from.tables, to.tables);
        await copyTables(from.tables, to.tables);
        expect(asLeft(await everyAnswer(to.side))).toEqual(asLeft(await everyAnswer(from.side)));
        // What it counts and numbers goes on from there.
        for (const { side } of [from, to]) await goThrough(side, before);
        expect(asLeft(await everyAnswer(to.side))).toEqual(asLeft(await everyAnswer(from.side)));
      } finally {
        for (const { side, tables } of [from, to]) {
          await tables.close();
          await side.close();
        }
      }
    });
    await fc.assert(property, { numRuns, seed: SEED, endOnFailure: true });
  }, 1_200_000);
}

async function goThrough(side: Side, steps: readonly Step[]): Promise<void> {
  let ticks = 0;
  vi.setSystemTime(timeOf(ticks));
  for (const step of steps) {
    if (step.name === TICK) vi.setSystemTime(timeOf((ticks += 1)));
    if (step.name === LEFT_STEP) continue;
    // A step may fail, which is one of the things that happen.
    await Promise.resolve(step.run(side)).catch(() => {});
  }
  for (const store of side.stores) await store.writeUses();
  // What is being worked on is of its place, too.
  for (const lease of side.leases.values()) for (const store of side.stores) await store.release(lease);
  side.leases.clear();
}

async function copyBlobs(from: Side, { stores: [to] }: Side): Promise<void> {
  const { stores, survey } = from;
  for await (const blobs of everything(after => survey.blobs(after))) {
    for (const { digest, size } of blobs) {
      const { key } = (await stores[0].statBlob(digest)) ?? {};
      await (key === undefined ? to.putBlob(digest, size) : to.putFoundBlob({ digest, key }, size));
    }
  }
}

async function copyTables(from: IndexSource, to: IndexTarget): Promise<void> {
  await to.clear();
  await from.read(async reading => {
    for (const table of TABLES) {
      for await (const rows of reading.rows(table)) {
        const isOwn = table.name === 'settings';
        await to.add(table, isOwn ? rows.filter(({ name }) => name === 'key') : rows);
      }
    }
  });
  await to.finish();
}

function asLeft(answers: unknown): unknown {
  return JSON.parse(JSON.stringify(answers, (key, value: unknown) => (LEFT.has(key) ? undefined : value)));
}
