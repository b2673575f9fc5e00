import type { Ingest } from '../../blobs/spool.ts';

/**
 * Writes the pieces of a body, one after the other, while the connection collects the next. Calls `written` with the
 * total length after each. The first failed write ends it: all later calls reject with its error.
 */
export class IngestWriter {
  readonly #ingest: Ingest;
  readonly #written: (length: number) => void;
  #failure: { readonly cause: unknown } | undefined;

  constructor(ingest: Ingest, written: (length: number) => void) {
    this.#ingest = ingest;
    this.#written = written;
  }

  /** Bytes that are written: where the download continues. */
  get length(): number {
    return this.#ingest.offset;
  }

  /** Resolves when the piece is written, and its memory may be used for something else. */
  async add(piece: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    try {
      await this.#ingest.write([piece]);
    } catch (cause) {
      this.#failure = { cause };
      throw cause;
    } finally {
      this.#written(this.#ingest.offset);
    }
  }
}
