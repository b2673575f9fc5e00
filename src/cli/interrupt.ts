import { CommandError } from './command.ts';

/**
 * Lets the first Ctrl-C or SIGTERM end `act` by its signal, so that what it opened is closed; a second one ends the
 * process at once.
 */
export async function interruptible<Result>(act: (signal: AbortSignal) => Promise<Result>): Promise<Result> {
  const stopping = new AbortController();
  const stop = (): void => stopping.abort(new CommandError('stopped; what is here already is kept'));
  process.once('SIGINT', stop);
  process.once('SIGTERM', stop);
  try {
    return await act(stopping.signal);
  } finally {
    process.off('SIGINT', stop);
    process.off('SIGTERM', stop);
  }
}
