import type { Clock } from '../lib/clock.ts';
import { Presence } from '../lib/lease.ts';

/**
 * For how long after others considered this process dead it begins nothing that depends on a Presence: what clients had
 * sent to it while it was suspended waits in its sockets, and is read within a few turns of its loop.
 */
const READ_WITHIN_MS = 1_000;

/** The Presences of this process, one after the other. */
export class OwnPresence {
  readonly #clock: Clock;
  #current: Presence;
  #overSinceMs = 0;

  /** `name`: as of a `Presence`, of the first one. */
  constructor(clock: Clock, name?: string) {
    this.#clock = clock;
    this.#current = new Presence(name);
  }

  /** The last one: over, as long as no other has begun. */
  get current(): Presence {
    return this.#current;
  }

  /** Call when this process finds that others have considered it dead. */
  end(): void {
    this.#current.isOver = true;
    this.#overSinceMs = this.#clock.monotonicMs();
  }

  /** Call after each heartbeat. `name`: of the Presence that may begin now. */
  beat(name?: string): void {
    const isSettled = this.#clock.monotonicMs() - this.#overSinceMs >= READ_WITHIN_MS;
    if (this.#current.isOver && isSettled) this.#current = new Presence(name);
  }
}
