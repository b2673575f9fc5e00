/** What `within` gives when the time is over. */
export const LATE = Symbol('late');

/** `promise`, or LATE after `ms`. What is behind `promise` goes on; should it fail later, nobody hears of it here. */
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
