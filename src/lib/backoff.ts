/** Delays after the first failure, the second and so on. */
export interface BackoffSchedule {
  readonly firstMs: number;
  readonly maxMs: number;
  /** Default 2. */
  readonly factor?: number;
}

/**
 * The delay after `failures` failures in a row: `firstMs` after one, growing by `factor` up to `maxMs`; 0 after none.
 */
export function backoffMs(schedule: BackoffSchedule, failures: number): number {
  if (failures <= 0) return 0;
  return Math.min(schedule.maxMs, schedule.firstMs * (schedule.factor ?? 2) ** (failures - 1));
}

/** `ms`, randomly changed by up to `share` of it, so that those who failed together do not retry together. */
export function jittered(ms: number, share = 0.2, random: () => number = Math.random): number {
  return ms * (1 + share * (2 * random() - 1));
}
