import type { Entrepot } from '../../support/entrepot.ts';

/** How often the server's timer for it fires, as prom-client's default metrics set it: what it measures when idle. */
const PRECISION_MS = 10;

/**
 * By how much the timers of the server's event loop were late since this was last called, ms: its 99th percentile.
 * Everything that computes for long shows here, as does a machine whose cores are taken.
 */
export async function loopDelayP99Ms(entrepot: Entrepot): Promise<number> {
  const metrics = await entrepot.metrics();
  const seconds = Number(/^nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(metrics)?.[1]);
  return Math.max(0, seconds * 1000 - PRECISION_MS);
}
