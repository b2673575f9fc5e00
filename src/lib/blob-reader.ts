/** Bytes in memory that others own. Whoever gets them calls one of its functions, once, and does not look at them again. */
export interface LentBytes {
  readonly bytes: Uint8Array;
  /** Nobody uses them any more. */
  readonly giveBack: () => void;
  /** Somebody, such as the kernel, may still read them: their memory must not be used again. */
  readonly abandon: () => void;
}

/**
 * The end of a blob (all of a smaller one) that is held back from readers until what they have had of it is verified.
 * Wrong bytes can then never be received as a complete blob, and the delay is not noticeable.
 */
export const HOLD_BACK_BYTES = 64 * 1024;

/**
 * Random access to bytes of a known total size: of a file, or of a download in progress. Whoever opened a reader closes
 * it; `close` may be called twice.
 */
export interface BlobReader {
  /** The total size in bytes. */
  readonly size: number;
  /**
   * Fills `buffer` from `position` with at least one byte, and returns how many; 0 only at or after `size`. During a
   * download, waits until there are bytes (and until the end is verified). Rejects if the bytes will never come: the
   * caller must then abort its own response instead of ending it.
   */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /**
   * At least one byte from `position` on, without a copy, if these are in memory when they are there; waits and rejects as
   * `read` does. `undefined` if they have to be read. Absent if they never are in memory.
   */
  readonly lend?: ((position: number) => Promise<LentBytes | undefined>) | undefined;
  /**
   * Readers with the same object read the same bytes, and may have all that others of them have read: one read serves
   * them all. `undefined` if nobody else may have what this one reads.
   */
  readonly shares?: object | undefined;
  /**
   * A URL at which the client may read the bytes instead, for some minutes. Absent if there is none.
   */
  readonly url?: (() => Promise<string>) | undefined;
  /**
   * What it reads: a file, or the key of an object. Nothing else has this name while the reader is open. Absent if that has
   * none.
   */
  readonly origin?: string | undefined;
  /** All bytes, if they are in memory anyway. */
  readonly bytes?: Uint8Array | undefined;
  close(): Promise<void>;
}
