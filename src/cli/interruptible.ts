import { setMaxListeners } from 'node:events';
import { CommandError, EXIT } from './command.ts';

/**
 * Runs `work` until it is done or Ctrl-C or SIGTERM ask for its end; then it stops at the next step, cleans up, and says
 * so. `soFar`: what had been done by then.
 */
export async function interruptible<T>(
  work: (signal: AbortSignal) => Promise<T>,
  soFar: () => string = () => 'what has been done is kept',
): Promise<T> {
  const stopping = new AbortController();
  // All that is under way at once listens to it; Node takes more than ten for a leak, and says so.
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
    // What was waited for rejects with an error of its own kind.
    throw stopping.signal.aborted ? new CommandError(`stopped; ${soFar()}`, exitCode) : error;
  } finally {
    process.off('SIGINT', stop).off('SIGTERM', stop);
  }
}
