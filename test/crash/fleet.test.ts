// Histories of a fleet, with everything that can become of a replica; with CRASH_LONG=1 longer ones.
import { afterEach, expect, it } from 'vitest';
import { newSeed, SEED } from '../support/chance.ts';
import { TROUBLES } from '../support/fleet.ts';
import { FleetHistory } from '../support/fleet-history.ts';
import { HAS_POSTGRES } from '../support/postgres.ts';

const IS_LONG = process.env['CRASH_LONG'] === '1';
const EVENTS = [
  ...TROUBLES,
  'pushed',
  'pushed through several replicas',
  'tag moved',
  'tag deleted',
  'manifest deleted',
  'read',
  'tag read',
  'pulled',
  'refused',
  'mounted',
  'mount refused',
  'imported',
  'granted',
  'revoked',
];
/** A slow machine may take its time to meet all of them. */
const [MIN_MS, MAX_MS] = IS_LONG ? [10 * 60_000, 20 * 60_000] : [40_000, 120_000];
const MAX_TROUBLE_MS = IS_LONG ? 35_000 : 9_000;

let history: FleetHistory | undefined;

afterEach(() => history?.close());

it.skipIf(!HAS_POSTGRES)(
  'replicas that are killed, suspended and cut off lose nothing that was acknowledged, and show nothing to whom it is not for',
  { timeout: MAX_MS + 600_000 },
  async () => {
    const seed = IS_LONG ? newSeed() : SEED;
    const { met } = (history = await FleetHistory.open({ seed, maxTroubleMs: MAX_TROUBLE_MS }));
    const startMs = performance.now();
    try {
      await history.run(() => {
        const ms = performance.now() - startMs;
        return ms > MAX_MS || (ms > MIN_MS && EVENTS.every(event => met.has(event)));
      });
      await history.expectSound();
    } finally {
      console.log(JSON.stringify({ seed, ...Object.fromEntries(met) }));
    }
    for (const event of EVENTS) expect([...met.keys()]).toContain(event);
  },
);
