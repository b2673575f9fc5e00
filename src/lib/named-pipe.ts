import { constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { addAbortSignal, type Readable, type Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { errorCode } from './error-code.ts';

// A file stream waits for the other end of a pipe in a thread, which neither a signal nor the end of the process stops.

/** How soon it is seen that somebody reads. */
const READER_POLL_MS = 50;

/** What comes out of a named pipe, until all who write into it have left or `signal` gives it up. */
export function readPipe(path: string, signal: AbortSignal): Readable {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return addAbortSignal(signal, new Socket({ fd, readable: true, writable: false }));
}

/** The way into a named pipe, once somebody reads from it. Rejects when `signal` gives it up before. */
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
