/** Something that changes: those that wait for it look again each time. */
export class Changes {
  readonly #listeners = new Set<() => void>();

  /** Has everybody look again. */
  tell(): void {
    for (const listener of this.#listeners) listener();
  }

  /** Calls `listener` at each change until the returned function is called. */
  listen(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /**
   * Resolves with the first result of `look` other than `undefined`, now or after a change. Rejects if `look` throws, or
   * with the reason of `signal`.
   */
  until<T>(look: () => T | undefined, signal?: AbortSignal): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (conclude: () => void): void => {
        leave();
        signal?.removeEventListener('abort', lookAgain);
        conclude();
      };
      const lookAgain = (): void => {
        try {
          const found = look();
          if (signal?.aborted) settle(() => reject(signal.reason));
          else if (found !== undefined) settle(() => resolve(found));
        } catch (error) {
          settle(() => reject(error));
        }
      };
      const leave = this.listen(lookAgain);
      signal?.addEventListener('abort', lookAgain);
      lookAgain();
    });
  }
}
