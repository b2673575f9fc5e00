import { MemoryBusy } from '../lib/memory-budget.ts';
import { OciError } from './errors.ts';

/** Runs `work`; that there is no memory for a body now becomes 429 for who has his share, else 503, with Retry-After. */
export async function refusingWhenBusy<T>(work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof MemoryBusy)) throw error;
    throw new OciError(error.limit === 'share' ? 'TOOMANYREQUESTS' : 'UNAVAILABLE', {
      message: error.message,
      headers: { 'Retry-After': String(error.retryAfterS) },
    });
  }
}
