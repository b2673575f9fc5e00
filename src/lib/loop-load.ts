import { performance } from 'node:perf_hooks';

/** Which share of the time since it was last called the event loop was busy: 0 to 1. */
export type LoopLoad = () => number;

/**
 * Measures the load of this process's event loop from now on. It is busy, too, while it has something to do and the machine
 * does something else.
 */
export function measureLoopLoad(): LoopLoad {
  let before = performance.eventLoopUtilization();
  return () => {
    const now = performance.eventLoopUtilization();
    const { utilization } = performance.eventLoopUtilization(now, before);
    before = now;
    return utilization;
  };
}
