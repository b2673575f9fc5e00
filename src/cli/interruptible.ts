import { setMaxListeners } from 'node:events';
import { CommandError, EXIT } from './command.ts';

/**
 * Runs `work`. On Ctrl-C or SIGTERM it stops at the next step, cleans up, and reports what was done, as `soFar` returns
 * it.
 */
export async function interruptible<T>(
  work: (signal: AbortSignal) => Promise<T>,
  soFar: () => string = () => 'what has been done is kept',
): Promise<T> {
  const stopping = new AbortController();
  // Many things listen to it at once, which Node would otherwise report as a leak.
  setMaxListeners(0, stopping.signal);
  let exitCode: number = EXIT.failed;
  const stop = (name: NodeJS.Signals) => {
    exitCode = name === 'SIGTERM' ? EXIT.terminated : EXIT.interrupted;
    stopping.abort(new Error('stopped'));
  };
  process.once('SIGINT', stop).once('SIGTERM', stop);
  try {
    return await work(stopping.signal);
  } catch (error) {
    // Whatever was being awaited may reject with another error.
    throw stopping.signal.aborted ? new CommandError(`stopped; ${soFar()}`, exitCode) : error;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}
