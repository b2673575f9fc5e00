import type { Readable } from 'node:stream';
import type { Ingest } from '../blobs/spool.ts';
import { OciError } from '../oci/errors.ts';

/**
 * How much is collected before it is written: each write wakes a thread, so large batches take a sixth less CPU time.
 * One batch is written while the next is collected, so an upload takes about twice this; many concurrent uploads share
 * a limit, down to a minimum each.
 */
const MAX_BATCH_BYTES = 1024 * 1024;
const MIN_BATCH_BYTES = 256 * 1024;
const ALL_BATCHES_BYTES = 8 * 1024 * 1024;

/** How long a smaller batch is kept in memory: thousands of clients may pause in the middle of one. */
const MAX_DELAY_MS = 100;

/** A connection on which nothing arrives for this long is considered dead. */
export const BODY_IDLE_MS = 60_000;

/** Limits on the body of a request. */
export interface BodyLimits {
  /** A body of which nothing arrives for this long is aborted, with its connection. */
  readonly idleMs: number;
  /** A longer body is SIZE_INVALID. */
  readonly maxBytes: number;
  /** After `idleMs`, a body that is slower than this on average is aborted as well; default 0. */
  readonly minBytesPerS?: number;
}

/**
 * Appends the body of a request to `ingest`, no faster than it can be written. If the client disconnects, what it sent
 * is written before this throws, so that it can resume there. The body is not destroyed, since the response is sent on
 * its connection.
 */
export async function takeIn(
  body: Readable,
  ingest: Pick<Ingest, 'write'>,
  limits: BodyLimits,
): Promise<void> {
  const batches = new Batches(ingest);
  try {
    for await (const chunk of readChunks(body, limits)) await batches.add(chunk);
  } finally {
    await batches.end();
  }
}

/** Collects chunks, and writes them in batches, one after the other, until `end`. */
class Batches {
  /** Of all uploads in progress. */
  static #count = 0;
  readonly #ingest: Pick<Ingest, 'write'>;
  #chunks: Uint8Array[] = [];
  #bytes = 0;
  #delay: NodeJS.Timeout | undefined;
  #writing: Promise<void> = Promise.resolve();
  #hasFailed = false;

  constructor(ingest: Pick<Ingest, 'write'>) {
    this.#ingest = ingest;
    Batches.#count += 1;
  }

  get #maxBytes(): number {
    return Math.max(MIN_BATCH_BYTES, Math.min(MAX_BATCH_BYTES, ALL_BATCHES_BYTES / Batches.#count));
  }

  /** Resolves when more may be added. Rejects if an earlier batch could not be written. */
  async add(chunk: Uint8Array): Promise<void> {
    if (this.#hasFailed) return this.#writing;
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    this.#delay ??= setTimeout(() => void this.#writeBehind(), MAX_DELAY_MS);
    if (this.#bytes < this.#maxBytes) return;
    await this.#writing;
    this.#write();
  }

  /** Writes what is left. Rejects if any batch could not be written. */
  async end(): Promise<void> {
    Batches.#count -= 1;
    this.#write();
    await this.#writing;
  }

  /** A failure is reported by the next call. */
  async #writeBehind(): Promise<void> {
    await this.#writing.catch(() => undefined);
    this.#write();
  }

  #write(): void {
    clearTimeout(this.#delay);
    this.#delay = undefined;
    if (this.#bytes === 0) return;
    const chunks = this.#chunks;
    this.#chunks = [];
    this.#bytes = 0;
    this.#writing = this.#writing.then(() => this.#ingest.write(chunks));
    // The next call rejects with it; until then it must not count as unhandled.
    this.#writing.catch(() => {
      this.#hasFailed = true;
    });
  }
}

/**
 * Reads a whole small body; SIZE_INVALID as soon as it is longer than `maxBytes`. `lease` is the memory that it may
 * use: a longer body waits until it has enough for `maxBytes`.
 */
export async function readBody(
  body: Readable,
  limits: BodyLimits,
  lease: { readonly bytes: number; grow(bytes: number): Promise<void> },
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let total = 0;
  for await (const chunk of readChunks(body, limits)) {
    total += chunk.length;
    if (total > lease.bytes) await lease.grow(limits.maxBytes);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** The chunks of the body. The idle timer runs only while waiting for the client, not for the disk. */
async function* readChunks(
  body: Readable,
  { idleMs, maxBytes, minBytesPerS = 0 }: BodyLimits,
): AsyncGenerator<Uint8Array> {
  const events = new BodyEvents(body);
  const beganAtMs = performance.now();
  let total = 0;
  try {
    for (;;) {
      const chunk: Uint8Array | null = body.destroyed ? null : body.read();
      if (chunk === null) {
        if (body.readableEnded) return;
        await events.next(idleMs);
        continue;
      }
      total += chunk.length;
      if (total > maxBytes) {
        throw new OciError('SIZE_INVALID', { message: `the body is longer than ${maxBytes} bytes` });
      }
      const elapsedMs = performance.now() - beganAtMs;
      if (elapsedMs > idleMs && total * 1000 < minBytesPerS * elapsedMs) {
        body.destroy();
        throw brokenOff(new Error(`fewer than ${minBytesPerS} bytes per second`));
      }
      yield chunk;
    }
  } finally {
    events.stop();
  }
}

/** Waits for the events of a body. Its own async iterator does the same with more listeners and promises. */
class BodyEvents {
  readonly #body: Readable;
  #resolve = (): void => {};
  readonly #onEvent = (): void => this.#resolve();

  constructor(body: Readable) {
    this.#body = body;
    for (const event of EVENTS) body.on(event, this.#onEvent);
  }

  /**
   * Resolves when there may be more to read, or the body has ended. Rejects if it broke off, or is broken off here
   * because nothing arrived for `idleMs`.
   */
  async next(idleMs: number): Promise<void> {
    const body = this.#body;
    if (!body.destroyed) {
      const idle = setTimeout(() => body.destroy(new Error(`no bytes for ${idleMs / 1000} s`)), idleMs);
      await new Promise<void>(resolve => {
        this.#resolve = resolve;
      });
      clearTimeout(idle);
    }
    if (body.destroyed && !body.readableEnded) throw brokenOff(body.errored ?? new Error('closed'));
  }

  /** A body that broke off may emit its error after this, and is never read again. */
  stop(): void {
    if (this.#body.destroyed) return;
    for (const event of EVENTS) this.#body.off(event, this.#onEvent);
  }
}

/** A body that is destroyed may have neither `end` nor `error`, but always has `close`. */
const EVENTS = ['readable', 'end', 'error', 'close'] as const;

function brokenOff(cause: unknown): OciError {
  return new OciError('BLOB_UPLOAD_INVALID', { message: 'the body ended early', cause });
}
