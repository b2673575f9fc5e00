import { close, write, writeSync } from 'node:fs';
import { errorCode } from '../lib/error-code.ts';

/** A write per response would cost more than many responses do; what a crash may lose is bounded by `BATCH_MS` too. */
const BATCH_BYTES = 64 * 1024;

/** How long a line may wait when nothing follows it: whoever reads along should not notice. */
const BATCH_MS = 100;
/** How long lines wait that could not be written. */
const RETRY_MS = 1000;
/** The same for a pipe that is full for the moment. */
const PIPE_MS = 100;

/** What waits while it cannot be written: some thousand lines. What comes then is lost. */
const MAX_WAITING_BYTES = 1024 * 1024;

/** Whoever reads a pipe may be slow; at the end of the process he is waited for so long. */
const FLUSH_WITHIN_MS = 1000;
const PAUSE_MS = 10;

/**
 * Lines on their way to a file descriptor, gathered. What cannot be written is tried again each second and ends nothing:
 * the disk of the log may be full, and the server goes on. A pipe that nobody reads any more takes the rest.
 */
export class LineSink {
  readonly #fd: number;
  readonly #onLost: (lines: number) => void;
  #waiting: string[] = [];
  #waitingBytes = 0;
  #inFlight: Buffer | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** The last batch could not be written. */
  #isFailing = false;
  #lost = 0;
  #isUnread = false;
  #isClosing = false;
  readonly #atExit = (): void => this.flush();

  /** `onLost` is told how many lines there was no room for, when lines can be written again. */
  constructor(fd: number, onLost: (lines: number) => void) {
    this.#fd = fd;
    this.#onLost = onLost;
    process.once('exit', this.#atExit);
  }

  write(line: string): void {
    if (this.#isUnread) return;
    if (this.#waitingBytes > MAX_WAITING_BYTES) {
      this.#lost += 1;
      return;
    }
    this.#waiting.push(line);
    this.#waitingBytes += Buffer.byteLength(line);
    if (this.#waitingBytes >= BATCH_BYTES && !this.#isFailing) this.#begin();
    else this.#later(this.#isFailing ? RETRY_MS : BATCH_MS);
  }

  /** Writes what waits before it returns, as far as that is possible. */
  flush(): void {
    const untilMs = performance.now() + FLUSH_WITHIN_MS;
    for (let rest = this.#take(); rest.byteLength > 0; ) {
      try {
        rest = rest.subarray(writeSync(this.#fd, rest));
      } catch (error) {
        if (!isPassing(error) || performance.now() > untilMs) return this.#keep(rest);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
      }
    }
  }

  /** Writes what waits, as `flush` does, and closes the descriptor. No line may follow. */
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
    if (this.#waitingBytes >= BATCH_BYTES) this.#begin();
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

  /** The last write came back; `rest` is what it left. */
  #end(rest: Buffer): void {
    this.#keep(rest);
    this.flush();
    close(this.#fd, () => {});
  }

  #keep(batch: Buffer): void {
    this.#waiting.unshift(batch.toString());
    this.#waitingBytes += batch.byteLength;
  }

  #take(): Buffer {
    const batch = Buffer.from(this.#waiting.join(''));
    this.#waiting = [];
    this.#waitingBytes = 0;
    return batch;
  }
}

/** A pipe that is full for the moment. */
function isPassing(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'EAGAIN' || code === 'EBUSY';
}
