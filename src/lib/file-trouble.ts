import { errorCode } from './error-code.ts';

/** Why a file cannot be read or written, by the code of the system call. */
const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'it does not exist',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EISDIR: 'it is a folder',
  ENXIO: 'it is a pipe that nobody reads, or a socket',
  ENOTDIR: 'a part of its path is not a folder',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  EROFS: 'the disk is read-only',
};

/** Why a system call failed, in words and with its code; the message of any other error. */
export function fileTrouble(error: unknown): string {
  const code = errorCode(error) ?? '';
  const reason = REASONS[code];
  if (reason !== undefined) return `${reason} (${code})`;
  return error instanceof Error ? error.message : String(error);
}

/**
 * The result of an operation on a file that the user named. If a system call fails, rejects with the same code and a
 * message that begins with `what`, such as `--from: list.txt cannot be read`.
 */
export async function namedFile<T>(what: string, operation: Promise<T>): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    throw namedTrouble(what, error);
  }
}

/** The error of a failed system call with the same code and a message that begins with `what`; any other as it is. */
export function namedTrouble(what: string, error: unknown): unknown {
  if (!(error instanceof Error && 'syscall' in error)) return error;
  const { syscall } = error;
  return Object.assign(new Error(`${what}: ${fileTrouble(error)}`, { cause: error }), {
    code: errorCode(error),
    syscall,
  });
}
