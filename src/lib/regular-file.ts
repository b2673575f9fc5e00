import { closeSync, constants, fstatSync, openSync, type Stats } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';

/** The `code` of the error for a folder, a named pipe or a device instead of a file. */
export const NOT_A_REGULAR_FILE = 'ERR_NOT_A_REGULAR_FILE';

/** Opening a named pipe would wait for a writer, perhaps for ever; a link could lead outside the folder. */
const READ_FLAGS = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** An open file, and what it was when it was opened. */
export interface RegularFile {
  readonly file: FileHandle;
  readonly stats: Stats;
}

/**
 * Opens the regular file `path` for reading. Never waits and never follows a link: rejects with ELOOP for a symbolic
 * link, with `NOT_A_REGULAR_FILE` or a code of open(2) for anything else that is not a file.
 */
export async function openRegularFile(path: string): Promise<RegularFile> {
  const file = await open(path, READ_FLAGS);
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw notRegular(path);
    return { file, stats };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** As `openRegularFile`, for a thread that may block; returns the descriptor. */
export function openRegularFileSync(path: string): number {
  const descriptor = openSync(path, READ_FLAGS);
  try {
    if (!fstatSync(descriptor).isFile()) throw notRegular(path);
    return descriptor;
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
}

/** Which file it is, as long as it is open. */
export function inodeOf({ dev, ino }: Stats): string {
  return `${dev} ${ino}`;
}

function notRegular(path: string): Error {
  return Object.assign(new Error(`${path} is not a regular file`), { code: NOT_A_REGULAR_FILE });
}
