import { open, stat } from 'node:fs/promises';
import { absentAsUndefined } from './error-code.ts';
import { fileTrouble } from './file-trouble.ts';

/** A file that is not a regular one, or is too large. */
export class UnreadableFile extends Error {
  override readonly name = 'UnreadableFile';
  /** What is wrong, without the path, with which the message begins. */
  readonly reason: string;

  constructor(path: string, reason: string) {
    super(`${path} ${reason}`);
    this.reason = reason;
  }
}

/**
 * The text of a small file from outside; `undefined` if it does not exist. Refuses named pipes and devices, which may
 * never end, and files of more than `maxBytes`.
 */
export function readTextFile(path: string, maxBytes: number): Promise<string | undefined> {
  return absentAsUndefined(requireTextFile(path, maxBytes));
}

/** As `readTextFile`, but rejects with ENOENT if it does not exist. */
export async function requireTextFile(path: string, maxBytes: number): Promise<string> {
  // Opening a named pipe would wait for a writer.
  if (!(await stat(path)).isFile()) throw new UnreadableFile(path, 'is not a file');
  const file = await open(path);
  try {
    const { size } = await file.stat();
    if (size > maxBytes) throw new UnreadableFile(path, `is larger than ${maxBytes} bytes`);
    // One byte more than its size: a file that grows meanwhile is refused as well.
    const buffer = Buffer.allocUnsafe(Math.min(size, maxBytes) + 1);
    let length = 0;
    let read = 0;
    do {
      ({ bytesRead: read } = await file.read(buffer, length, buffer.length - length));
      length += read;
    } while (read > 0 && length < buffer.length);
    if (length === buffer.length) throw new UnreadableFile(path, 'grew while it was read');
    return buffer.toString('utf8', 0, length);
  } finally {
    await file.close();
  }
}

/** What is wrong with a file, to follow its path in a message. `error` is that of `requireTextFile`. */
export function textFileTrouble(error: unknown): string {
  return error instanceof UnreadableFile ? error.reason : `cannot be read: ${fileTrouble(error)}`;
}
