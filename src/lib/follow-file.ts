import type { FileHandle } from 'node:fs/promises';
import { absentAsUndefined } from './error-code.ts';
import { inodeOf, openRegularFile, type RegularFile } from './regular-file.ts';

/**
 * Reads a file that somebody else is still appending to. The name may be moved or removed meanwhile: the open file
 * stays readable. It cannot tell whether the writer is alive.
 */
export class FollowedFile {
  readonly #file: FileHandle;
  /** As of a `BlobReader`. */
  readonly origin: string;

  constructor({ file, stats }: RegularFile) {
    this.#file = file;
    this.origin = inodeOf(stats);
  }

  /** Its current length. */
  async length(): Promise<number> {
    return (await this.#file.stat()).size;
  }

  /** Fills `buffer` from `position` with what is there, and returns how many bytes; 0 at the current end. */
  async read(buffer: Uint8Array, position: number): Promise<number> {
    const { bytesRead } = await this.#file.read(buffer, 0, buffer.byteLength, position);
    return bytesRead;
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** `undefined` if there is no such file. */
export async function followFile(path: string): Promise<FollowedFile | undefined> {
  const opened = await absentAsUndefined(openRegularFile(path));
  return opened && new FollowedFile(opened);
}
