import { setTimeout as delay } from 'node:timers/promises';
import { VALID_FOR_MS } from './index-version.ts';
import { hasOthers } from './leases.ts';
import type { Rows } from './session.ts';

/** The clocks of two machines differ in speed, though by far less than this. */
const FORGOTTEN_AFTER_MS = 1.25 * VALID_FOR_MS;

/** How long it is assumed that there are still others, who usually stay. */
const STAY_MS = 1_000;

/**
 * The other processes that read the index, which answer pulls for VALID_FOR_MS by what was true when they last asked. If
 * there are some, a write is acknowledged only after that time: then nobody is answered by what was true before it.
 */
export class OtherReaders {
  readonly #rows: Rows;
  readonly #processId: string;
  #seenAtMs = Number.NEGATIVE_INFINITY;

  /** `processId`: that of this process. */
  constructor(rows: Rows, processId: string) {
    this.#rows = rows;
    this.#processId = processId;
  }

  /** Call when a write has been committed. Resolves when all others know of it. Never rejects. */
  async notice(): Promise<void> {
    const committedAtMs = performance.now();
    if (!(await this.#areThere())) return;
    // A timer may fire early by what the event loop was late.
    for (;;) {
      const leftMs = committedAtMs + FORGOTTEN_AFTER_MS - performance.now();
      if (leftMs <= 0) return;
      await delay(leftMs);
    }
  }

  /** Asked after the commit: who comes later knows of it. */
  async #areThere(): Promise<boolean> {
    if (performance.now() - this.#seenAtMs < STAY_MS) return true;
    try {
      const areThere = await hasOthers(this.#rows, this.#processId);
      if (areThere) this.#seenAtMs = performance.now();
      return areThere;
    } catch {
      return true;
    }
  }
}
