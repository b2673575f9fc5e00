import { type Clock, systemClock, type Timer } from './clock.ts';

/** The result of `within` when the time is over. */
export const LATE = Symbol('late');

/**
 * The result of `promise`, or LATE after `ms`. The work behind `promise` continues; if it fails later, that is ignored.
 */
export async function within<T>(
  promise: Promise<T>,
  ms: number,
  clock: Clock = systemClock,
): Promise<T | typeof LATE> {
  let timer: Timer | undefined;
  const late = new Promise<typeof LATE>(resolve => {
    timer = clock.after(ms, () => resolve(LATE));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer?.cancel();
  }
}
