// Random histories of who may read what, on two real servers with one store. TEST_SEED repeats one, of
// ISOLATION_STEPS steps; ISOLATION_MINUTES goes on with the next seeds for so long; ISOLATION_LOG names a file that gets
// a line of what each one counted or found.
import { appendFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { newSeed, SEED } from '../support/chance.ts';
import { IsolationHistory } from '../support/isolation-history.ts';

const MINUTES = Number(process.env['ISOLATION_MINUTES'] ?? 0);
const STEPS = Number(process.env['ISOLATION_STEPS'] ?? 10);
const LOG = process.env['ISOLATION_LOG'];

function log(line: object): void {
  if (LOG !== undefined) appendFileSync(LOG, `${JSON.stringify(line)}\n`);
}

it('nobody reads what they have no right to, and everybody reads what they were promised', {
  timeout: MINUTES * 60_000 + 240_000,
}, async () => {
  const end = Date.now() + MINUTES * 60_000;
  let seed = MINUTES === 0 ? SEED : newSeed();
  do {
    const history = await IsolationHistory.open(seed);
    try {
      await history.run(STEPS);
      expect(history.counts.forbidden).toBeGreaterThan(0);
      log({ seed, ...history.counts });
    } catch (error) {
      log({ seed, failed: String(error) });
      throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
    } finally {
      await history.close();
    }
    seed += 1;
  } while (Date.now() < end);
});
