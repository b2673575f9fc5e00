import type { UpstreamFailure } from '../upstream/failures.ts';

/** The time in which an upstream has only failed. Epoch ms. */
export interface Outage {
  readonly sinceMs: number;
  /** When it last failed. */
  readonly untilMs: number;
  /** The last failure. */
  readonly failure: UpstreamFailure;
}

/** Who wants to know. */
export interface ReachabilityListeners {
  /** Called at the first failure, and with `undefined` when the upstream has answered again. */
  readonly noteReachable?: ((upstream: string, failure: UpstreamFailure | undefined) => void) | undefined;
  /** The same when it has failed for a while: one failure may be that of a request. */
  readonly noteDown?: ((upstream: string, outage: Outage | undefined) => void) | undefined;
}

/** Several repositories and back-offs: what is over by then was nothing. */
const DOWN_AFTER_MS = 30_000;

/**
 * Which upstreams have not answered since they failed, whatever they were asked. What is stored of them is served as it was
 * meanwhile, so nothing else might show it.
 */
export class Reachability {
  readonly #nowMs: () => number;
  readonly #listeners: ReachabilityListeners;
  readonly #outages = new Map<string, Outage>();

  constructor(nowMs: () => number, listeners: ReachabilityListeners = {}) {
    this.#nowMs = nowMs;
    this.#listeners = listeners;
  }

  /** Whether it has failed again when it had been failing for a while. It is not known to be down while nobody asks it. */
  isDown(upstream: string): boolean {
    const outage = this.#outages.get(upstream);
    return outage !== undefined && isLong(outage);
  }

  /** Call when a request has failed without an answer. */
  failed(upstream: string, failure: UpstreamFailure): void {
    const before = this.#outages.get(upstream);
    const untilMs = this.#nowMs();
    const outage = { sinceMs: before?.sinceMs ?? untilMs, untilMs, failure };
    this.#outages.set(upstream, outage);
    if (before === undefined) this.#listeners.noteReachable?.(upstream, failure);
    else if (isLong(outage) && !isLong(before)) this.#listeners.noteDown?.(upstream, outage);
  }

  /** Call when it has answered, whatever the answer was. Returns whether it had failed before. */
  answered(upstream: string): boolean {
    const outage = this.#outages.get(upstream);
    if (outage === undefined) return false;
    this.#outages.delete(upstream);
    this.#listeners.noteReachable?.(upstream, undefined);
    if (isLong(outage)) this.#listeners.noteDown?.(upstream, undefined);
    return true;
  }
}

function isLong({ sinceMs, untilMs }: Outage): boolean {
  return untilMs - sinceMs >= DOWN_AFTER_MS;
}
