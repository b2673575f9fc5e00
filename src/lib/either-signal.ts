/**
 * Runs `work` with a signal that aborts, for the same reason, as soon as one of `signals` does. Unlike `AbortSignal.any`, it
 * leaves nothing on them: Node 20 keeps a reference on each of them for ever, which adds up on those that live as long as the
 * process.
 */
export async function withEither<T>(
  signals: readonly AbortSignal[],
  work: (either: AbortSignal) => Promise<T>,
): Promise<T> {
  const ending = new AbortController();
  const abort = (): void => ending.abort(signals.find(({ aborted }) => aborted)?.reason);
  for (const signal of signals) signal.addEventListener('abort', abort);
  try {
    if (signals.some(({ aborted }) => aborted)) abort();
    return await work(ending.signal);
  } finally {
    for (const signal of signals) signal.removeEventListener('abort', abort);
  }
}
