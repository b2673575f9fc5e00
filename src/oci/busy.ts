import { MemoryBusy } from '../lib/memory-budget.ts';
import { OciError } from './errors.ts';

/**
 * Runs `work`, and turns a MemoryBusy that it throws into an OciError with Retry-After: TOOMANYREQUESTS (429) if the
 * client has used up its own share of the memory, otherwise UNAVAILABLE (503).
 */
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
