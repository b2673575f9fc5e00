import { constants, createReadStream, openSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Socket } from 'node:net';
import { addAbortSignal, type Readable, type Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { errorCode } from './error-code.ts';

// A file stream would wait for the other end of a pipe in a thread, which neither a signal nor the end of the process
// interrupts.

/** How soon a reader is noticed. */
const READER_POLL_MS = 50;

/** Reads a named pipe until all writers have closed it, or `signal` aborts. */
export function readPipe(path: string, signal: AbortSignal): Readable {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return addAbortSignal(signal, new Socket({ fd, readable: true, writable: false }));
}

/** Reads a file or, as `readPipe`, a named pipe, until `signal` aborts. Rejects if there is nothing at `path`. */
export async function readFileOrPipe(path: string, signal: AbortSignal): Promise<Readable> {
  return (await stat(path)).isFIFO() ? readPipe(path, signal) : createReadStream(path, { signal });
}

/** Opens a named pipe for writing, once somebody reads from it. Rejects if `signal` aborts before. */
export async function openPipe(path: string, signal: AbortSignal): Promise<Writable> {
  for (;;) {
    const fd = openForReader(path);
    if (fd !== undefined) return new Socket({ fd, readable: false, writable: true });
    await delay(READER_POLL_MS, undefined, { signal });
  }
}

/** `undefined` while nobody reads (fifo(7)). */
function openForReader(path: string): number | undefined {
  try {
    return openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (errorCode(error) === 'ENXIO') return undefined;
    throw error;
  }
}
