import { close, write, writeSync } from 'node:fs';
import { errorCode } from '../lib/error-code.ts';

/** A write per response would cost more than many responses do. `BATCH_MS` also limits what a crash may lose. */
const BATCH_BYTES = 64 * 1024;

/** What lines wait in at first: a batch, and the line that completes it. */
const WAITING_BYTES = 2 * BATCH_BYTES;
/** Of a line, for each of its UTF-16 code units. */
const MAX_UNIT_BYTES = 3;
const LINE_FEED = 0x0a;

/** How long a line may wait for others: too short to be noticed. */
const BATCH_MS = 100;
/** The delay before a failed write is repeated. */
const RETRY_MS = 1000;
/** The same for a pipe that is currently full. */
const PIPE_MS = 100;

/** How much is kept while it cannot be written: some thousand lines. Further lines are lost. */
const MAX_WAITING_BYTES = 1024 * 1024;

/** How long to wait at the end of the process for a slow reader of a pipe. */
const FLUSH_WITHIN_MS = 1000;
const PAUSE_MS = 10;

/**
 * Writes lines to a file descriptor, in batches. Lines wait as bytes: as strings, each would outlive some collections of
 * garbage, which are short because hardly anything does. A failed write is repeated every second and has no other effect: the
 * disk of the log may be full, and the server continues. If nobody reads a pipe any more, the rest is dropped.
 */
export class LineSink {
  readonly #fd: number;
  readonly #onLost: (lines: number) => void;
  readonly #maxWriteBytes: number;
  #waiting = Buffer.allocUnsafeSlow(WAITING_BYTES);
  #waitingBytes = 0;
  #inFlight: Buffer | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Whether the last batch could not be written. */
  #isFailing = false;
  #lost = 0;
  #isUnread = false;
  #isClosing = false;
  readonly #atExit = (): void => this.flush();

  /**
   * `onLost` is called with the number of dropped lines when lines can be written again. `maxWriteBytes`: one write has
   * no more than this, and only whole lines, unless a single line is longer.
   */
  constructor(fd: number, onLost: (lines: number) => void, maxWriteBytes = Number.POSITIVE_INFINITY) {
    this.#fd = fd;
    this.#maxWriteBytes = maxWriteBytes;
    this.#onLost = onLost;
    process.once('exit', this.#atExit);
  }

  write(line: string): void {
    if (this.#isUnread) return;
    if (this.#waitingBytes > MAX_WAITING_BYTES) {
      this.#lost += 1;
      return;
    }
    this.#makeRoom(line.length * MAX_UNIT_BYTES);
    this.#waitingBytes += this.#waiting.write(line, this.#waitingBytes);
    if (this.#waitingBytes >= BATCH_BYTES && !this.#isFailing) this.#begin();
    else this.#later(this.#isFailing ? RETRY_MS : BATCH_MS);
  }

  /** Writes what is buffered before it returns, as far as possible. */
  flush(): void {
    const untilMs = performance.now() + FLUSH_WITHIN_MS;
    for (let rest = this.#take(); rest.byteLength > 0; ) {
      try {
        rest = rest.subarray(writeSync(this.#fd, rest));
        if (rest.byteLength === 0) rest = this.#take();
      } catch (error) {
        if (!isPassing(error) || performance.now() > untilMs) return this.#keep(rest);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
      }
    }
  }

  /** Like `flush`, and then closes the descriptor. No line may follow. */
  close(): void {
    process.off('exit', this.#atExit);
    clearTimeout(this.#timer);
    this.flush();
    this.#isClosing = true;
    if (this.#inFlight === undefined) close(this.#fd, () => {});
  }

  #later(delayMs: number): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#begin();
    }, delayMs).unref();
  }

  #begin(): void {
    if (this.#inFlight !== undefined) return;
    const batch = this.#take();
    if (batch.byteLength > 0) this.#send(batch);
  }

  #send(batch: Buffer): void {
    this.#inFlight = batch;
    write(this.#fd, batch, (error, written) => {
      if (this.#isClosing) this.#end(error === null ? batch.subarray(written) : batch);
      else if (error === null) this.#sent(batch.subarray(written));
      else this.#failed(error, batch);
    });
  }

  #sent(rest: Buffer): void {
    if (rest.byteLength > 0) return this.#send(rest);
    this.#inFlight = undefined;
    this.#isFailing = false;
    if (this.#lost > 0) {
      const lost = this.#lost;
      this.#lost = 0;
      this.#onLost(lost);
    }
    if (this.#waitingBytes >= BATCH_BYTES || this.#waitingBytes > this.#maxWriteBytes) this.#begin();
    // Their time may have come while this batch was being written.
    else if (this.#waitingBytes > 0) this.#later(BATCH_MS);
  }

  #failed(error: NodeJS.ErrnoException, batch: Buffer): void {
    this.#inFlight = undefined;
    if (errorCode(error) === 'EPIPE') {
      this.#isUnread = true;
      this.#take();
      return;
    }
    this.#isFailing = true;
    this.#keep(batch);
    this.#later(isPassing(error) ? PIPE_MS : RETRY_MS);
  }

  /** Called after the last write; `rest` is what it did not write. */
  #end(rest: Buffer): void {
    this.#keep(rest);
    this.flush();
    close(this.#fd, () => {});
  }

  #makeRoom(bytes: number): void {
    const wanted = this.#waitingBytes + bytes;
    if (wanted <= this.#waiting.byteLength) return;
    const larger = Buffer.allocUnsafeSlow(2 * wanted);
    this.#waiting.copy(larger, 0, 0, this.#waitingBytes);
    this.#waiting = larger;
  }

  #keep(batch: Buffer): void {
    this.#waiting = Buffer.concat([batch, this.#waiting.subarray(0, this.#waitingBytes)]);
    this.#waitingBytes = this.#waiting.byteLength;
  }

  /** All that is waiting, as far as one write may have it. */
  #take(): Buffer {
    const waiting = this.#waiting.subarray(0, this.#waitingBytes);
    const batch = Buffer.from(waiting.subarray(0, this.#batchBytes(waiting)));
    this.#waiting.copyWithin(0, batch.byteLength, this.#waitingBytes);
    this.#waitingBytes -= batch.byteLength;
    if (this.#waitingBytes === 0 && this.#waiting.byteLength > WAITING_BYTES)
      this.#waiting = Buffer.allocUnsafeSlow(WAITING_BYTES);
    return batch;
  }

  #batchBytes(waiting: Buffer): number {
    if (waiting.byteLength <= this.#maxWriteBytes) return waiting.byteLength;
    const last = waiting.subarray(0, this.#maxWriteBytes).lastIndexOf(LINE_FEED);
    const end = last === -1 ? waiting.indexOf(LINE_FEED) : last;
    return end === -1 ? waiting.byteLength : end + 1;
  }
}

/** Whether the error means that a pipe is currently full. */
function isPassing(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'EAGAIN' || code === 'EBUSY';
}
