import { setMaxListeners } from 'node:events';
import { CommandError } from './command.ts';

/** Runs `work` until it is done or Ctrl-C or SIGTERM ask for its end; then it stops at the next step, and says so. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stopping = new AbortController();
  // All that is under way at once listens to it; Node takes more than ten for a leak, and says so.
  setMaxListeners(0, stopping.signal);
  const stop = () => stopping.abort(new CommandError('stopped; what was done until now stays done'));
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    return await work(stopping.signal);
  } catch (error) {
    // What was waited for rejects with an error of its own kind.
    throw stopping.signal.aborted ? stopping.signal.reason : error;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}
