/** Errors of Linux file systems that Node has no name for: it gives them the code `Unknown system error -116`. */
const NAMELESS: Readonly<Record<number, string>> = { [-116]: 'ESTALE', [-117]: 'EUCLEAN' };

/** The `code` that Node and SQLite put on their errors (`ENOENT`, `SQLITE_BUSY`); `undefined` when there is none. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) {
    return undefined;
  }
  const named = 'errno' in error && typeof error.errno === 'number' ? NAMELESS[error.errno] : undefined;
  return named ?? (typeof error.code === 'string' ? error.code : undefined);
}

/** Awaits `operation`; `undefined` instead of a rejection with `ENOENT`. Everything else that goes wrong is thrown. */
export async function absentAsUndefined<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') {
      return undefined;
    }
    throw error;
  }
}
