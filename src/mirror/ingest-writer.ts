import type { Ingest } from '../blobs/blob-store.ts';

/** A write is worth its system call from here on. */
const WRITE_BYTES = 1024 * 1024;
/** What may be waiting for a slow disk; beyond it the download waits. Bounds the memory of one Fill. */
const MAX_PENDING_BYTES = 4 * 1024 * 1024;
/** The first bytes are written as they come: whoever joins now waits for them. */
const WRITE_AT_ONCE_BYTES = 256 * 1024;
/** The longest that the bytes of a slow upstream are kept from readers, ms. */
const MAX_DELAY_MS = 20;

/**
 * Gathers the chunks of a body into big writes, one in flight while the next collects. After each, `written` is told
 * the length so far. The first failed write ends it: every later call rejects with the same.
 */
export class IngestWriter {
  readonly #ingest: Ingest;
  readonly #written: (length: number) => void;
  #length: number;
  #pending: Uint8Array[] = [];
  #pendingBytes = 0;
  #delay: NodeJS.Timeout | undefined;
  /** The delay ran out while a write was in flight: the next one begins without it. */
  #overdue = false;
  #inFlight: Promise<void> | undefined;
  #failure: { readonly cause: unknown } | undefined;

  constructor(ingest: Ingest, written: (length: number) => void) {
    this.#ingest = ingest;
    this.#written = written;
    this.#length = ingest.offset;
  }

  /** Bytes taken over, written or not: where the download goes on. */
  get length(): number {
    return this.#length;
  }

  /** Takes `chunk` over; resolves when more may come. */
  async add(chunk: Uint8Array): Promise<void> {
    this.#throwFailure();
    this.#pending.push(chunk);
    this.#pendingBytes += chunk.byteLength;
    this.#length += chunk.byteLength;
    this.#writeIfDue();
    while (this.#pendingBytes >= MAX_PENDING_BYTES && this.#failure === undefined) await this.#inFlight;
    this.#throwFailure();
  }

  /** Resolves when everything taken over is written. To be called before giving up too, so that what came is kept. */
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

  /** Never rejects: the failure is for whoever adds or drains next. */
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
