import type { FileHandle } from 'node:fs/promises';
import { absentAsUndefined } from './error-code.ts';
import { openRegularFile } from './regular-file.ts';

/**
 * Reads a file that somebody else is still writing at its end. The name may be moved or removed meanwhile: what
 * was opened stays readable. Whether the writer is alive is not seen here.
 */
export class FollowedFile {
  readonly #file: FileHandle;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Bytes there now. */
  async length(): Promise<number> {
    return (await this.#file.stat()).size;
  }

  /** Fills `buffer` from `position` as far as bytes are there, and returns how many; 0 at the present end. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    const { bytesRead } = await this.#file.read(buffer, 0, buffer.byteLength, position);
    return bytesRead;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** `undefined` when there is no such file. */
export async function followFile(path: string): Promise<FollowedFile | undefined> {
  const file = await absentAsUndefined(openRegularFile(path));
  return file && new FollowedFile(file);
}
