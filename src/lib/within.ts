/** The result of `within` when the time is over. */
export const LATE = Symbol('late');

/**
 * The result of `promise`, or LATE after `ms`. The work behind `promise` continues; if it fails later, that is ignored.
 */
export async function within<T>(promise: Promise<T>, ms: number): Promise<T | typeof LATE> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<typeof LATE>(resolve => {
    timer = setTimeout(() => resolve(LATE), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
