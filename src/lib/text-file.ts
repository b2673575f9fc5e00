import { open, stat } from 'node:fs/promises';
import { absentAsUndefined } from './error-code.ts';

/** It is not a regular file, or is too large. */
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
export async function readTextFile(path: string, maxBytes: number): Promise<string | undefined> {
  const found = await absentAsUndefined(stat(path));
  if (found === undefined) return undefined;
  if (!found.isFile()) throw new UnreadableFile(path, 'is not a file');
  const file = await absentAsUndefined(open(path));
  if (file === undefined) return undefined;
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
