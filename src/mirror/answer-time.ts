import { OciError } from '../oci/errors.ts';

/**
 * Newer containerd gives up 30 s after its request, older containerd and Docker never: by then everybody has an
 * answer from us, whatever upstream does.
 */
export const ANSWER_WITHIN_MS = 20_000;
/** So long upstream may take to say what a tag means before what is held is served instead. */
export const STALE_AFTER_MS = 5_000;
/** Told to who got no answer in time: about as long as it takes a broken connection to be given up. */
const RETRY_AFTER_S = 5;

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

/** `promise`, or 503 with Retry-After when who asked at `sinceMs` (of `performance.now()`) can be kept waiting no longer. */
export async function answered<T>(promise: Promise<T>, sinceMs = performance.now()): Promise<T> {
  const answer = await within(promise, Math.max(0, sinceMs + ANSWER_WITHIN_MS - performance.now()));
  if (answer === LATE) throw tooLate();
  return answer;
}

/** What a client hears that got no answer in time. */
export function tooLate(): OciError {
  return new OciError('UNAVAILABLE', {
    message: 'upstream has not answered in time; it is still being waited for, so try again',
    headers: { 'Retry-After': String(RETRY_AFTER_S) },
  });
}
