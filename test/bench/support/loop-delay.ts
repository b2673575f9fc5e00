import { readFileSync } from 'node:fs';
import type { Entrepot } from '../../support/entrepot.ts';

/** How often the server's timer for it fires, as prom-client's default metrics set it: what it measures when idle. */
const PRECISION_MS = 10;

/** By how much a server's event loop was late, and whether that was its own doing. */
export interface LoopDelay {
  /** How late its timers were, ms: the 99th percentile. */
  readonly p99Ms: number;
  /**
   * Of the time in which its thread had something to do, the share in which it waited for a core, 0 to 1: others ran there,
   * the server's own threads included. The rest was work of the loop, which is late for nothing else if this is small.
   */
  readonly waitShare: number;
}

/** The heading of a column of `worstDelay`. */
export const LOOP_DELAY = 'loop delay p99 ms (waiting for a core)';

/** Watches the event loop of a server, from one call of `read` to the next. */
export class LoopWatch {
  readonly #entrepot: Entrepot;
  #before: ThreadTimes;

  constructor(entrepot: Entrepot) {
    this.#entrepot = entrepot;
    this.#before = mainThreadTimes(entrepot.pid);
  }

  /** Of the time since this was last called. */
  async read(): Promise<LoopDelay> {
    const metrics = await this.#entrepot.metrics();
    const seconds = Number(/^nodejs_eventloop_lag_p99_seconds (\S+)$/m.exec(metrics)?.[1]);
    const now = mainThreadTimes(this.#entrepot.pid);
    const [ran, waited] = [now.ran - this.#before.ran, now.waited - this.#before.waited];
    this.#before = now;
    return {
      p99Ms: Math.max(0, seconds * 1000 - PRECISION_MS),
      waitShare: waited / Math.max(1, ran + waited),
    };
  }
}

/** The largest delay as text, with how much its thread waited meanwhile: `9.5 (40 %)`; `-` if there is none. */
export function worstDelay(delays: readonly LoopDelay[], digits = 0): string {
  const [worst] = delays.toSorted((one, other) => other.p99Ms - one.p99Ms);
  return worst === undefined
    ? '-'
    : `${worst.p99Ms.toFixed(digits)} (${(worst.waitShare * 100).toFixed(0)} %)`;
}

interface ThreadTimes {
  readonly ran: number;
  readonly waited: number;
}

/** How long the main thread of a process ran, and could have run but had no core, ns (Linux, `proc(5)`). */
function mainThreadTimes(pid: number): ThreadTimes {
  const [ran = 0, waited = 0] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8')
    .split(' ')
    .map(Number);
  return { ran, waited };
}
