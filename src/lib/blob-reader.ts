/**
 * Random access to bytes of a known final size: a file, or a download that still grows.
 * Who opened a reader closes it; `close` may be called twice.
 */
export interface BlobReader {
  /** Final size in bytes. */
  readonly size: number;
  /**
   * Fills `buffer` from `position` with at least one byte and returns how many; 0 only at or past `size`.
   * On a growing download it waits until bytes are there (and, for the held-back end, verified).
   * Rejects when the bytes can never come: the caller must break its own answer off, not end it.
   */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /**
   * Readers that share the same object would read the same bytes at the same places, and each may have by now what the
   * others read: one reading serves them all. `undefined`: nobody else may have, or would get, what this one reads.
   */
  readonly shares?: object | undefined;
  /** All of it, where that is in memory anyway: who holds the reader holds these. */
  readonly bytes?: Uint8Array | undefined;
  close(): Promise<void>;
}
