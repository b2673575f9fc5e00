import type { Ingest } from '../../blobs/spool.ts';

/** Chunks are collected up to this size before they are written. */
const WRITE_BYTES = 1024 * 1024;
/** How much may wait for a slow disk before the download has to wait. Bounds the memory of a Fill. */
const MAX_PENDING_BYTES = 4 * 1024 * 1024;
/** The first bytes are written as they come, since clients are waiting for them. */
const WRITE_AT_ONCE_BYTES = 256 * 1024;
/** How long bytes from a slow upstream may be delayed, ms. */
const MAX_DELAY_MS = 20;

/**
 * Collects the chunks of a body into large writes, one of which is in progress at a time. Calls `written` with the
 * total length after each. The first failed write ends it: all later calls reject with its error.
 */
export class IngestWriter {
  readonly #ingest: Ingest;
  readonly #written: (length: number) => void;
  #length: number;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #delay: NodeJS.Timeout | undefined;
  /** Set if the delay expired during a write: the next write then starts without a delay. */
  #overdue = false;
  #inFlight: Promise<void> | undefined;
  #failure: { readonly cause: unknown } | undefined;

  constructor(ingest: Ingest, written: (length: number) => void) {
    this.#ingest = ingest;
    this.#written = written;
    this.#length = ingest.offset;
  }

  /** Bytes that were added, written or not: where the download continues. */
  get length(): number {
    return this.#length;
  }

  /** Adds `chunk`; resolves when more may be added. */
  async add(chunk: Uint8Array): Promise<void> {
    this.#throwFailure();
    this.#pending.push(chunk);
    this.#pendingBytes += chunk.byteLength;
    this.#length += chunk.byteLength;
    this.#writeIfDue();
    while (this.#pendingBytes >= MAX_PENDING_BYTES && this.#failure === undefined) await this.#inFlight;
    this.#throwFailure();
  }

  /** Resolves when everything that was added is written. Call it also before giving up, so that nothing is lost. */
  async drain(): Promise<void> {
    while (this.#failure === undefined && (this.#inFlight !== undefined || this.#pendingBytes > 0)) {
      this.#write();
      await this.#inFlight;
    }
    clearTimeout(this.#delay);
    this.#throwFailure();
  }

  #writeIfDue(): void {
    const due =
      this.#overdue || this.#pendingBytes >= WRITE_BYTES || this.#ingest.offset < WRITE_AT_ONCE_BYTES;
    if (due) this.#write();
    else this.#delay ??= setTimeout(() => this.#runOut(), MAX_DELAY_MS);
  }

  #runOut(): void {
    this.#overdue = true;
    this.#write();
  }

  #write(): void {
    if (this.#inFlight !== undefined || this.#pendingBytes === 0 || this.#failure !== undefined) return;
    clearTimeout(this.#delay);
    this.#delay = undefined;
    this.#overdue = false;
    const chunks = this.#pending;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#inFlight = this.#writeOut(chunks);
  }

  /** Never rejects: the next `add` or `drain` gets the error. */
  async #writeOut(chunks: readonly Uint8Array[]): Promise<void> {
    try {
      await this.#ingest.write(chunks);
    } catch (cause) {
      this.#failure = { cause };
    }
    this.#inFlight = undefined;
    this.#written(this.#ingest.offset);
    if (this.#pendingBytes > 0 && this.#failure === undefined) this.#writeIfDue();
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw this.#failure.cause;
  }
}
