/**
 * Calls `work` for each item, for at most `atOnce` of them at a time, and takes no item before there is room for it. Once one
 * rejects, or the items do, no further item is begun: this rejects with the first error when all that has begun has ended.
 */
export async function forEachAtOnce<T>(
  items: AsyncIterable<T>,
  atOnce: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const running = new Set<Promise<void>>();
  let failure: { readonly error: unknown } | undefined;
  const begin = (item: T) => {
    const done = work(item)
      .catch((error: unknown) => {
        failure ??= { error };
      })
      .finally(() => running.delete(done));
    running.add(done);
  };
  try {
    for await (const item of items) {
      // It may have come while the item was awaited.
      if (failure === undefined) begin(item);
      if (running.size >= atOnce) await Promise.race(running);
      if (failure !== undefined) break;
    }
  } finally {
    await Promise.all(running);
  }
  if (failure !== undefined) throw failure.error;
}
